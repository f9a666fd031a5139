"""Are the error bars true? Coverage of the reported standard errors.

usage: python benchmarks/error_bars.py [--seeds N] [--workers N] [--output FILE]

Predicts five points with 100 seeds each, at the default cost, and compares every output with a
long-run reference from other seeds: the share of |x − reference| <= t stderr, t being Student's
97.5 % quantile with replicates − 1 degrees of freedom, should be 95 %. Pooled over the points, it
is held to 92-98 % for each output. Also gives the relative standard error of E' at figure 1's
point, as a root mean square over the seeds.

Prints a table, writes results/error_bars.json, and exits 1 if an output falls outside.
"""

import argparse
import concurrent.futures
import math
import multiprocessing
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from scipy.stats import t as student

import jaxlora
from jaxlora.options import REPLICATES, SAMPLES
from measure import FIGURE_1, FIGURE_3, results_file, save

LONG_RUNS, LONG_FACTOR = 8, 4  # of the reference: other seeds, each with more samples
LOW, HIGH = 0.92, 0.98
POINTS: dict[str, dict[str, Any]] = {
    "figure 1": FIGURE_1 | {"lam": 0.05, "lam_ft": 0.2},
    "figure 1, more noise": FIGURE_1 | {"delta": 2.0, "lam": 0.1, "lam_ft": 1.0},
    "figure 3, reused": FIGURE_3 | {"lam": 0.03, "lam_ft": 0.5, "reuse": True},
    "figure 3, fresh": FIGURE_3 | {"lam": 0.05, "lam_ft": 0.2},
    "identity": FIGURE_3 | {"lam": 0.1, "lam_ft": 1.0, "activation": "identity"},
}


def solve_point(name: str, seeds: int) -> dict[str, Any]:
    """Values and standard errors of one point for every seed, and the long-run reference."""
    jax.config.update("jax_enable_x64", True)
    task = jaxlora.Task(**POINTS[name])

    def predict(samples: int, seed: int) -> jaxlora.Prediction:
        return jaxlora.predict(task, samples=samples, replicates=REPLICATES, seed=seed, throw=False)

    runs = [predict(SAMPLES, seed) for seed in range(seeds)]
    long_runs = [predict(LONG_FACTOR * SAMPLES, 1000 + seed) for seed in range(LONG_RUNS)]
    outputs = {}
    for stage in ("pretraining", "finetuning"):
        for output in vars(getattr(runs[0], stage)):
            if output == "branches":
                continue

            def read(solved, output=output, stage=stage):
                return np.array([float(getattr(getattr(p, stage), output)) for p in solved])

            outputs[f"{stage}.{output}"] = {
                "value": read(runs).tolist(),
                "stderr": read([p.stderr for p in runs]).tolist(),
                "reference": float(np.mean(read(long_runs))),
                "reference_stderr": float(np.std(read(long_runs), ddof=1) / math.sqrt(LONG_RUNS)),
            }
    failed = sum(p.status.failure() is not None for p in runs + long_runs)
    return {"outputs": outputs, "failed": failed}


def main() -> int:
    """Measure, print and write; 1 if an output falls outside."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=pathlib.Path, default=results_file("error_bars"))
    parsed = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(parsed.workers, mp_context=context) as pool:
        solves = {name: pool.submit(solve_point, name, parsed.seeds) for name in POINTS}
        points = {name: solve.result() for name, solve in solves.items()}

    quantile = student.ppf(0.975, REPLICATES - 1)
    hits: dict[str, dict[str, list[bool]]] = {}
    for point, solved in points.items():
        for output, numbers in solved["outputs"].items():
            value, stderr = np.array(numbers["value"]), np.array(numbers["stderr"])
            # Exact numbers (the pre-training of the identity) have errors of rounding size.
            rounding = 1e-9 * (1 + np.abs(value))
            if np.all(stderr < rounding):
                continue
            inside = np.abs(value - numbers["reference"]) <= quantile * stderr + rounding
            hits.setdefault(output, {})[point] = inside.tolist()
    coverage = {
        output: {
            "pooled": float(np.mean(np.concatenate(list(by_point.values())))),
            **{point: float(np.mean(inside)) for point, inside in by_point.items()},
        }
        for output, by_point in hits.items()
    }
    outside = [o for o, c in coverage.items() if not LOW <= c["pooled"] <= HIGH]
    for output, shares in coverage.items():
        flag = "  <-- outside" if output in outside else ""
        each = "  ".join(f"{point} {share:.2f}" for point, share in shares.items())
        print(f"{output:<32} {each}{flag}")
    error = points["figure 1"]["outputs"]["finetuning.test_error"]
    relative = np.array(error["stderr"]) / np.array(error["value"])
    figure_1 = float(np.sqrt(np.mean(np.square(relative))))
    print(f"relative standard error of E' at figure 1's point: {figure_1:.2e}")
    failed = {name: solved["failed"] for name, solved in points.items()}
    print(f"solves that failed: {failed}")
    summary = {
        "seeds": parsed.seeds,
        "samples": SAMPLES,
        "replicates": REPLICATES,
        "student_quantile": float(quantile),
        "coverage": coverage,
        "outside": outside,
        "failed": failed,
        "figure_1_relative_stderr": figure_1,
    }
    save(summary, parsed.output)
    return int(bool(outside))


if __name__ == "__main__":
    sys.exit(main())
