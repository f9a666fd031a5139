"""Training real layers: ours against PyTorch's and SciPy's L-BFGS on the same data and loss.

Every run is a process of its own, so that its peak memory is its own. All start at the same weights
and stop at a root-mean-square gradient of 1e-6 a weight; how much higher than ours the objective is
where they end is stated. SciPy is given our compiled loss; PyTorch computes its own, with its
better number of threads. Times are medians of three trainings where these are short, and leave out
drawing the data and compiling, which is stated apart. A single evaluation is timed against
PyTorch's in its process, in turn and on the same memory: that of two need not be equally fast.
"alone" is our training by L-BFGS alone, in float64 throughout.
"""

import argparse
import contextlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time

PRETRAINING, FINETUNING = (100, 200, 300), (2000, 10_000)
MARGIN = 1e-7  # relative difference of objectives that count as the same
GRADIENT = 1e-6
LARGEST = 3000  # iterations of a peer
RUNS, RUN_SECONDS = 3, 10
REST = 0.3  # seconds before a call, in which the threads of the one before cease to wait for work


def problem(stage: str, dimension: int, seed: int = 0):
    """The objective and the start (D, k) of a seed, the same in every process."""
    import jax
    import jax.numpy as jnp

    import jaxlora
    from jaxlora.simulation import Setting
    from jaxlora.simulation.stages import Stages

    if stage == "pretraining":
        task = jaxlora.Task(
            tokens=3, kappa0=1, kappa=1, alpha=0.1, delta=0.5, lam=0.01, alpha_ft=3, lam_ft=0.2
        )
    else:
        task = jaxlora.Task(tokens=3, delta=0.5, given=(1.5, 1.5, 1.0), alpha_ft=3, lam_ft=0.5)
    stages = Stages(task, Setting(dimension), seed)
    if stage == "pretraining":
        objective = stages.pretraining(stages.pretraining_sequences())
    else:
        objective = stages.finetuning(stages.layers(None), None)
    columns = dimension if stage == "pretraining" else 1
    return objective, jax.random.normal(jax.random.key(5 + seed), (dimension, columns), jnp.float64)


def alone(stage: str, dimension: int) -> dict:
    """Our training by L-BFGS alone, in float64."""
    return ours(stage, dimension, "optax-alone")


def ours(stage: str, dimension: int, optimiser: str = "optax") -> dict:
    """Our training, and the machine's limits for a single evaluation in float64."""
    import equinox as eqx
    import jax
    import numpy as np

    from jaxlora.simulation.training import Training, train

    objective, start = problem(stage, dimension)
    begun = time.perf_counter()
    train(objective, start, Training(optimiser))
    first = time.perf_counter() - begun

    def run():
        begun = time.perf_counter()
        trained = train(objective, start, Training(optimiser))
        return {"seconds": time.perf_counter() - begun, "trained": trained}

    median = median_run(run)
    trained = median["trained"]
    evaluate = eqx.filter_jit(lambda objective, x: objective.value_and_gradient(x))
    once = best_time(lambda: jax.block_until_ready(evaluate(objective, start)))
    inputs = np.asarray(objective.data.inputs).reshape(-1, dimension)
    factor = np.asarray(start)
    multiply = best_time(lambda: inputs @ factor)
    # Both the matrix product and the reading of X are needed twice.
    share = 2 * multiply / once
    if stage == "pretraining":
        limit = {"matrix_product_gflops": 2 * inputs.size * factor.shape[1] / multiply / 1e9}
    else:
        limit = {"bandwidth_gb_s": inputs.nbytes / multiply / 1e9}
    return {
        "seconds": median["seconds"],
        "evaluations": trained.evaluations,
        "ms_per_evaluation": 1e3 * once,
        "value": trained.value,
        "gradient": trained.gradient,
        "share_of_limit": share,
        "seconds_with_compilation": first,
        **limit,
    }


def scipy(stage: str, dimension: int) -> dict:
    """SciPy's L-BFGS on our compiled loss."""
    import equinox as eqx
    import jax.numpy as jnp
    import numpy as np
    from scipy.optimize import minimize

    objective, start = problem(stage, dimension)
    evaluate = eqx.filter_jit(lambda objective, x: objective.value_and_gradient(x))
    options = {"maxcor": 20, "maxiter": LARGEST, "maxfun": 2 * LARGEST, "ftol": 0, "gtol": 1e-12}
    begin = np.asarray(start).ravel()
    evaluate(objective, start)

    def run():
        trace = Trace(start.size)

        def function(x):
            value, gradient = evaluate(objective, jnp.asarray(x.reshape(start.shape)))
            trace.add(float(value), float(jnp.linalg.norm(gradient)))
            return float(value), np.asarray(gradient).ravel()

        with contextlib.suppress(Reached):
            minimize(function, begin, jac=True, method="L-BFGS-B", options=options)
        return trace.result()

    return median_run(run)


def torch(stage: str, dimension: int) -> dict:
    """PyTorch's L-BFGS with its strong Wolfe line search."""
    import equinox as eqx
    import jax
    import numpy as np
    import torch

    objective, start = problem(stage, dimension)
    data = objective.data

    def tensor(x):
        return torch.from_numpy(np.require(x, requirements="W") if x.ndim < 3 else np.array(x))

    # The sequences are shared, not copied: PyTorch only reads them.
    inputs = torch.utils.dlpack.from_dlpack(data.inputs).reshape(-1, dimension)
    gram, target_sigma, frozen = (
        tensor(np.moveaxis(np.asarray(x), -1, 0)) for x in (data.gram, data.target, data.frozen)
    )
    ridge, scale = float(objective.ridge), float(objective.scale)
    count, tokens = gram.shape[:2]
    eye = torch.eye(tokens, dtype=torch.float64)

    def loss(factor):
        rows = (inputs @ factor).reshape(count, tokens, -1)
        norm = torch.sum(factor**2)
        products = rows @ rows.transpose(1, 2)
        difference = torch.softmax(frozen + scale * products - scale * norm * eye, 2) - target_sigma
        return torch.sum((difference @ gram) * difference) + ridge * norm

    def evaluate(factor):
        factor.grad = None
        value = loss(factor)
        value.backward()
        return value

    begin = torch.from_numpy(np.array(start))
    times = {}
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        times[threads] = best_time(lambda: evaluate(begin.clone().requires_grad_(True)), 3)
    threads = min(times, key=lambda threads: times[threads])
    torch.set_num_threads(threads)

    def run():
        trace = Trace(begin.numel())
        factor = begin.clone().requires_grad_(True)
        optimiser = torch.optim.LBFGS(
            [factor],
            lr=1,
            max_iter=LARGEST,
            max_eval=2 * LARGEST,
            history_size=20,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure():
            value = evaluate(factor)
            trace.add(value.item(), torch.linalg.norm(factor.grad).item())
            return value

        with contextlib.suppress(Reached):
            optimiser.step(closure)
        return trace.result()

    median = median_run(run)
    peak = peak_megabytes()
    our_evaluate = eqx.filter_jit(lambda objective, x: objective.value_and_gradient(x))
    each, ours_each = times_in_turn(
        lambda: evaluate(begin.clone().requires_grad_(True)),
        lambda: jax.block_until_ready(our_evaluate(objective, start)),
    )
    return median | {
        "ms_per_evaluation": 1e3 * each,
        "evaluation_over_ours": each / ours_each,
        "threads": threads,
        "peak_MB": peak,
    }


class Reached(Exception):
    """The gradient is small enough."""


class Trace:
    """Counts the evaluations of a function of `size` weights and ends an optimisation."""

    def __init__(self, size: int):
        self.size, self.count, self.reached = size, 0, False
        self.start = time.perf_counter()

    def add(self, value: float, norm: float) -> None:
        """An evaluation: the value and the norm of the gradient."""
        self.count, self.seconds = self.count + 1, time.perf_counter() - self.start
        self.value, self.gradient = value, norm / self.size**0.5
        if self.gradient <= GRADIENT:
            self.reached = True
            raise Reached

    def result(self) -> dict:
        """What the table shows."""
        return {
            "seconds": self.seconds if self.reached else None,
            "evaluations": self.count,
            "value": self.value,
            "gradient": self.gradient,
        }


def median_run(run) -> dict:
    """That of median time among `RUNS` results, or so many as begin within `RUN_SECONDS`."""
    begun, results = time.perf_counter(), []
    while len(results) < RUNS and (not results or time.perf_counter() - begun < RUN_SECONDS):
        results.append(run())
    return sorted(results, key=lambda result: result["seconds"] or math.inf)[len(results) // 2]


def best_time(function, repeats: int = 5) -> float:
    """The least run time of a function that has been called before."""
    function()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


def times_in_turn(*functions, repeats: int = 10) -> list[float]:
    """The median run time of each function, called in turn."""
    times = [[] for _ in functions]
    for _ in range(1 + repeats):
        for function, its in zip(functions, times, strict=True):
            time.sleep(REST)
            begun = time.perf_counter()
            function()
            its.append(time.perf_counter() - begun)
    return [statistics.median(its[1:]) for its in times]


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def batched(stage: str, dimension: int) -> dict:
    """Several seeds at once against one after another, by us."""
    from batched_seeds import batched_seeds

    return batched_seeds(stage, dimension)


def child(arguments: list[str]) -> None:
    """One run, printed as JSON."""
    import jax

    jax.config.update("jax_enable_x64", True)
    solver, stage, dimension = arguments
    functions = {
        "ours": ours,
        "alone": alone,
        "scipy": scipy,
        "torch": torch,
        "batched": batched,
    }
    function = functions[solver]
    result = function(stage, int(dimension))
    result.setdefault("peak_MB", peak_megabytes())
    print(json.dumps(result))


def run(solver: str, stage: str, dimension: int) -> dict:
    """A run in a process of its own."""
    command = [sys.executable, __file__, "--child", solver, stage, str(dimension)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    """All sizes and solvers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--pretraining", type=int, nargs="*", default=PRETRAINING)
    parser.add_argument("--finetuning", type=int, nargs="*", default=FINETUNING)
    parser.add_argument("--batched-seeds", action="store_true", help="that section alone")
    parsed = parser.parse_args()
    if parsed.child:
        child(parsed.child)
        return
    from batched_seeds import SIZES
    from measure import print_table, results_file, save

    path = results_file("simulation")
    seeds = [run("batched", *size) for size in SIZES]
    print_table(seeds)
    if parsed.batched_seeds:
        save(json.loads(path.read_text()) | {"batched_seeds": seeds}, path)
        return
    rows = []
    sizes = [("pretraining", D) for D in parsed.pretraining]
    sizes += [("finetuning", D) for D in parsed.finetuning]
    for stage, dimension in sizes:
        solvers = ("ours", "alone", "torch", "scipy")
        results = {name: run(name, stage, dimension) for name in solvers}
        best = results["ours"]
        for name, result in results.items():
            above = result["value"] / best["value"] - 1
            ratio = result["seconds"] and result["seconds"] / best["seconds"]
            row = {"stage": stage, "D": dimension, "solver": name, **result, "above_ours": above}
            row["same_minimum"] = abs(above) <= MARGIN
            rows.append(row | {"over_ours": ratio})
            print(rows[-1], flush=True)
    keys = ("stage", "D", "solver", "seconds", "over_ours", "evaluations", "ms_per_evaluation")
    keys += ("evaluation_over_ours", "share_of_limit", "peak_MB", "same_minimum")
    print_table([{key: row.get(key, "") for key in keys} for row in rows])
    save({"rows": rows, "batched_seeds": seeds}, path)


if __name__ == "__main__":
    main()
