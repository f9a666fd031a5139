"""Flags that several commands share, and what they mean to the library."""

import argparse
import dataclasses
import os
import pathlib
from typing import Any

import jax

from ..activations import ACTIVATIONS
from ..options import PRECISIONS, REPLICATES, SAMPLES, Options
from ..tasks import Task

PICTURES = (".png", ".pdf", ".svg")


def task_of(parsed: argparse.Namespace) -> Task:
    """The task that the flags describe; raises ValueError for a bad parameter."""
    names = [field.name for field in dataclasses.fields(Task)]
    return Task(**{name: getattr(parsed, name) for name in names})


def numerics_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of a solve."""
    options = Options.single() if parsed.precision == "float32" else Options()
    return {
        "samples": parsed.samples,
        "replicates": parsed.replicates,
        "seed": parsed.seed,
        "options": dataclasses.replace(options, verbose=parsed.verbose),
    }


def check_picture(name: str, path: str) -> None:
    """Raise ValueError for a file whose name does not end like that of a picture."""
    if not path.endswith(PICTURES):
        raise ValueError(f"{name} = {path!r}: must end in one of {', '.join(PICTURES)}")


def configure(parsed: argparse.Namespace) -> None:
    """JAX's settings for this process: float64, the device, a cache of compiled programs.

    Raises ValueError for a device that is not there.
    """
    jax.config.update("jax_enable_x64", parsed.precision != "float32")
    if parsed.device is not None:
        try:
            jax.config.update("jax_default_device", jax.devices(parsed.device)[0])
        except RuntimeError as error:
            there = ", ".join(sorted({device.platform for device in jax.devices()}))
            raise ValueError(f"device = {parsed.device!r}: must be one of {there}") from error
    if parsed.cache and not jax.config.values["jax_compilation_cache_dir"]:
        root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(root) / "jaxlora"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def add_flags(parser: argparse.ArgumentParser, *, theory: bool = True) -> None:
    """The flags of the task, the numerics and the output; those of a solve where `theory` is."""
    _add_task(parser.add_argument_group("task"))
    numerics = parser.add_argument_group("numerics")
    if theory:
        _add_theory(numerics)
    _add_numerics(numerics)
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=("table", "json"), default="table")
    output.add_argument("--verbose", action="store_true", help="log the iterations to stderr")


def _add_task(group) -> None:
    group.add_argument("--tokens", type=int, required=True, help="T, tokens in a sequence")
    group.add_argument(
        "--activation", default="softmax", metavar="NAME", help=" or ".join(sorted(ACTIVATIONS))
    )
    for flag, words in (
        ("--kappa0", "rank of the teacher over D"),
        ("--kappa", "rank of the student over D, at least 1"),
        ("--alpha", "pre-training samples over D²"),
        ("--lam", "pre-training ridge λ; inf: no pre-training"),
    ):
        group.add_argument(flag, type=float, metavar="X", help=words)
    for flag, words in (
        ("--delta", "label noise Δ"),
        ("--alpha-ft", "labelled fine-tuning samples over D"),
        ("--lam-ft", "fine-tuning ridge λ'; inf: no fine-tuning"),
    ):
        group.add_argument(flag, type=float, required=True, metavar="X", help=words)
    group.add_argument("--reuse", action="store_true", help="fine-tune on pre-training sequences")
    group.add_argument(
        "--given",
        type=float,
        nargs=3,
        metavar=("Q0", "Q", "M"),
        help="an effective pre-training, in place of kappa0, kappa, alpha and lam",
    )
    group.add_argument("--beta", type=float, default=1.0, metavar="X", help="recalibration β")
    group.add_argument(
        "--active-ratio", type=float, default=1.0, metavar="X", help="share ρ labelled actively"
    )


def _add_theory(group) -> None:
    group.add_argument(
        "--samples", type=int, default=SAMPLES, metavar="N", help="draws in all (%(default)s)"
    )
    group.add_argument(
        "--replicates",
        type=int,
        default=REPLICATES,
        metavar="N",
        help="sets of draws solved apart, for error bars (%(default)s)",
    )


def _add_numerics(group) -> None:
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all random numbers (%(default)s)"
    )
    group.add_argument(
        "--precision", choices=PRECISIONS, default="float64", help="of all arithmetic (%(default)s)"
    )
    add_machine(group)


def add_machine(group) -> None:
    """The flags of the machine."""
    group.add_argument("--device", metavar="NAME", help="cpu, gpu or tpu; default: JAX's")
    group.add_argument(
        "--no-cache", dest="cache", action="store_false", help="compile anew, keep nothing"
    )
