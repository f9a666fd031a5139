"""Which of the solutions of the fine-tuning that were found at a point to report."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ..finetuning import APART, STARTS, from_noise
from ..replicates import LabelledSolutions
from ..results import Result
from ..summary import lowest_branch

DISTINCT = 1e-3  # relative difference of energies; equal ones differ by a tenth of that at most


def have_parted(solved: LabelledSolutions) -> bool:
    """Whether the starts of a replicate (replicates, lanes, rows, 2) lead to other solutions.

    With few samples, some whose q and m are close have distinct energies.
    """
    q, m = _order(solved)
    energy = np.asarray(solved.solutions.energy)
    converged = np.all(solved.solutions.result == Result.CONVERGED, axis=-1)
    distance = np.abs(q[..., 0] - q[..., 1]) + np.abs(m[..., 0] - m[..., 1])
    distinct = np.abs(energy[..., 0] - energy[..., 1]) > DISTINCT * np.abs(energy[..., 0])
    return bool(np.any(converged & ((distance > APART) | distinct)))


def least_energy(
    afresh: LabelledSolutions, followed: Sequence[LabelledSolutions]
) -> LabelledSolutions:
    """Of every point (replicates, lanes, rows, 2) two of all candidates, as `best_two` has them.

    The candidates are what both starts led to, `afresh` and `followed` along the rows.
    """
    sets = [afresh, *followed]
    q, m = (np.concatenate(x, axis=-1) for x in zip(*map(_order, sets), strict=True))
    energy = np.concatenate([one.solutions.energy for one in sets], axis=-1)
    result = np.concatenate([one.solutions.result for one in sets], axis=-1)
    chosen = best_two(q, m, energy, result)

    def choose(*leaves):
        index = chosen.reshape(1, *chosen.shape, *[1] * (leaves[0].ndim - 4))
        return np.take_along_axis(np.concatenate(leaves, axis=3), index, axis=3)

    return afresh._replace(solutions=jax.tree.map(choose, *(one.solutions for one in sets)))


def best_two(q, m, energy, result) -> np.ndarray:
    """The candidate of least energy and its rival, (..., 2), of candidates (replicates, ..., K).

    Candidates alternate between the starts, and the first of each was solved from it afresh. The
    energy is the mean over replicates, as in `predict`, and failures count as they do there: what
    failed from afresh is reported where its energy is the least. But where it ended next to a
    candidate that converged, that is what it was on its way to; and what was followed is there to
    find more, and does not count where it failed.

    The rival has the least energy of those that differ, or is the same one where none does. Where a
    candidate differs on some replicates only, it or the one of least energy has hopped between
    branches: it is a rival unless its replicates scatter more. The one of least energy stands in
    the place of its start.
    """
    starts = len(STARTS)
    q, m = (np.where(np.isfinite(x), x, np.nan) for x in (q, m))
    converged = np.all(result == Result.CONVERGED, axis=0)
    distance = np.abs(q[..., None] - q[..., None, :]) + np.abs(m[..., None] - m[..., None, :])
    near = np.mean(distance, axis=0) <= APART
    replaced = np.any(near & converged[..., None, :], axis=-1)
    counts = converged | ((np.arange(q.shape[-1]) < starts) & ~replaced)
    energy = np.where(counts, energy, np.inf)
    lowest = np.asarray(lowest_branch(energy))[..., None]

    def to_lowest(pairs):
        return np.take_along_axis(pairs, lowest[..., None], axis=-2)[..., 0, :]

    scatter = np.std(q, axis=0) + np.std(m, axis=0)
    hopped = scatter > np.take_along_axis(scatter, lowest, axis=-1)
    nearest = to_lowest(np.min(distance, axis=0))
    differs = ~to_lowest(near) & ((nearest > APART) | ~hopped)
    rivals = np.where(differs, np.mean(energy, axis=0), np.inf)
    rivals = np.where(np.isfinite(rivals), rivals, np.inf)
    found = np.isfinite(np.min(rivals, axis=-1))[..., None]
    rival = np.where(found, np.argmin(rivals, axis=-1)[..., None], lowest)
    return np.where(np.arange(starts) == lowest % starts, lowest, rival)


def _order(solved: LabelledSolutions) -> tuple[np.ndarray, np.ndarray]:
    """q and m of solutions (replicates, ..., starts)."""
    value = solved.solutions.solved.fixed_point.value
    q, m, _ = np.asarray(from_noise(jnp.moveaxis(jnp.asarray(value), -1, 0)))
    return q, m
