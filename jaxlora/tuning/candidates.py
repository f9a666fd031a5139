"""Candidates of active fine-tuning that stay the same while the share to label changes.

`predict` takes labelled sequences evenly from the kept candidates in order of their distance, so
that another share means other sequences altogether, and a pool of another size. Here every sample
has candidates of its own, the first of which it would have without a selection, and takes the first
that is kept. That is rejection sampling, of the same law; but a share smaller by a per cent changes
a per cent of the samples, and at ρ = 1 there are those of `predict`.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from ..active import LARGEST_POOL, distances
from ..labelled import candidate_fields
from ..options import Options
from ..programs import Program
from ..sampling import POOL, FieldDraws, Samples, draw_fields
from ..tasks import Task


class Candidates(NamedTuple):
    """Samples, the candidates of each and their distances |σ(z) − σ(0)|²_F (R, candidates, n).

    `ranking` (R, candidates · n) are the indices of all by their distance.
    """

    samples: Samples
    draws: FieldDraws
    distances: np.ndarray
    ranking: np.ndarray

    def samples_at(self, ratio: float) -> Samples:
        """The samples on which to solve the fine-tuning of a share ρ."""
        pairs = zip(self.distances, self.ranking, strict=True)
        chosen = np.stack([kept_first(*pair, ratio) for pair in pairs])[:, None]
        fields = [np.take_along_axis(x, chosen, -1) for x in (self.draws.first, self.draws.second)]
        return eqx.tree_at(_fields, self.samples, fields)


def draw_candidates(
    task: Task, order: jax.Array, samples: Samples, seed: int, options: Options
) -> Candidates:
    """Candidates for the fine-tuning of pre-trainings (Q, M, V) = `order` (R, 3).

    They are plain Monte Carlo: points of two scrambles of the same Sobol sequence would be related
    to each other, sample by sample.
    """
    own = samples.finetuning
    replicates, _, count = own.first.shape
    size = LARGEST_POOL * count
    others = draw_fields(task.tokens, size, replicates, seed, POOL, "monte_carlo")
    first = np.concatenate([own.first, others.first], axis=-1)
    second = np.concatenate([own.second, others.second], axis=-1)
    draws = FieldDraws(first, second, np.full((replicates, first.shape[-1]), 1 / size))
    distances = np.asarray(_distances(draws, task, order, options))
    ranking = np.argsort(distances, axis=-1)
    return Candidates(samples, draws, distances.reshape(replicates, -1, count), ranking)


def kept_first(distances: np.ndarray, ranking: np.ndarray, ratio: float) -> np.ndarray:
    """The first candidate of each sample (n,) that is in the share ρ of least `distances`.

    These are (candidates, n). Where a sample has none, it takes one of all that are kept, evenly in
    order of their distance.
    """
    count = distances.shape[1]
    kept = max(1, round(ratio * distances.size))
    within = distances <= distances.ravel()[ranking[kept - 1]]
    chosen = np.argmax(within, axis=0) * count + np.arange(count)
    missing = np.flatnonzero(~within.any(axis=0))
    steps = (np.arange(len(missing)) + 0.5) / max(len(missing), 1)
    chosen[missing] = ranking[(steps * kept).astype(int)]
    return chosen


def _fields(samples: Samples) -> list[Any]:
    return [samples.finetuning.first, samples.finetuning.second]


@Program
def _distances(draws: FieldDraws, task: Task, order: jax.Array, options: Options) -> jax.Array:
    def of_replicate(inputs: Any) -> jax.Array:
        draws, order = inputs
        return distances(task.activation, candidate_fields(task, order, draws, options))

    return jax.lax.map(of_replicate, (draws, order))
