"""Sampling errors of the estimators at equal cost.

usage: python benchmarks/variance.py [--seeds N] [--samples N]

Standard errors with plain Monte Carlo and with scrambled Sobol points, both with uniform weights,
one set of draws for both stages, and all minima of every sample searched for, and by default: Sobol
points for each stage, in one of the domains that symmetries relate, averaged by regression weights
and searched where a pilot says so. Each is the root mean square over seeds of what the scatter of 8
replicates gives. Variances are compared at the same run time, without the time to draw. Writes
results/variance.json.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlora
from jaxlora.execution import TEST_FACTOR, draw_samples
from jaxlora.prediction import _predict
from jaxlora.sampling import FINETUNING, TEST, Draws, FieldDraws, Samples, standard_normal
from jaxlora.symmetric import packed_size
from measure import FIGURE_1, FIGURE_3, print_table, results_file, save

REPLICATES = 8
OUTPUTS = ("m_hat", "v_hat", "test_error", "overlap", "replicon")
POINTS: dict[str, dict[str, Any]] = {
    "figure 1": FIGURE_1 | {"lam": 0.05, "lam_ft": 0.2},
    "figure 3, reused": FIGURE_3 | {"lam": 0.03, "lam_ft": 0.5, "reuse": True},
    "hardest": FIGURE_3 | {"lam": 0.1, "lam_ft": 0.2},
}
PLAIN = {
    "monte_carlo": jaxlora.Options(sampling="monte_carlo", exhaustive=True),
    "sobol": jaxlora.Options(sampling="sobol", exhaustive=True),
}
ESTIMATORS = PLAIN | {"default": jaxlora.Options()}


class PlainFieldDraws(FieldDraws):
    """Draws that are averaged plainly, tails included."""

    def responses(self, traces: jax.Array, norms: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tr X and |X|²_F as they are."""
        return traces, norms

    def controlled_mean(self, values: jax.Array, control: jax.Array) -> jax.Array:
        """The plain mean."""
        return self.mean(values)


class PlainDraws(PlainFieldDraws, Draws):
    """The same with spikes."""


def plain_samples(task: jaxlora.Task, samples: int, seed: int, options: jaxlora.Options) -> Samples:
    """As many draws as by default, one set for both stages, as they come and averaged plainly."""
    size = packed_size(task.tokens)

    def drawn(stream: int, count: int) -> Draws:
        parts = (task.tokens, task.tokens, size, size)
        normal = standard_normal(sum(parts), count, REPLICATES, seed, stream, options.sampling)
        split = np.split(normal, np.cumsum(parts)[:-1], axis=1)
        spike, noise, first, second = map(jnp.asarray, split)
        weights = jnp.full((REPLICATES, count), 1 / count)
        return PlainDraws(first, second, weights, spike, noise)

    train = drawn(FINETUNING, samples // REPLICATES)
    fields = PlainFieldDraws(train.first, train.second, train.weights)
    return Samples(fields, train, drawn(TEST, TEST_FACTOR * samples // REPLICATES), None)


def measure(task: jaxlora.Task, estimator: str, samples: int, seeds: int) -> dict[str, float]:
    """Root mean square over seeds of the standard errors, and the mean seconds a solve takes."""
    options, errors, times = ESTIMATORS[estimator], [], []
    for seed in range(-1, seeds):
        if estimator in PLAIN:
            drawn = plain_samples(task, samples, max(seed, 0), options)
        else:
            drawn = draw_samples(task, samples, REPLICATES, max(seed, 0), options)
        start = time.perf_counter()
        stderr = jax.block_until_ready(_predict(task, drawn, options)).stderr.finetuning
        if seed >= 0:  # the first solve compiles
            times.append(time.perf_counter() - start)
            errors.append([float(getattr(stderr, output)) for output in OUTPUTS])
    rms = np.sqrt(np.mean(np.square(errors), axis=0))
    return dict(zip(OUTPUTS, rms.tolist(), strict=True)) | {"seconds": float(np.mean(times))}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samples", type=int, default=2**15)
    parsed = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    rows, ratios = [], []
    for point, parameters in POINTS.items():
        task = jaxlora.Task(**parameters)
        measured = {e: measure(task, e, parsed.samples, parsed.seeds) for e in ESTIMATORS}
        rows += [{"point": point, "estimator": e} | numbers for e, numbers in measured.items()]
        ours = measured["default"]
        for peer in PLAIN:
            variance = {o: (measured[peer][o] / ours[o]) ** 2 for o in OUTPUTS}
            cost = measured[peer]["seconds"] / ours["seconds"]
            # At equal cost a slower estimator has fewer samples.
            equal = {o: ratio * cost for o, ratio in variance.items()}
            ratios.append({"point": point, "variance of": peer} | equal)
    print_table(rows)
    print("\nvariance over that of the default, at equal cost")
    print_table(ratios)
    save(
        {"samples": parsed.samples, "standard_errors": rows, "variance_ratios": ratios},
        results_file("variance"),
    )


if __name__ == "__main__":
    main()
