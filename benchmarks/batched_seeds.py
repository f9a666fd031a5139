"""Several seeds trained at once against one after another, part of `simulation.py`.

Every way takes the same L-BFGS steps to the same gradient, from the same starts. "batched" is one
`vmap` over the seeds, whose matrix products become batched ones and whose loops run until the last
seed is done; "threads" trains two at a time. Times leave out compiling and are medians of runs of
all ways in turn; processor seconds hold where other programs use the machine too.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxlora.simulation import training
from jaxlora.simulation.optimisers import OPTIMISERS
from jaxlora.simulation.training import Training, train
from simulation import problem

SIZES = (("pretraining", 20), ("pretraining", 50), ("pretraining", 100))
SIZES += (("finetuning", 100), ("finetuning", 1000))
SEEDS, REPEATS = 4, 5
MOST_SEGMENTS = 30
MARGIN = 1e-9  # relative difference of objectives that count as the same


def batched_seeds(stage: str, dimension: int) -> dict:
    """The three ways at one size."""
    problems = [problem(stage, dimension, seed) for seed in range(SEEDS)]
    settings = Training("optax-alone")
    arrays = [eqx.filter(objective, eqx.is_array) for objective, _ in problems]
    stacked = eqx.combine(jax.tree.map(lambda *x: jnp.stack(x), *arrays), problems[0][0])
    starts = jnp.stack([start for _, start in problems])

    def one(pair):
        return train(*pair, settings).value

    def in_threads():
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, problems))

    ways = {
        "in turn": lambda: [one(pair) for pair in problems],
        "batched": lambda: train_batched(stacked, starts, settings),
        "threads": in_threads,
    }
    values = {name: np.array(way()) for name, way in ways.items()}
    taken = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            begun, used = time.perf_counter(), time.process_time()
            way()
            taken[name].append((time.perf_counter() - begun, time.process_time() - used))
    row = {"stage": stage, "D": dimension, "seeds": SEEDS}
    for name, times in taken.items():
        row[f"{name}, s"], row[f"{name}, processor s"] = (
            float(x) for x in np.median(times, axis=0)
        )
        apart = np.abs(values[name] / values["in turn"] - 1).max()
        row[f"{name}, same"] = bool(apart <= MARGIN)
    for name in ("batched", "threads"):
        row[f"{name}, gain"] = row["in turn, s"] / row[f"{name}, s"]
    return row


def train_batched(objectives, starts, settings: Training) -> list[float]:
    """`train` of small problems, which drop no columns, for all seeds at once; their losses."""
    method, dtype = OPTIMISERS[settings.optimiser], starts.dtype
    size = starts[0].size ** 0.5
    tol = jnp.asarray(settings.tol * size, dtype)
    unit = jnp.ones((len(starts), 1, starts.shape[2]), dtype)
    scaled, state = starts, _init(objectives, starts, unit, settings.optimiser)
    for segment in range(MOST_SEGMENTS):
        gradients = method.progress(state).gradient / unit
        if np.all(np.linalg.norm(gradients, axis=(1, 2)) <= tol):
            return [float(x) for x in method.progress(state).value]
        if starts.shape[2] > 1 and 0 < segment <= len(training.SEGMENTS):
            scaled, unit = _in_new_units(scaled * unit)
            state = _init(objectives, scaled, unit, settings.optimiser)
        last = segment >= len(training.SEGMENTS)
        length = training.LAST_SEGMENT if last else training.SEGMENTS[segment]
        scaled, state = _advance(
            objectives, scaled, unit, state, jnp.asarray(length), tol, settings.optimiser
        )
    raise RuntimeError(f"not converged: gradients {np.linalg.norm(gradients, axis=(1, 2)) / size}")


@eqx.filter_jit
def _init(objectives, scaled, unit, optimiser: str):
    return eqx.filter_vmap(
        lambda objective, scaled, unit: training._init(objective, scaled, unit, optimiser)
    )(objectives, scaled, unit)


@eqx.filter_jit
def _advance(objectives, scaled, unit, state, length, tol, optimiser: str):
    def advance(objective, scaled, unit, state):
        return training._advance(objective, scaled, unit, state, length, tol, optimiser)[:2]

    return eqx.filter_vmap(advance)(objectives, scaled, unit, state)


@jax.jit
@jax.vmap
def _in_new_units(factor):
    factor = training._orthogonal(factor)
    unit = training._units(factor)
    return factor / unit, unit
