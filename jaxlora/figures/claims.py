"""What the paper concludes from a figure, held against its numbers."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xarray

from ..outputs import ConvergenceError
from ..plotting import LETTERS
from ..sweeps.dataset import parameters_of, solved
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
        if self.holds == 0:
            return "not confirmed"
        # With as many digits as tell it from none and from all.
        rounded = (f"{100 * self.holds:.{digits}f}" for digits in itertools.count())
        return f"at {next(x for x in rounded if 0 < float(x) < 100)} % of the points"


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
    """The point where a number is least; ConvergenceError where it was solved at none."""
    values = solved(dataset, name).values
    if not np.any(np.isfinite(values)):
        raise unsolved(dataset, name)
    places = np.unravel_index(np.nanargmin(values), values.shape)
    return dataset.isel(dict(zip(dataset[name].dims, places, strict=True)))


def unsolved(dataset: xarray.Dataset, name: str) -> ConvergenceError:
    """What to raise where no point of a sweep, or of a curve of it, has a number."""
    held = {str(k): x.item() for k, x in dataset.coords.items() if not x.dims}
    words = ", ".join(f"{k} = {x}" for k, x in (parameters_of(dataset) | held).items())
    along = " and ".join(map(str, dataset[name].dims))
    return ConvergenceError(f"{name} at no point along {along}, with {words}", None)


def share_positive(*differences: Number) -> float:
    """The share of points at which differences are positive by more than their errors allow.

    Points without a value or an error are left out; NaN where all are.
    """
    values, errors = (
        np.concatenate([np.ravel(part) for part in parts])
        for parts in zip(*differences, strict=True)
    )
    known = np.isfinite(values) & np.isfinite(errors)
    if not np.any(known):
        return np.nan
    return float(np.mean(values[known] > RESOLVED * errors[known]))


def range_words(values: xarray.DataArray, digits: str = ".3g") -> str:
    """From the least to the largest."""
    return f"{float(values.min()):{digits}} to {float(values.max()):{digits}}"


def stability_claim(datasets: Iterable[xarray.Dataset]) -> Claim:
    """Appendix A.6: both replicon conditions hold at every point shown.

    Where one does not apply, as to a pre-training set by hand, the other decides.
    """
    stable, failed, largest = [], 0, {}
    for dataset in datasets:
        shown = np.isfinite(solved(dataset, "test_error_ft").values)
        failed += int(np.sum(~shown))
        replicons = [solved(dataset, name) for name in REPLICONS]
        applies = np.any([np.isfinite(values) for values in replicons], axis=0)
        holds = np.all([~(values.values >= 1) for values in replicons], axis=0)
        stable.append(holds[shown & applies])
        for name, values in zip(REPLICONS, replicons, strict=True):
            if np.any(np.isfinite(values)):
                worst = values.isel(values.fillna(-np.inf).argmax(...))
                if float(worst) > float(largest.get(name, -np.inf)):
                    largest[name] = worst
    words = [f"largest {name} {float(at):.3g} at {_place(at)}" for name, at in largest.items()]
    if failed:
        words.append(f"{failed} points not solved")
    points = np.concatenate(stable) if stable else np.array([])
    holds = float(np.mean(points)) if points.size else np.nan
    statement = "Both replicon conditions hold at every point shown (75), (78)"
    return Claim(statement, holds, "; ".join(words))


def _place(one: xarray.DataArray) -> str:
    """The coordinates of a point."""
    named = {str(name): float(x) for name, x in one.coords.items() if name != "given"}
    return ", ".join(
        f"{LETTERS.get(name, name.removeprefix('given_'))} = {x:.3g}" for name, x in named.items()
    )


def agreement_claim(pairs: Iterable[tuple[xarray.Dataset, xarray.Dataset | None]]) -> Claim:
    """Theory and trained layers of the largest dimension agree, at the same points of each pair.

    A number that several points share counts once: those of the pre-training do not depend on the
    fine-tuning, and without fine-tuning (λ' = ∞) the forgetting is the error of the pre-training.
    """
    found, sizes = {}, set()
    for theory, simulation in pairs:
        if simulation is None:
            continue
        largest = simulation.isel(dim=int(np.argmax(simulation["dim"].values)))
        sizes.add((int(largest["dim"]), int(simulation.attrs["simulation_seeds"])))
        for name in COMPARED:
            if name not in theory or SIMULATED + name not in largest:
                continue
            measured, predicted = number(largest, SIMULATED + name), number(theory, name)
            parts = (measured.value, predicted.value, (measured - predicted).stderr)
            for one in zip(*(part.values.flat for part in xarray.broadcast(*parts)), strict=True):
                if np.all(np.isfinite(one)) and one[2] > 0:
                    # To six digits, as what is solved or trained twice differs in the last ones.
                    found[tuple(f"{x:.6g}" for x in one)] = (*one, name)
    statement = "Trained layers agree with the theory within three standard errors"
    if not sizes:
        return Claim(statement, np.nan, "theory only")
    layers = ", ".join(f"D = {dim} with {seeds} seeds" for dim, seeds in sorted(sizes))
    if not found:
        return Claim(statement, np.nan, f"{layers}: no standard errors")
    *numbers, names = zip(*found.values(), strict=True)
    measured, predicted, stderr = np.array(numbers)
    z, share = (measured - predicted) / stderr, np.abs(measured / predicted - 1)
    far, off = np.argmax(np.abs(z)), np.argmax(share)
    words = (
        f"{layers}: {len(z)} numbers, z of root mean square {np.sqrt(np.mean(z**2)):.2g}, largest "
        f"{z[far]:.2g} of {names[far]}; relative difference {100 * np.median(share):.2g} % in the "
        f"median, {100 * share[off]:.2g} % at most, of {names[off]}"
    )
    return Claim(statement, float(np.mean(np.abs(z) < RESOLVED)), words)
