"""Gradients of E' by all seven hyperparameters at figure 1's point, against two other ways.

usage: python benchmarks/gradient.py [--repeats N]

- `value`, `gradient`: `predict` alone, and with its gradient by κ0, κ, α, Δ, λ, α', λ', on 2¹⁵
  samples; seconds to compile and to run, peak memory, each in a process of its own.
- `differences`: the gradient by central differences of 14 predictions, and the largest relative
  error that this leaves at the best of several steps.
- `unrolled`: dE/dλ of the pre-training by differentiating through its iterations (so many damped
  steps, and in each so many Newton steps of every proximal map) against `implicit`, ours; on 2¹²
  samples, for the memory that unrolling takes.

Writes results/gradient.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxlora
from jaxlora import Options, pretraining
from jaxlora.execution import draw_samples
from jaxlora.noise import effective_noise
from jaxlora.proximal import solve
from jaxlora.start import from_order
from jaxlora.symmetric import identity_like
from measure import FIGURE_1, print_table, results_file, save, seconds

POINT = FIGURE_1 | {"lam": 0.05, "lam_ft": 0.2}
STATIC = {"tokens": POINT["tokens"]}
THETA = {name: value for name, value in POINT.items() if name != "tokens"}
SAMPLES, UNROLLED_SAMPLES = 2**15, 2**12
STEPS = (1e-2, 1e-3, 1e-4)  # relative, of differences
ITERATIONS, NEWTON_STEPS = (10, 20, 40), 8


def error_ft(theta):
    """E' at the hyperparameters `theta`."""
    task = jaxlora.Task(**STATIC, **theta)
    return jaxlora.predict(task, samples=SAMPLES).finetuning.test_error


def noise_unrolled(lam, draws, start, iterations: int):
    """Δ_eff by `iterations` damped steps of the pre-training's map, with proximal maps unrolled."""
    task = jaxlora.Task(**POINT | {"lam": lam})
    evolution = pretraining.StateEvolution(task, draws, Options())
    problem, target = evolution.problem, evolution.target

    def newton(x, centre, scale):
        _, gradient, hessian = problem.derivatives(x, target)
        matrix = scale * hessian + identity_like(hessian)
        return x - solve(matrix, scale * gradient + x - centre)[0]

    def step(carry, _):
        order, x = carry
        centre = evolution.fields(order)[1]
        inner = jax.lax.scan(
            lambda x, _: (newton(x, centre, order[2]), None), x, length=NEWTON_STEPS
        )
        minimum = start.minimum._replace(x=inner[0])
        averages = evolution.averages(order, minimum)
        return (pretraining.order_parameters(task, averages.conjugates), inner[0]), None

    begin = (0.9 * start.fixed_point.value, start.minimum.x)
    (order, _), _ = jax.lax.scan(step, begin, length=iterations)
    return effective_noise(task.teacher_variance(), order[0], order[1])


def noise_implicit(lam, draws, start):
    """Δ_eff of the known fixed point `start`, with the derivatives of the root."""
    task = jaxlora.Task(**POINT | {"lam": lam})
    solution = pretraining.Solution(start, jnp.asarray(0))
    Q, M, _ = pretraining.describe(task, draws, solution, Options()).order
    return effective_noise(task.teacher_variance(), Q, M)


def run(what: str, iterations: int, repeats: int) -> dict[str, float]:
    """One of the measurements, in this process."""
    theta = {name: jnp.asarray(value) for name, value in THETA.items()}
    if what in ("value", "gradient"):
        function = error_ft if what == "value" else jax.value_and_grad(error_ft)
        call = partial(function, theta)
    else:
        task = jaxlora.Task(**POINT)
        draws = jax.tree.map(
            lambda x: jnp.asarray(x[0]),
            draw_samples(task, UNROLLED_SAMPLES, 1, 0, Options()).pretraining,
        )
        start = from_order(jnp.array([1.0, 0.5, 1.0]))
        solved = eqx.filter_jit(pretraining.solve_state_evolution)(task, draws, start, Options())
        noise = partial(noise_unrolled, iterations=iterations) if iterations else noise_implicit
        compiled = jax.jit(jax.value_and_grad(lambda lam: noise(lam, draws, solved.solved)))
        jax.block_until_ready(solved)
        call = partial(compiled, theta["lam"])
    before = _peak()
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    first = time.perf_counter() - start
    warm = seconds(call, repeats, warm=True)
    gradient = result[1] if isinstance(result, tuple) else None
    return {
        "compile_s": first - warm,
        "run_s": warm,
        "peak_MB": _peak(),
        "more_MB": _peak() - before,
        "gradient": [float(x) for x in jax.tree.leaves(gradient)],
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_new_process(what: str, repeats: int, iterations: int = 0) -> dict:
    """`run` in a process of its own."""
    command = [sys.executable, __file__, "--run", what, "--repeats", str(repeats)]
    command += ["--iterations", str(iterations)]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(output.stdout)


def differences(exact: list[float]) -> list[dict[str, float]]:
    """Time and largest relative error of central differences at several steps."""
    rows = []
    for step in STEPS:
        start = time.perf_counter()
        found = []
        for name, value in THETA.items():
            # κ is at its least value: a one-sided difference, of second order too.
            ends = (0, 1, 2) if name == "kappa" else (-1, 1)
            values = [float(error_ft(THETA | {name: value * (1 + end * step)})) for end in ends]
            if name == "kappa":
                slope = (-3 * values[0] + 4 * values[1] - values[2]) / 2
            else:
                slope = (values[1] - values[0]) / 2
            found.append(slope / (value * step))
        taken = time.perf_counter() - start
        ordered = [found[list(THETA).index(name)] for name in sorted(THETA)]
        error = np.max(np.abs(np.array(ordered) / np.array(exact) - 1))
        rows.append({"step": step, "run_s": taken, "largest_error": float(error)})
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run", help="only this, in this process")
    parser.add_argument("--iterations", type=int, default=0)
    parsed = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if parsed.run:
        print(json.dumps(run(parsed.run, parsed.iterations, parsed.repeats)))
        return

    value, gradient = (in_new_process(what, parsed.repeats) for what in ("value", "gradient"))
    rows = [
        {"what": name} | {k: v for k, v in row.items() if k != "gradient"}
        for name, row in (("value", value), ("gradient", gradient))
    ]
    summary = {
        "gradient_over_value": gradient["run_s"] / value["run_s"],
        "more_to_compile_s": gradient["compile_s"] - value["compile_s"],
    }
    by_differences = differences(gradient["gradient"])
    best = min(row["largest_error"] for row in by_differences)
    summary |= {
        "differences_over_gradient": min(row["run_s"] for row in by_differences)
        / gradient["run_s"],
        "error_of_differences": best,
    }
    implicit = in_new_process("implicit", parsed.repeats)
    unrolled = [{"what": "implicit"} | implicit]
    for iterations in ITERATIONS:
        row = in_new_process("unrolled", parsed.repeats, iterations)
        unrolled.append({"what": f"unrolled, {iterations}"} | row)
    slopes = [row.pop("gradient")[0] for row in unrolled]
    for row, slope in zip(unrolled, slopes, strict=True):
        row["error"] = abs(slope / slopes[0] - 1)
    print_table(rows)
    print_table(by_differences)
    print_table(unrolled)
    print_table([summary])
    save(
        {"samples": SAMPLES, "unrolled_samples": UNROLLED_SAMPLES, **summary}
        | {"rows": rows, "differences": by_differences, "unrolled": unrolled},
        results_file("gradient"),
    )


if __name__ == "__main__":
    main()
