"""A grid over (λ, λ') as one sweep, against a Python loop over `predict`.

usage: python benchmarks/sweep.py [--lam N] [--lam-ft N] [--samples N] [--repeats N]

At figure 1's parameters, 40 values of λ and 10 of λ' with 2¹³ samples by default, which gives E' a
relative standard error of 1e-3. `compile_s` is what the first run takes more than a later one. The
loop is timed on a diagonal of the grid and scaled. Writes results/sweep.json.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from measure import FIGURE_1, print_table, results_file, save

jax.config.update("jax_enable_x64", True)

import jaxlora  # noqa: E402
from jaxlora.sweeps import Theory  # noqa: E402

REPLICATES = 4


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lam", type=int, default=40)
    parser.add_argument("--lam-ft", type=int, default=10)
    parser.add_argument("--samples", type=int, default=2**13)
    parser.add_argument("--repeats", type=int, default=3)
    parsed = parser.parse_args()
    lam, lam_ft = np.geomspace(0.003, 0.5, parsed.lam), np.geomspace(0.05, 5.0, parsed.lam_ft)
    theory = Theory(parsed.samples, REPLICATES)

    def run():
        start = time.perf_counter()
        dataset = jaxlora.sweep(theory=theory, lam=lam, lam_ft=lam_ft, **FIGURE_1)
        return time.perf_counter() - start, dataset

    first, dataset = run()
    warm = statistics.median(run()[0] for _ in range(parsed.repeats))

    # A diagonal meets every part of the grid.
    diagonal = [(x, lam_ft[i % len(lam_ft)]) for i, x in enumerate(lam)]
    loop = []
    gaps = []
    for i, (x, y) in enumerate([diagonal[0], *diagonal]):
        start = time.perf_counter()
        task = jaxlora.Task(lam=x, lam_ft=y, **FIGURE_1)
        one = jaxlora.predict(task, samples=theory.samples, replicates=REPLICATES, throw=False)
        error = float(one.finetuning.test_error)
        if i > 0:  # the first one compiles
            loop.append(time.perf_counter() - start)
            there = float(dataset.test_error_ft.sel(lam=x, lam_ft=y))
            gaps.append(abs(there / error - 1))
    points = dataset.test_error_ft.size
    relative = dataset.test_error_ft_stderr / dataset.test_error_ft
    results = {
        "points": points,
        "samples": theory.samples,
        "seconds": warm,
        "points_per_s": points / warm,
        "compile_s": first - warm,
        "loop_s": statistics.mean(loop) * points,
        "loop_over_sweep": statistics.mean(loop) * points / warm,
        "failed": int((dataset.result_ft > 2).sum() + (dataset.result > 2).sum()),
        "largest_difference": max(gaps),
        "median_difference": statistics.median(gaps),
        "median_relative_stderr": float(np.median(relative)),
    }
    print_table([results])
    save(results, results_file("sweep"))


if __name__ == "__main__":
    main()
