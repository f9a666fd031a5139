"""Proximal maps per second of every solver, with the share that reached gradient 1e-8.

usage: python benchmarks/proximal.py [--samples N] [--repeats N]

Both stages with softmax, from the centre χ̃ or z̃, at scales V or v of 1, 5, 25 and 125. Ours, and
vmapped solvers of jaxopt (on a 64th of the samples) and optimistix, all compiled with the same
options and run on the halves of the samples in two threads, as predictions do, against Newton's
method in a loop compiled by Numba over all cores, the machine's limit. Writes
results/proximal.json.
"""

import argparse
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix

import compiled_loop
from jaxlora.activations import as_activation
from jaxlora.programs import COMPILER_OPTIONS, GROUPS, in_threads
from jaxlora.proximal import FinetuningProblem, PretrainingProblem, make_solver
from jaxlora.symmetric import identity_like, packed_size, positions
from measure import print_table, results_file, save, seconds

SCALES, TOKENS = (1.0, 5.0, 25.0, 125.0), (2, 3, 4)
STAGES = ("pretraining", "finetuning")
SOLVERS = ("compiled loop", "ours", "jaxopt.BFGS", "jaxopt.LBFGS", "optimistix.BFGS")
TOLERANCE = 1e-8
SLICE = 64  # share of the samples that jaxopt's solvers get
CENTRE_SIZE, SPIKE = 0.8, 0.6  # √Q or √q, and m


def draw(stage: str, tokens: int, samples: int, seed: int = 0):
    """Problem, centre (n, samples) and data, of the size they have at figure 1's parameters."""
    rng = np.random.default_rng(seed)
    softmax = as_activation("softmax")
    size = packed_size(tokens)
    teacher, student = jnp.asarray(rng.standard_normal((2, size, samples)))
    pretraining = PretrainingProblem(softmax, tokens)
    field = 1.5 * pretraining.field(teacher)
    if stage == "pretraining":
        centre = SPIKE * teacher + (CENTRE_SIZE**2 - SPIKE**2) ** 0.5 * student
        return pretraining, centre, softmax(field)
    spike, noise = jnp.asarray(rng.standard_normal((2, tokens, samples)))
    centre = SPIKE * spike + (CENTRE_SIZE**2 - SPIKE**2) ** 0.5 * noise
    offset = CENTRE_SIZE * pretraining.field(student) - CENTRE_SIZE**2 * identity_like(field)
    target = softmax(field + spike[:, None] * spike[None] - identity_like(field))
    return FinetuningProblem(softmax, tokens), centre, (offset, target)


def optimistix_bfgs(problem, centre, scale, data):
    """Minimisers by vmapped optimistix.BFGS."""
    solver = optimistix.BFGS(rtol=1e-9, atol=1e-9)

    def one(centre, data):
        def objective(x, _):
            return problem.objective(x, scale, centre, data)

        return optimistix.minimise(objective, solver, centre, max_steps=500, throw=False).value

    return jax.vmap(one, in_axes=-1, out_axes=-1)(centre, data)


def by_name(name: str, problem, centre, scale, data):
    """A function of no arguments that returns the minimisers (n, samples)."""
    if name == "compiled loop":
        pre = isinstance(problem, PretrainingProblem)
        target = data if pre else data[1]
        offset = target if pre else data[0]
        arrays = [np.ascontiguousarray(np.moveaxis(x, -1, 0)) for x in (centre, offset, target)]
        centre, offset, target = arrays
        place = positions(problem.tokens)
        arguments = (0 if pre else 1, centre, scale, centre, offset, target, place, TOLERANCE)
        return lambda: compiled_loop.minimise(*arguments).T
    compiled = functools.partial(
        jax.jit, compiler_options=COMPILER_OPTIONS.get(jax.default_backend())
    )
    if name == "optimistix.BFGS":
        solve = compiled(lambda c, d: optimistix_bfgs(problem, c, scale, d))
    else:
        known = {"ours": "newton", "jaxopt.BFGS": "bfgs", "jaxopt.LBFGS": "lbfgs"}
        solver = make_solver(known[name], problem, TOLERANCE)
        solve = compiled(lambda c, d: solver.run(c, jnp.asarray(scale), c, d).params)
    size = centre.shape[-1] // GROUPS
    groups = [
        jax.tree.map(lambda x, first=first: x[..., first : first + size], (centre, data))
        for first in range(0, centre.shape[-1], size)
    ]

    def run():
        found = in_threads(lambda group: jax.block_until_ready(solve(*group)), groups)
        return jnp.concatenate(found, axis=-1)

    return run


def measure(name: str, stage: str, tokens: int, scale: float, samples: int, repeats: int):
    """Proximal maps per second, and the share whose gradient is below the tolerance."""
    share = SLICE if name.startswith("jaxopt") else 1
    problem, centre, data = draw(stage, tokens, samples // share)
    solve = by_name(name, problem, centre, scale, data)
    x = jnp.asarray(solve())
    time = seconds(solve, repeats, warm=True)
    gradient = scale * problem.gradient(x, data) + x - centre
    reached = jnp.max(jnp.abs(gradient), axis=0) <= TOLERANCE
    return {
        "stage": stage,
        "tokens": tokens,
        "scale": scale,
        "solver": name,
        "per_second": centre.shape[-1] / time,
        "reached": float(jnp.mean(reached)),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=2**13)
    parser.add_argument("--repeats", type=int, default=5)
    parsed = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    rows: list[dict[str, Any]] = []
    for stage, tokens, scale in itertools.product(STAGES, TOKENS, SCALES):
        runs = [
            measure(name, stage, tokens, scale, parsed.samples, parsed.repeats) for name in SOLVERS
        ]
        limit = runs[0]["per_second"]
        runs = [run | {"limit_over_this": limit / run["per_second"]} for run in runs]
        print_table(runs)
        rows += runs
    save({"samples": parsed.samples, "runs": rows}, results_file("proximal"))


if __name__ == "__main__":
    main()
