"""Does every solve end well, or say why not? Random parameter points, both stages.

usage: python benchmarks/robustness.py [--points N] [--seed N] [--workers N] [--output FILE]

Draws points log-uniformly (T 2-5, kappa0 0.1-5, kappa 1-3, alpha 0.01-2, delta uniform in 0-5, lam
1e-3-3, alpha_ft 0.2-30, lam_ft 1e-3-10, fresh and reused sequences, softmax and identity), solves
each with 2^12 samples and holds the outcome to four claims:

- no solve raises, none returns a NaN where a number is defined;
- none reports success with an undamped residual above 1e-6;
- of the points whose last iterate is stable (both replicons < 0.95) and has hardly any sample that
  changes its minimum (switched share < 0.1 %), at least 98 % converge;
- every other failure is listed with its cause.

Prints a table, writes results/robustness.json, and exits 1 if a claim fails.
"""

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import pathlib
import sys
import time
from typing import Any

import equinox as eqx
import jax
import numpy as np

import jaxlora
from jaxlora.report import parameters_of, to_json
from measure import results_file, save

SAMPLES, REPLICATES = 2**12, 4
RANGES = {
    "kappa0": (0.1, 5.0),
    "kappa": (1.0, 3.0),
    "alpha": (0.01, 2.0),
    "lam": (1e-3, 3.0),
    "alpha_ft": (0.2, 30.0),
    "lam_ft": (1e-3, 10.0),
}
LARGEST_DELTA = 5.0
STABLE, SWITCHED, RESIDUAL, SHARE = 0.95, 1e-3, 1e-6, 0.98
# Undefined for good reason: the overlap of a vanishing update.
MAY_BE_UNDEFINED = {("finetuning", "overlap")}


def draw_points(count: int, seed: int) -> list[dict[str, Any]]:
    """Random parameter points, as arguments of `jaxlora.Task`."""
    rng = np.random.default_rng(seed)
    points = []
    for _ in range(count):
        point: dict[str, Any] = {
            name: float(np.exp(rng.uniform(*np.log(limits)))) for name, limits in RANGES.items()
        }
        point["delta"] = float(rng.uniform(0, LARGEST_DELTA))
        point["tokens"] = int(rng.integers(2, 6))
        point["reuse"] = bool(rng.integers(2))
        point["activation"] = ("softmax", "identity")[rng.integers(2)]
        points.append(point)
    return points


def solve_group(points: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """The outcomes of points that share their compiled program."""
    jax.config.update("jax_enable_x64", True)

    @eqx.filter_jit
    def predict(task):
        return jaxlora.predict(task, samples=SAMPLES, replicates=REPLICATES, throw=False)

    outcomes = []
    for index, point in points:
        start = time.perf_counter()
        try:
            task = jaxlora.Task(**point)
            outcome = {"parameters": parameters_of(task), **to_json(predict(task))}
        except Exception as error:
            outcome = {"parameters": point, "raised": repr(error)}
        outcomes.append((index, outcome | {"seconds": time.perf_counter() - start}))
    return outcomes


def judge(outcome: dict[str, Any]) -> dict[str, Any]:
    """What became of one point: whether it converged, was expected to, and why not."""
    if "raised" in outcome:
        return {"cause": f"raised {outcome['raised']}", "broken": True}
    status = outcome["status"]
    stages = ("pretraining", "finetuning")
    undefined = [
        f"{stage}.{name}"
        for stage in stages
        for name, value in outcome[stage].items()
        if value is None and (stage, name) not in MAY_BE_UNDEFINED
    ]
    success = {s: status[s]["result"] in ("converged", "collapsed") for s in stages}
    residuals = {s: _number(status[s]["residual"]) for s in stages}
    dishonest = [s for s in stages if success[s] and not residuals[s] <= RESIDUAL]
    replicons = {s: _number(outcome[s]["replicon"]) for s in stages}
    shares = {s: _number(status[s]["switched_share"]) for s in stages}
    eligible = all(replicons[s] < STABLE and shares[s] < SWITCHED for s in stages)
    causes = [
        f"{s}: {status[s]['result']}, residual {residuals[s]:.1e}, replicon {replicons[s]:.3g}, "
        f"switched share {shares[s]:.1e}"
        for s in stages
        if not success[s]
    ]
    causes += [f"success reported with residual {residuals[s]:.1e}" for s in dishonest]
    causes += [f"undefined: {', '.join(undefined)}"] if undefined else []
    return {
        "converged": all(success.values()),
        "eligible": eligible,
        "broken": bool(undefined or dishonest),
        "cause": "; ".join(causes) or None,
    }


def _number(value) -> float:
    return math.nan if value is None else float(value)


def solve_all(points: list[dict[str, Any]], workers: int) -> list[dict[str, Any]]:
    """The outcomes of all points, those of one compiled program in one process."""
    groups: dict[tuple, list] = {}
    for index, point in enumerate(points):
        key = (point["tokens"], point["activation"], point["reuse"])
        groups.setdefault(key, []).append((index, point))
    solved: list[tuple[int, dict[str, Any]]] = []
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        for outcomes in pool.map(solve_group, sorted(groups.values(), key=len, reverse=True)):
            solved += outcomes
            print(f"{len(solved)} of {len(points)} points", file=sys.stderr)
    return [outcome for _, outcome in sorted(solved, key=lambda pair: pair[0])]


def report(outcomes: list[dict[str, Any]], output: pathlib.Path) -> bool:
    """Print and write what became of the points; whether the claims hold."""
    verdicts = [judge(outcome) for outcome in outcomes]
    eligible = [v for v in verdicts if v.get("eligible")]
    share = np.mean([v["converged"] for v in eligible]) if eligible else math.nan
    broken = [v for v in verdicts if v["broken"]]
    summary = {
        "points": len(outcomes),
        "samples": SAMPLES,
        "converged": sum(v.get("converged", False) for v in verdicts),
        "stable": len(eligible),
        "share_of_stable_that_converge": float(share),
        "raised_nan_or_dishonest": len(broken),
        "median_seconds": float(np.median([o["seconds"] for o in outcomes])),
    }
    print(json.dumps(summary, indent=1))
    failures = []
    for outcome, verdict in zip(outcomes, verdicts, strict=True):
        if verdict["cause"]:
            flag = "stable" if verdict.get("eligible") else "      "
            shown = "  ".join(
                f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
                for k, v in outcome["parameters"].items()
                if v is not None
            )
            print(f"{flag} {verdict['cause']}\n       {shown}")
            failures.append({"parameters": outcome["parameters"], **verdict})
    save({"summary": summary, "failures": failures}, output)
    return bool(not broken and share >= SHARE)


def main() -> int:
    """Solve the points, print and write the outcome; 1 if a claim fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=pathlib.Path, default=results_file("robustness"))
    parsed = parser.parse_args()
    outcomes = solve_all(draw_points(parsed.points, parsed.seed), parsed.workers)
    return int(not report(outcomes, parsed.output))


if __name__ == "__main__":
    sys.exit(main())
