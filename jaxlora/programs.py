"""Functions compiled as a whole, and run on two groups of replicates at the same time."""

import contextlib
import functools
import inspect
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from . import kept

# Names of arguments that are not arrays.
STATIC = ("program", "layout", "chosen", "levels", "channel")
MOST = 64  # shapes for which a program stays compiled
GROUPS = 2  # of replicates; fixed, so that results do not depend on the machine
COMPILER_OPTIONS = {
    "cpu": {
        # XLA's library of parallel loops is slower than plain ones on arrays as small as these.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
        # These take memory and time to compile, and make nothing faster here: the newer emitter of
        # loops, more modules than there are cores to compile them, sums as trees of windows, and
        # moving what is constant out of loops.
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": min(32, os.cpu_count() or 1),
        "xla_disable_hlo_passes": "tree_reduction_rewriter,while-loop-invariant-code-motion",
    }
}


_programs: "weakref.WeakSet[Program]" = weakref.WeakSet()


def is_traced(tree: Any) -> bool:
    """Whether a leaf is traced by jit, vmap or grad."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def frozen(tree: Any) -> Any:
    """The same without derivatives: concrete where only grad or jvp, outside of jit, traces it."""
    return jax.tree.map(_frozen, tree)


def _frozen(x: Any) -> Any:
    # Outside of jit, stop_gradient takes the better part of a millisecond to find the same.
    while isinstance(x, Tracer) and hasattr(x, "primal"):
        x = x.primal
    return jax.lax.stop_gradient(x) if isinstance(x, Tracer) else x


class Program:
    """A function of arrays, and of static options where it takes them, as a compiled program."""

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.function = function
        self._ready: dict[Any, _Ready] = {}
        _programs.add(self)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        if is_traced(arguments) or inside_jit():
            return self._nested(*arguments)
        if (compiling := _rehearsed.get()) is not None:
            return _zeros(compiling(self, *arguments))
        if not _is_plain():
            return self._jitted(*arguments)
        called = self._called(arguments)
        ready = self._ready.get(called.key) or self._begin(called)[1]()
        return ready(*called.leaves)

    def __reduce__(self) -> str:
        return self.__qualname__  # type: ignore[attr-defined]

    def begin(self, *arguments: Any) -> tuple[Any, Callable[[], Any]]:
        """The shapes of the results for arguments of these shapes, and what ends the compilation.

        A program that another process has kept is not traced.
        """
        if not _is_plain():
            lowered = self._jitted.lower(*arguments)
            return lowered.out_info, lowered.compile
        called = self._called(arguments)
        if (ready := self._ready.get(called.key)) is not None:
            return ready.shapes, lambda: ready
        return self._begin(called)

    def _begin(self, called: "_Called") -> tuple[Any, Callable[[], "_Ready"]]:
        described = called.static, called.structure.unflatten(called.shapes)
        file = kept.file_of(self.function, described)
        function = _Flat(self.function, called.structure, called.static)
        lowered, results = kept.lower(function, called.leaves, file, compiler_options())

        def finish() -> _Ready:
            ready = _Ready(lowered.compile(), results)
            while len(self._ready) >= MOST:
                self._ready.pop(next(iter(self._ready)), None)
            self._ready[called.key] = ready
            return ready

        return _Ready(lowered, results).shapes, finish

    def forget(self) -> None:
        """Drop what is compiled, as `jax.clear_caches` does for what JAX has."""
        self._ready.clear()

    def in_groups(self, replicated: Any, *shared: Any, in_turn: bool = False) -> Any:
        """The function of `replicated`, whose leaves have a leading axis of replicates, by groups.

        A group's replicates are solved in turn, each from the solution of the one before. Groups
        run in threads, as small loops gain little from several cores, or `in_turn`.
        """
        groups = split(replicated)
        if is_traced((replicated, shared)) or inside_jit():
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *groups)
            found = jax.lax.map(lambda group: self._nested(group, *shared), stacked)
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
        found = run_groups(self, [(group, *shared) for group in groups], in_turn=in_turn)
        return jax.tree.map(lambda *x: np.concatenate(x), *found)

    @functools.cached_property
    def _jitted(self):
        return self._jit(**compiler_options())

    @functools.cached_property
    def _nested(self):
        # Inside another program that one's options hold, and JAX takes no others.
        return self._jit()

    @functools.cached_property
    def _names(self) -> list[str]:
        return list(inspect.signature(self.function).parameters)

    def _called(self, arguments: tuple[Any, ...]) -> "_Called":
        named = dict(zip(self._names, arguments, strict=True))
        static = {name: named.pop(name) for name in self._names if name in STATIC}
        return _Called(static, *jax.tree.flatten(named))

    def _jit(self, **settings):
        static = [name for name in self._names if name in STATIC]
        return jax.jit(self.function, static_argnames=static, **settings)


def _is_plain() -> bool:
    """Whether programs need no more of JAX than one CPU.

    Elsewhere jit minds on which device arguments are; and its debugging modes are its own.
    """
    modes = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")
    if any(map(jax.config.values.get, modes)):
        return False
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _shape(x: Any) -> tuple[tuple[int, ...], np.dtype, bool]:
    kind = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    return kind.shape, kind.dtype, kind.weak_type


class _Called:
    """The arguments of a call: the static ones, and leaves and structure of the others, by name."""

    def __init__(self, static: dict[str, Any], leaves: list[Any], structure: Any):
        self.static, self.leaves, self.structure = static, leaves, structure
        self.shapes = tuple(_shape(x) for x in leaves)
        settings = tuple(jax.config.values.items())
        self.key = (tuple(static.items()), structure, self.shapes, settings)


class _Flat:
    """A function from the leaves of its arguments to those of its `results`, once it is traced."""

    def __init__(self, function: Callable, structure: Any, static: dict[str, Any]):
        self.function, self.structure, self.static = function, structure, static
        self.__name__ = function.__name__

    def __call__(self, *leaves: Any) -> list[Any]:
        results = self.function(**self.structure.unflatten(leaves), **self.static)
        self.results = jax.tree.structure(results)
        return jax.tree.leaves(results)


class _Ready(NamedTuple):
    """A flat function, compiled or lowered, and the structure of its results."""

    program: Any
    structure: Any

    def __call__(self, *leaves: Any) -> Any:
        return self.structure.unflatten(self.program(*leaves))

    @property
    def shapes(self) -> Any:
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self.program.out_info]
        return self.structure.unflatten(shapes)


def forget_programs() -> None:
    """Drop all that programs have compiled."""
    for program in list(_programs):
        program.forget()


class Compiling:
    """Compiles programs in the background, while others are traced, until the end of the block."""

    def __enter__(self) -> "Compiling":
        self.pool = ThreadPoolExecutor(2)
        self.jobs = []
        return self

    def __call__(self, program: Program, *arguments: Any) -> Any:
        """Compile for arguments of these shapes; returns the shapes of the results."""
        # In a thread, as what is compiled while JAX traces is not kept.
        [(shapes, finish)] = in_threads(lambda given: program.begin(*given), [arguments])
        self.jobs.append(self.pool.submit(finish))
        return shapes

    def __exit__(self, failed: type[BaseException] | None, *_) -> None:
        self.pool.shutdown(cancel_futures=failed is not None)
        for job in self.jobs if failed is None else ():
            job.result()


_rehearsed: ContextVar[Compiling | None] = ContextVar("rehearsed", default=None)


def rehearse(run: Callable, *arguments: Any) -> None:
    """Compile all programs that `run` runs, which is sooner than each when it is needed.

    All but programs themselves runs, on zeros in place of their results; what that raises is left
    to the run on true values. Inside another rehearsal, which compiles them anyway, it does
    nothing.
    """
    if _rehearsed.get() is not None:
        return
    with Compiling() as compiling:
        before = _rehearsed.set(compiling)
        try:
            with contextlib.suppress(Exception):
                run(*arguments)
        finally:
            _rehearsed.reset(before)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def run_groups(program: Program, calls: list[tuple[Any, ...]], *, in_turn: bool = False) -> list:
    """What a program returns for several arguments of the same shapes, at the same time."""
    if (compiling := _rehearsed.get()) is not None:
        return [_zeros(compiling(program, *calls[0]))] * len(calls)
    # Not in every thread; but in one, as what is compiled while JAX traces is not kept.
    in_threads(lambda arguments: program.begin(*arguments)[1](), calls[:1])
    return in_threads(
        lambda arguments: jax.block_until_ready(program(*arguments)), calls, in_turn=in_turn
    )


def compiler_options() -> dict[str, Any]:
    """Keywords of `jax.jit` for programs that run by themselves."""
    return {"compiler_options": COMPILER_OPTIONS.get(platform())}


def platform() -> str:
    """Where programs run: the platform of the default device."""
    device = jax.config.values["jax_default_device"]
    return jax.default_backend() if device is None else getattr(device, "platform", str(device))


def devices() -> list[Any]:
    """The devices of the platform where programs run, the default one first."""
    default = jax.config.values["jax_default_device"]
    return sorted(jax.devices(platform()), key=lambda device: device != default)


def split(replicated: Any) -> list[Any]:
    """Groups of replicates of the same size, or one group where that cannot be."""
    count = jax.tree.leaves(replicated)[0].shape[0]
    return [jax.tree.map(lambda x, rows=rows: x[rows], replicated) for rows in group_rows(count)]


def group_rows(count: int) -> list[slice]:
    """The replicates of every group, of `count` in all."""
    size = count if count % GROUPS else count // GROUPS
    return [slice(first, first + size) for first in range(0, count, size)]


def in_threads(run: Callable[[Any], Any], groups: list[Any], *, in_turn: bool = False) -> list[Any]:
    """What `run` returns for every group, at the same time or `in_turn`."""
    float64 = jax.config.values["jax_enable_x64"]

    def run_one(group):
        # A precision set by a context manager holds in its own thread only.
        with jax.enable_x64(float64):
            return run(group)

    with ThreadPoolExecutor(1 if in_turn else len(groups)) as pool:
        return list(pool.map(run_one, groups))


def inside_jit() -> bool:
    """Whether JAX is tracing a program around this call."""
    return isinstance(jnp.zeros(()), Tracer)
