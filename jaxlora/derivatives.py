"""Derivatives of programs at concrete arguments, themselves compiled programs.

What JAX differentiates outside of jit it compiles without the options of `programs`, and runs on
all replicates at once; here both derivatives of a program run as it does itself, by groups of
replicates in threads. Reverse mode computes everything in one pass, and keeps nothing from the
forward pass. Inside jit and vmap, and for derivatives of derivatives, JAX's own rules apply.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .programs import (
    Program,
    frozen,
    group_rows,
    inside_jit,
    is_traced,
    run_groups,
)

Leaves = list[Any]
Chosen = tuple[int, ...]  # numbers of results


def with_derivatives(program: Program, replicated: Any, shared: tuple, options: Any) -> Any:
    """`program` of `replicated`, whose leaves have a leading axis of replicates, and of `shared`.

    The program has to take every replicate by itself, and its results to have that axis too.
    """
    arguments = (replicated, shared)
    if inside_jit() or is_traced(frozen(arguments)):
        return program(replicated, *shared, options)
    moving, fixed = eqx.partition(arguments, lambda leaf: isinstance(leaf, Tracer))
    leaves, structure = jax.tree.flatten(moving)

    def run(*leaves):
        replicated, shared = eqx.combine(structure.unflatten(leaves), fixed)
        by_groups = program if is_traced(leaves) else program.in_groups
        return by_groups(replicated, *shared, options)

    if not leaves:
        return run()
    run_with_derivatives = jax.custom_jvp(run)

    @run_with_derivatives.defjvp
    def _(primals, tangents):
        if is_traced(primals):  # by an outer derivative
            return jax.jvp(run, primals, tangents)
        values = run(*primals)
        derivative = Derivative(program, structure.unflatten(primals), fixed, options, values)
        return values, derivative.of_values(_push.bind(*tangents, **derivative.attributes))

    return run_with_derivatives(*leaves)


class Derivative:
    """The derivative of a program at concrete arguments, a linear map between lists of arrays.

    From tangents of the leaves of `moving` to tangents of the real leaves of `values`, or of those
    that `chosen` counts. Arrays have so many `levels` of batch axes in front of their own.
    """

    def __init__(self, program: Program, moving, fixed, options, values):
        self.program, self.moving, self.fixed, self.options = program, moving, fixed, options
        self.values = values
        self.inputs = jax.tree.leaves(moving)
        self.outputs = [x for x in jax.tree.leaves(values) if eqx.is_inexact_array_like(x)]
        self.replicated = len(jax.tree.leaves(moving[0]))  # so many inputs, the first ones, are

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the primitive that is this map."""
        return {"derivative": self, "chosen": tuple(range(len(self.outputs))), "levels": 0}

    def of_values(self, tangents: Leaves) -> Any:
        """Tangents of all values, of whole numbers too."""
        real = iter(tangents)

        def tangent(x):
            if eqx.is_inexact_array_like(x):
                return next(real)
            return np.zeros(np.shape(x), jax.dtypes.float0)

        return jax.tree.map(tangent, self.values)

    def push(self, tangents: Leaves, chosen: Chosen, levels: int) -> Leaves:
        """Forward mode."""

        def of_group(rows: slice) -> Leaves:
            return [
                _rows(x, rows, levels) if i < self.replicated else x for i, x in enumerate(tangents)
            ]

        groups = self._run(push_through, of_group, chosen, levels)
        return [np.concatenate(x, axis=levels) for x in groups]

    def pull(self, cotangents: Leaves, chosen: Chosen, levels: int) -> Leaves:
        """Reverse mode."""

        def of_group(rows: slice) -> Leaves:
            return [_rows(x, rows, levels) for x in cotangents]

        groups = self._run(pull_through, of_group, chosen, levels)
        return [
            np.concatenate(x, axis=levels) if i < self.replicated else sum(x)
            for i, x in enumerate(groups)
        ]

    def _run(
        self, function: Program, of_group, chosen: Chosen, levels: int
    ) -> list[tuple[Any, ...]]:
        """What `function` returns for every group, by result."""

        def arguments(rows: slice):
            moving, fixed = (
                (jax.tree.map(lambda x: x[rows], replicated), shared)
                for replicated, shared in (self.moving, self.fixed)
            )
            return self.program, moving, fixed, of_group(rows), self.options, chosen, levels

        groups = group_rows(len(self.outputs[0]))
        found = run_groups(function, [arguments(rows) for rows in groups])
        return list(zip(*found, strict=True))


def _rows(x, rows: slice, levels: int):
    return x[(slice(None),) * levels + (rows,)]


@Program
def push_through(
    program: Program, moving, fixed, tangents: Leaves, options, chosen: Chosen, levels: int
) -> Leaves:
    """Tangents of the program's chosen results, from those of the leaves of `moving`."""
    results, leaves = _results(program, moving, fixed, options, chosen)
    return _batched(lambda *tangents: jax.jvp(results, leaves, list(tangents))[1], levels)(
        *tangents
    )


@Program
def pull_through(
    program: Program, moving, fixed, cotangents: Leaves, options, chosen: Chosen, levels: int
) -> Leaves:
    """Cotangents of the leaves of `moving`, from those of the program's chosen results."""
    results, leaves = _results(program, moving, fixed, options, chosen)
    _, pull = jax.vjp(results, *leaves)
    return list(_batched(lambda *cotangents: pull(list(cotangents)), levels)(*cotangents))


def _results(program: Program, moving, fixed, options, chosen: Chosen):
    leaves, structure = jax.tree.flatten(moving)

    def results(*leaves) -> Leaves:
        replicated, shared = eqx.combine(structure.unflatten(leaves), fixed)
        values = program(replicated, *shared, options)
        real = [x for x in jax.tree.leaves(values) if eqx.is_inexact_array(x)]
        return [real[i] for i in chosen]

    return results, leaves


def _batched(function, levels: int):
    for _ in range(levels):
        function = jax.vmap(function)
    return function


def _linear_primitive(name: str, run, through) -> Primitive:
    """One of the two maps as a primitive, to be transposed into the other."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    @primitive.def_impl
    def _(*x, derivative, chosen, levels):
        return run(derivative, list(x), chosen, levels)

    @primitive.def_abstract_eval
    def _(*x, derivative, chosen, levels):
        batch = x[0].shape[:levels]
        outputs = [derivative.outputs[i] for i in chosen]
        shapes = derivative.inputs if primitive is _pull else outputs
        return [ShapedArray(batch + np.shape(y), y.dtype) for y in shapes]

    def batch(x, axes, *, derivative, chosen, levels):
        size = next(y.shape[a] for y, a in zip(x, axes, strict=True) if a is not None)
        x = [batching.bdim_at_front(y, a, size) for y, a in zip(x, axes, strict=True)]
        found = primitive.bind(*x, derivative=derivative, chosen=chosen, levels=levels + 1)
        return found, [0] * len(found)

    def transpose(cotangents, *x, derivative, chosen, levels):
        attributes = {"derivative": derivative, "levels": levels}
        if primitive is _pull:
            full = [ad.instantiate_zeros(c) for c in cotangents]
            return _push.bind(*full, chosen=chosen, **attributes)
        # Results on which nothing depends are left out of what is compiled.
        pairs = zip(chosen, cotangents, strict=True)
        kept = [(i, c) for i, c in pairs if type(c) is not ad.Zero]
        if not kept:
            return [ad.Zero(y.aval) if ad.is_undefined_primal(y) else None for y in x]
        kept_chosen = tuple(i for i, _ in kept)
        return _pull.bind(*(c for _, c in kept), chosen=kept_chosen, **attributes)

    def inside(*x, derivative, chosen, levels):
        moving, fixed, options = derivative.moving, derivative.fixed, derivative.options
        return through(derivative.program, moving, fixed, list(x), options, chosen, levels)

    batching.primitive_batchers[primitive] = batch
    ad.deflinear2(primitive, transpose)
    mlir.register_lowering(primitive, mlir.lower_fun(inside, multiple_results=True))
    return primitive


_push = _linear_primitive("push", Derivative.push, push_through.function)
_pull = _linear_primitive("pull", Derivative.pull, pull_through.function)
