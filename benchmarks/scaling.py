"""Time and memory against the number of samples, of tokens and of points solved at once.

usage: python benchmarks/scaling.py [--repeats N]

At figure 1's point with 4 replicates, each run in a process of its own: `first` is the first call
with compilation, `warm` a later one. The exponents are those of warm ~ size^exponent, fitted to the
larger half of the sizes. Writes results/scaling.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

from measure import FIGURE_1, print_table, results_file, save, seconds

POINT = FIGURE_1 | {"lam": 0.05, "lam_ft": 0.2}
REPLICATES = 4
SIZES = {
    "samples": [2**k for k in range(11, 19)],
    "tokens": [2, 3, 4, 5, 6, 8],
    "points": [1, 2, 4, 8],
}
DEFAULT = {"samples": 2**13, "tokens": 3, "points": 1}


def run(sizes: dict[str, int], repeats: int) -> None:
    """Solve in this process, and print what it took as JSON."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    import jaxlora

    task = jaxlora.Task(**POINT | {"tokens": sizes["tokens"]})

    def error(lam_ft):
        point = eqx.tree_at(lambda t: t.lam_ft, task, lam_ft)
        solved = jaxlora.predict(
            point, samples=sizes["samples"], replicates=REPLICATES, throw=False
        )
        return solved.finetuning.test_error, solved.status.finetuning.result

    # Several points go through vmap; one is called as users call it.
    many = jax.jit(jax.vmap(error)) if sizes["points"] > 1 else error
    ridges = 0.2 * jnp.linspace(1.0, 2.0, sizes["points"]).squeeze()
    start = time.perf_counter()
    _, results = jax.block_until_ready(many(ridges))
    first = time.perf_counter() - start
    print(
        json.dumps(
            {
                "first_s": first,
                "warm_s": seconds(lambda: many(ridges), repeats),
                "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "converged": int(np.sum(np.asarray(results) == jaxlora.Result.CONVERGED)),
            }
        )
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", type=json.loads, help="only solve these sizes, in this process")
    parsed = parser.parse_args()
    if parsed.run:
        run(parsed.run, parsed.repeats)
        return

    rows, exponents = [], {}
    for name, values in SIZES.items():
        for value in values:
            sizes = DEFAULT | {name: value}
            arguments = ["--run", json.dumps(sizes), "--repeats", str(parsed.repeats)]
            output = subprocess.run(
                [sys.executable, __file__, *arguments], check=True, capture_output=True, text=True
            )
            rows.append({"varied": name} | sizes | json.loads(output.stdout))
            print(rows[-1], flush=True)
        times = [row["warm_s"] for row in rows if row["varied"] == name]
        half = len(values) // 2
        fitted = np.polyfit(np.log(values[half:]), np.log(times[half:]), 1)
        exponents[name] = float(fitted[0])
    print_table(rows)
    print("exponents:", {name: round(value, 2) for name, value in exponents.items()})
    save({"runs": rows, "exponents": exponents}, results_file("scaling"))


if __name__ == "__main__":
    main()
