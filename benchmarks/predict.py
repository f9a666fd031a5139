"""One prediction of both stages at figure 1's point: time, memory and error, against two peers.

usage: python benchmarks/predict.py [--repeats N]

- `paper`: the method of the paper's appendix D: one SciPy minimisation a sample from its centre
  (BFGS, with the exact gradient), fresh draws in each of 250 damped iterations, 3·10⁴ samples. A
  few hundred minimisations are timed at the solution, and scaled to their number.
- `bfgs`: ours with vmapped jaxopt.BFGS (to gradients of 1e-8) in place of our proximal solver: one
  search for all minima of both stages is timed on a slice, and compared per sample.
- `default`: ours, 2¹⁵ samples in all.

Ours runs in a process of its own: `cold` is everything from its start to the printed number, with
`cache` the same where JAX's persistent compilation cache is filled. Writes results/predict.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import jaxlora
from jaxlora import finetuning, pretraining
from jaxlora.execution import draw_samples
from jaxlora.labelled import Labelled, labelled_fields
from measure import FIGURE_1, print_table, results_file, save, seconds

POINT = FIGURE_1 | {"lam": 0.05, "lam_ft": 0.2}
SAMPLES, SEARCHED = 2**15, {"newton": 2**12, "bfgs": 2**8}
PAPER_SAMPLES, PAPER_ITERATIONS, SLICE = 30_000, 250, 300


def predict_once(repeats: int) -> None:
    """Solve in this process, and print what it took as JSON."""
    task = jaxlora.Task(**POINT)

    def predict():
        return jaxlora.predict(task, samples=SAMPLES)

    start = time.perf_counter()
    prediction = predict()
    first = time.perf_counter() - start
    error, stderr = prediction.finetuning.test_error, prediction.stderr.finetuning.test_error
    print(
        json.dumps(
            {
                "first_call": first,
                "warm": seconds(predict, repeats) if repeats else None,
                "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "test_error": float(error),
                "relative_stderr": float(stderr / error),
            }
        )
    )


def in_new_process(repeats: int, cache: str | None = None) -> dict[str, float]:
    """`predict_once` in a process of its own, with the wall time of the process."""
    environment = dict(os.environ)
    if cache:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    command = [sys.executable, __file__, "--run", "--repeats", str(repeats)]
    start = time.perf_counter()
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(output.stdout) | {"process": time.perf_counter() - start}


def at_solution(samples: int, options: jaxlora.Options):
    """The maps of both stages on new draws, and figure 1's solutions."""
    task = jaxlora.Task(**POINT)
    prediction = jaxlora.predict(task, samples=2**13)
    pre, fine = prediction.pretraining, prediction.finetuning
    drawn = draw_samples(task, samples, 1, 0, options)
    first, draws = jax.tree.map(lambda x: x[0], (drawn.pretraining, drawn.finetuning))
    order = jnp.stack([pre.Q, pre.M, pre.V])
    fields = labelled_fields(task, order, draws, None, Labelled(None, None), options)
    return (
        (pretraining.StateEvolution(task, first, options), order),
        (
            finetuning.StateEvolution(task, fields, draws, options),
            finetuning.to_noise(jnp.stack([fine.q, fine.m, fine.v])),
        ),
    )


def search_seconds(solver: str) -> float:
    """Seconds a sample takes in one search for all its minima, both stages."""
    options = jaxlora.Options(solver=solver, proximal_tol=1e-8)
    total = 0.0
    for evolution, x in at_solution(SEARCHED[solver], options):
        search = eqx.filter_jit(lambda evolution, x: evolution.search(x))
        total += seconds(lambda search=search, e=evolution, x=x: search(e, x), 3)
    return total / SEARCHED[solver]


def paper_seconds() -> dict[str, float]:
    """Seconds of the paper's method, from a slice of its minimisations at figure 1's solution."""
    (first, order), (second, x) = at_solution(SLICE, jaxlora.Options())
    stages = {
        "pretraining": (first.fields(order)[1], order[2], first.target, pretraining_objective),
        "finetuning": (second.centre(x), x[2], second.data(x), finetuning_objective),
    }
    result = {}
    for stage, (centre, scale, data, plain) in stages.items():
        centre, scale = np.asarray(centre), float(scale)
        data = jax.tree.map(np.asarray, data)
        start = time.perf_counter()
        for i in range(SLICE):
            sample = jax.tree.map(lambda a, i=i: a[..., i], data)
            scipy.optimize.minimize(
                plain, centre[:, i], (scale, centre[:, i], sample), jac=True, method="BFGS"
            )
        each = (time.perf_counter() - start) / SLICE
        result[stage] = each * PAPER_SAMPLES * PAPER_ITERATIONS
    return result


def _loss_and_gradient(a, y):
    """|σ(a) − y|²_F of the row-wise softmax and its gradient, for one sample."""
    p = np.exp(a - a.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    d = p - y
    return np.sum(d * d), 2 * p * (d - np.sum(p * d, 1, keepdims=True))


def pretraining_objective(x, scale, centre, y):
    """−V Ψ of one sample and its gradient, x the packed field over √s."""
    tokens = len(y)
    rows, columns = np.triu_indices(tokens)
    root = np.where(rows == columns, 2**0.5, 1.0)
    a = np.zeros((tokens, tokens))
    a[rows, columns] = a[columns, rows] = root * x
    loss, g = _loss_and_gradient(a, y)
    gradient = (g + g.T)[rows, columns] / root
    return scale * loss + 0.5 * np.sum((x - centre) ** 2), scale * gradient + x - centre


def finetuning_objective(x, scale, centre, data):
    """−v ψ of one sample and its gradient, x = χ."""
    offset, y = data
    loss, g = _loss_and_gradient(offset + np.outer(x, x), y)
    gradient = (g + g.T) @ x
    return scale * loss + 0.5 * np.sum((x - centre) ** 2), scale * gradient + x - centre


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run", action="store_true", help="only solve, in this process")
    parsed = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if parsed.run:
        predict_once(parsed.repeats)
        return

    ours = in_new_process(parsed.repeats)
    cold = in_new_process(0)["process"]
    with tempfile.TemporaryDirectory() as cache:
        in_new_process(0, cache)
        cached = in_new_process(0, cache)["process"]
    paper = sum(paper_seconds().values())
    summary = {
        "warm_s": ours["warm"],
        "cold_s": cold,
        "cold_with_cache_s": cached,
        "peak_MB": ours["peak_MB"],
        "relative_stderr": ours["relative_stderr"],
        "paper_s": paper,
        "paper_over_ours": paper / ours["warm"],
        "bfgs_search_over_ours": search_seconds("bfgs") / search_seconds("newton"),
    }
    print_table([summary])
    save({"samples": SAMPLES, "paper_samples": PAPER_SAMPLES, **summary}, results_file("predict"))


if __name__ == "__main__":
    main()
