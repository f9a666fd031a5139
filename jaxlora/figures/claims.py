"""What the paper concludes from a figure, held against its numbers."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xarray

from ..plotting import LETTERS
from ..sweeps.dataset import solved
from ..sweeps.variables import SIMULATED, STDERR
from .drawing import REPLICONS

RESOLVED = 3  # standard errors of a difference from which its sign is known
# What theory and trained layers are compared in.
COMPARED = ("test_error", "train_error", "test_error_ft", "train_error_ft", "overlap", "forgetting")


class Claim(NamedTuple):
    """A statement of the paper, how far it `holds`, and the numbers that say so.

    `holds` is the share of the points compared at which it does, NaN where none were.
    """

    statement: str
    holds: float
    numbers: str

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if np.isnan(self.holds):
            return "not tested"
        if self.holds == 1:
            return "confirmed"
        return "not confirmed" if self.holds == 0 else f"at {100 * self.holds:.0f} % of the points"


class Number(NamedTuple):
    """Values and standard errors over the same points."""

    value: xarray.DataArray
    stderr: xarray.DataArray

    def __sub__(self, other: "Number") -> "Number":
        """The difference, with errors as if they were independent: on the same draws, too large."""
        return Number(self.value - other.value, (self.stderr**2 + other.stderr**2) ** 0.5)

    def sel(self, **where) -> "Number":
        """At values of axes."""
        return Number(self.value.sel(**where), self.stderr.sel(**where))

    def isel(self, **where) -> "Number":
        """At places along axes."""
        return Number(self.value.isel(**where), self.stderr.isel(**where))

    def words(self) -> str:
        """One value with its error."""
        return f"{float(self.value):.4g} ± {float(self.stderr):.1g}"


def number(dataset: xarray.Dataset, name: str) -> Number:
    """A number of a sweep, NaN where it was not solved."""
    return Number(solved(dataset, name), dataset[name + STDERR])


def point_of_least(dataset: xarray.Dataset, name: str) -> xarray.Dataset:
    """The point where a number is least."""
    values = solved(dataset, name).values
    places = np.unravel_index(np.nanargmin(values), values.shape)
    return dataset.isel(dict(zip(dataset[name].dims, places, strict=True)))


def share_positive(difference: Number) -> float:
    """The share of points at which a difference is positive by more than its error allows."""
    values, errors = difference.value.values, difference.stderr.values
    known = np.isfinite(values)
    if not np.any(known):
        return np.nan
    return float(np.mean(values[known] > RESOLVED * errors[known]))


def range_words(values: xarray.DataArray, digits: str = ".3g") -> str:
    """From the least to the largest."""
    return f"{float(values.min()):{digits}} to {float(values.max()):{digits}}"


def stability_claim(datasets: Iterable[xarray.Dataset]) -> Claim:
    """Appendix A.6: both replicon conditions hold at every point shown."""
    stable, failed, largest = [], 0, {}
    for dataset in datasets:
        failed += int(np.sum(np.isnan(solved(dataset, "test_error_ft").values)))
        for name in REPLICONS:
            values = solved(dataset, name)
            if np.any(np.isfinite(values)):
                stable.append(values.values[np.isfinite(values)] < 1)
                worst = values.isel(values.fillna(-np.inf).argmax(...))
                if float(worst) > float(largest.get(name, -np.inf)):
                    largest[name] = worst
    words = [f"largest {name} {float(at):.3g} at {_place(at)}" for name, at in largest.items()]
    if failed:
        words.append(f"{failed} points not solved")
    holds = float(np.mean(np.concatenate(stable))) if stable else np.nan
    statement = "Both replicon conditions hold at every point shown (75), (78)"
    return Claim(statement, holds, "; ".join(words))


def _place(one: xarray.DataArray) -> str:
    """The coordinates of a point."""
    named = {str(name): float(x) for name, x in one.coords.items() if name != "given"}
    return ", ".join(
        f"{LETTERS.get(name, name.removeprefix('given_'))} = {x:.3g}" for name, x in named.items()
    )


def agreement_claim(pairs: Iterable[tuple[xarray.Dataset, xarray.Dataset | None]]) -> Claim:
    """Theory and trained layers of the largest dimension agree, at the same points of each pair."""
    scores, relative, sizes = [], [], set()
    for theory, simulation in pairs:
        if simulation is None:
            continue
        largest = simulation.isel(dim=int(np.argmax(simulation["dim"].values)))
        sizes.add((int(largest["dim"]), int(simulation.attrs["simulation_seeds"])))
        for name in COMPARED:
            if name not in theory or SIMULATED + name not in largest:
                continue
            difference = number(largest, SIMULATED + name) - number(theory, name)
            score = (difference.value / difference.stderr).values
            known = np.isfinite(score)
            scores.append(score[known])
            relative.append(abs(difference.value / theory[name]).values[known])
    statement = "Trained layers agree with the theory within three standard errors"
    if not scores:
        return Claim(statement, np.nan, "theory only")
    z, share = np.concatenate(scores), np.concatenate(relative)
    layers = ", ".join(f"D = {dim} with {seeds} seeds" for dim, seeds in sorted(sizes))
    words = (
        f"{layers}: {len(z)} numbers, z of root mean square {np.sqrt(np.mean(z**2)):.2g}, largest "
        f"{z[np.argmax(np.abs(z))]:.2g}; relative difference {100 * np.median(share):.2g} % in the "
        f"median, {100 * np.max(share):.2g} % at most"
    )
    return Claim(statement, float(np.mean(np.abs(z) < RESOLVED)), words)
