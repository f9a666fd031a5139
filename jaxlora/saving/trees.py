"""Tasks and predictions as named arrays, and back."""

import dataclasses
import typing
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..activations import Activation
from ..outputs import Branch
from ..sweeps.variables import NUMBERS, STATUS, attributes_of
from ..tasks import Task

Arrays = dict[str, np.ndarray]
GIVEN = ("Q0", "Q", "M")
REAL = tuple(f.name for f in dataclasses.fields(Task) if not f.metadata.get("static"))


def arrays_of(module: eqx.Module, prefix: str = "") -> Arrays:
    """The leaves of a prediction or of a part of one, by path; branches by the name of their start.

    A prediction of several tasks, as vmap makes one, has leaves of as many axes more.
    """
    arrays = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        path = f"{prefix}{field.name}"
        if isinstance(value, eqx.Module):
            arrays |= arrays_of(value, f"{path}/")
        elif field.name == "branches":
            for branch in value:
                arrays |= arrays_of(branch, f"{path}/{branch.start}/")
        elif not field.metadata.get("static"):
            arrays[path] = np.asarray(value)
    return arrays


def module_of(kind: type, arrays: Arrays, starts: list[str], prefix: str = "") -> Any:
    """The module of class `kind` that has these leaves; raises KeyError where one is missing."""
    values = {}
    for field in dataclasses.fields(kind):
        path = f"{prefix}{field.name}"
        if field.name == "branches":
            values[field.name] = tuple(
                module_of(Branch, arrays, [], f"{path}/{start}/") for start in starts
            )
        elif field.metadata.get("static"):
            values[field.name] = prefix.split("/")[-2]  # the start of a branch
        elif field.type is jax.Array:
            values[field.name] = jnp.asarray(arrays[path])
        else:
            values[field.name] = module_of(
                typing.cast(type, field.type), arrays, starts, f"{path}/"
            )
    return kind(**values)


def parameters_of(task: Task) -> Arrays:
    """The real parameters of a task by path, but those left out."""
    found = {name: getattr(task, name) for name in REAL if name != "given"}
    found |= dict(zip([f"given/{name}" for name in GIVEN], task.given or (), strict=False))
    return {f"task/{name}": np.asarray(x) for name, x in found.items() if x is not None}


def task_of(arrays: Arrays, tokens: int, activation: Activation, reuse: bool) -> Task:
    """The task of these parameters, in their precision; raises ValueError for one out of range."""
    values: dict[str, Any] = {name: arrays.get(f"task/{name}") for name in REAL}
    if f"task/given/{GIVEN[0]}" in arrays:
        values["given"] = tuple(arrays[f"task/given/{name}"] for name in GIVEN)
    task = Task(tokens=tokens, activation=activation, reuse=reuse, **values)
    return jax.tree.map(jnp.asarray, eqx.tree_at(_leaves, task, _leaves_in(values)))


def describe(paths: list[str]) -> dict[str, dict[str, Any]]:
    """What the numbers of a prediction are, for who reads the file."""
    names = {(v.stage, v.field): v.name for v in NUMBERS}
    for stage, suffix in (("pretraining", ""), ("finetuning", "_ft")):
        names |= {(f"status/{stage}", flag.field): flag.field + suffix for flag in STATUS}
    found = {}
    for path in paths:
        group, _, field = path.rpartition("/")
        if (group.removeprefix("replicates/"), field) in names:
            found[path] = attributes_of(names[group.removeprefix("replicates/"), field])
        elif (group.removeprefix("stderr/"), field) in names:
            found[path] = attributes_of(f"{names[group.removeprefix('stderr/'), field]}_stderr")
    return found


def _leaves(task: Task) -> list[Any]:
    return jax.tree.leaves(task)


def _leaves_in(values: dict[str, Any]) -> list[Any]:
    return jax.tree.leaves([values[name] for name in REAL])
