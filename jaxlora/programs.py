"""Functions compiled as a whole, and run on two groups of replicates at the same time."""

import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

GROUPS = 2  # of replicates; fixed, so that results do not depend on the machine
# XLA's library of parallel loops is slower than plain ones on arrays as small as these.
COMPILER_OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}}


def is_traced(tree: Any) -> bool:
    """Whether a leaf is traced by jit, vmap or grad."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


class Program:
    """A function of arrays, and of static `options` where it takes them, as a compiled program."""

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return (self._nested if _inside_trace(arguments) else self._jitted)(*arguments)

    def compile(self, *arguments: Any) -> Any:
        """Compile for arguments of these shapes, as a call would; returns the output's shapes."""
        lowered = self._jitted.lower(*arguments)
        lowered.compile()  # JAX keeps it for the calls
        return lowered.out_info

    def in_groups(self, replicated: Any, *shared: Any, in_turn: bool = False) -> Any:
        """The function of `replicated`, whose leaves have a leading axis of replicates, by groups.

        A group's replicates are solved in turn, each from the solution of the one before. Groups
        run in threads, as small loops gain little from several cores, or `in_turn`.
        """
        groups = split(replicated)
        if _inside_trace((replicated, shared)):
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *groups)
            found = jax.lax.map(lambda group: self._nested(group, *shared), stacked)
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
        self.compile(groups[0], *shared)  # not in every thread
        float64 = jax.config.values["jax_enable_x64"]

        def run(group):
            # A precision set by a context manager holds in its own thread only.
            with jax.enable_x64(float64):
                return jax.block_until_ready(self(group, *shared))

        with ThreadPoolExecutor(1 if in_turn else len(groups)) as pool:
            found = list(pool.map(run, groups))
        return jax.tree.map(lambda *x: np.concatenate(x), *found)

    @functools.cached_property
    def _jitted(self):
        return self._jit(compiler_options=COMPILER_OPTIONS.get(jax.default_backend()))

    @functools.cached_property
    def _nested(self):
        # Inside another program that one's options hold, and JAX takes no others.
        return self._jit()

    def _jit(self, **settings):
        static = [name for name in inspect.signature(self.function).parameters if name == "options"]
        return jax.jit(self.function, static_argnames=static, **settings)


def split(replicated: Any) -> list[Any]:
    """Groups of replicates of the same size, or one group where that cannot be."""
    count = jax.tree.leaves(replicated)[0].shape[0]
    size = count if count % GROUPS else count // GROUPS
    return [
        jax.tree.map(lambda x, first=first: x[first : first + size], replicated)
        for first in range(0, count, size)
    ]


def _inside_trace(arguments: Any) -> bool:
    return is_traced(arguments) or isinstance(jnp.zeros(()), Tracer)
