"""The finite size of an experiment, and how it is run."""

import dataclasses
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..options import PRECISIONS
from ..programs import devices
from ..tasks import Task
from .nearby import is_large
from .optimisers import MEMORY, OPTIMISERS
from .rounded import is_worth_rounding
from .training import Training

CENTRINGS = ("population", "empirical")


@dataclasses.dataclass(frozen=True)
class Setting:
    """An experiment's dimension D and everything else that is not physics of the limit.

    - `dimension`: D; `test_samples`: fresh sequences for the test errors of each seed.
    - `centring`: E A by the "population" mean, which the theory describes, or the "empirical" one
      over each training set; test sets have the population's.
    - `normalise_teacher`: |w*|² = D exactly, which takes most of the scatter off m, q and o_w.
    - `precision`: "float64" or "float32".
    - `starts`, `pretraining_starts`: random initialisations, of which the lowest loss is kept.
    - `informed`: whether the fine-tuning starts at w = w* as well.
    - `training`: optimiser and its tolerance; by default as `precision` allows.
    """

    dimension: int
    test_samples: int = 10_000
    centring: str = "population"
    normalise_teacher: bool = False
    precision: str = "float64"
    starts: int = 4
    pretraining_starts: int = 1
    informed: bool = False
    training: Training = None  # type: ignore[assignment]

    def __post_init__(self):
        for name, least in (
            ("dimension", 2),
            ("test_samples", 1),
            ("starts", 1),
            ("pretraining_starts", 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} = {value!r}: must be an integer of at least {least}")
        for name in ("normalise_teacher", "informed"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be True or False")
        for name, known in (("centring", CENTRINGS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                allowed = ", ".join(known)
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be one of {allowed}")
        if self.training is None:
            object.__setattr__(self, "training", Training.of(self.precision))

    @property
    def empirical(self) -> bool:
        """Whether the mean over the training set is what centres."""
        return self.centring == "empirical"

    @property
    def dtype(self):
        """The type of all arrays."""
        return jnp.dtype(self.precision)


class Sizes(NamedTuple):
    """D, T and the integers that κ0, κ, α and α' stand for: P0, P, N, N' and the candidates."""

    dimension: int
    tokens: int
    teacher_rank: int
    rank: int
    samples: int
    finetuning_samples: int
    candidates: int


def sizes_of(task: Task, setting: Setting) -> Sizes:
    """The sizes of an experiment.

    Raises ValueError where one rounds to 0, and where more sequences are to be reused than there
    are.
    """
    D = setting.dimension

    def size(name: str, per: int, words: str, divided: float = 1.0) -> int:
        count = round(float(getattr(task, name)) * per / divided)
        if count < 1:
            raise ValueError(
                f"{name} = {float(getattr(task, name)):g}: makes {words} = {count} at dim = {D}, "
                "must be larger, or dim"
            )
        return count

    labelled = size("alpha_ft", D, "N'")
    candidates = size("alpha_ft", D, "N'", float(task.active_ratio))
    if task.given is not None:
        return Sizes(D, task.tokens, 0, 0, 0, labelled, candidates)
    samples = size("alpha", D**2, "N")
    if task.reuse and candidates > samples:
        raise ValueError(
            f"reuse = True: {candidates} sequences are to be reused at dim = {D}, but pre-training "
            f"has {samples}; dim must be larger"
        )
    return Sizes(
        D,
        task.tokens,
        size("kappa0", D, "P0"),
        size("kappa", D, "P"),
        samples,
        labelled,
        candidates,
    )


def bytes_needed(sizes: Sizes, setting: Setting) -> int:
    """About the largest memory that the experiment takes at a time, in bytes.

    The sequences, a dozen T×T matrices for each, the optimiser's pairs of steps and gradients, and
    a copy of the sequences in float32 where training takes one.
    """
    D, T = sizes.dimension, sizes.tokens
    pairs = 2 * MEMORY + 12
    pretraining = sizes.samples * T * (D + 12 * T) + pairs * D * sizes.rank
    # Candidates of a trained layer are drawn with their sequences.
    drawn = sizes.candidates if sizes.samples else sizes.finetuning_samples
    finetuning = drawn * T * (D + 12 * T) + 12 * sizes.candidates * T * T + pairs * D
    if not OPTIMISERS[setting.training.optimiser].alone:
        inputs = jax.ShapeDtypeStruct((sizes.samples, T, D), setting.dtype)
        if is_worth_rounding(inputs, sizes.rank):
            pretraining += inputs.size // 2
        size = sizes.finetuning_samples * T * D
        if is_large(size) and setting.dtype == jnp.float64:
            finetuning += size // 2
    if setting.empirical:
        pretraining += 2 * sizes.samples * T * sizes.rank
    return setting.dtype.itemsize * (max(pretraining, finetuning) + D * (sizes.rank + D))


def check_memory(sizes: Sizes, setting: Setting) -> None:
    """Raise ValueError where the experiment would not fit into the device's memory."""
    needed, available = bytes_needed(sizes, setting), _available_bytes()
    if available is not None and needed > available:
        raise ValueError(
            f"dim = {setting.dimension}: needs about {needed / 1e9:.3g} GB, and there are "
            f"{available / 1e9:.3g} GB; must be smaller, or precision float32"
        )


def _available_bytes() -> int | None:
    """The memory of the device, of the machine for a CPU; None where that is not known."""
    statistics = devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
