"""`jaxlora tune` at figures 1 and 3, each in a process of its own: seconds and evaluations.

usage: python benchmarks/tuning.py

The least E' over (λ, λ') at both figures, and at figure 3, with reused sequences, the largest o_w.
`wall_s` is everything from the start of the process to its exit, import and compilation included,
with an empty cache of compiled programs, and `cached_wall_s` with what that run has left there;
`cpu_s` is what the former took of all cores.

Writes results/tuning.json.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from measure import FIGURE_1, FIGURE_3, print_table, results_file, save

FIGURE_1 = FIGURE_1 | {"lam": 0.05, "lam_ft": 0.2}
FIGURE_3 = FIGURE_3 | {"lam": 0.1, "lam_ft": 0.2}
RUNS = (
    ("figure 1", FIGURE_1, ["--objective", "error_ft"]),
    ("figure 3", FIGURE_3, ["--reuse", "--objective", "error_ft"]),
    ("figure 3", FIGURE_3, ["--reuse", "--objective", "overlap"]),
)


def tune(task: dict[str, float], flags: list[str], cache: str) -> dict:
    """What the command reports, with the time of its process."""
    command = [sys.executable, "-m", "jaxlora", "tune", "--format", "json", *flags]
    for name, value in task.items():
        command += ["--" + name.replace("_", "-"), str(value)]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = cache
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if not process.stdout:
        raise RuntimeError(process.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(process.stdout) | {"wall_s": wall, "cpu_s": cpu}


def main() -> None:
    """Measure, print and write."""
    rows = []
    for figure, task, flags in RUNS:
        with tempfile.TemporaryDirectory() as cache:
            report, again = tune(task, flags, cache), tune(task, flags, cache)
        rows.append(
            {"point": figure}
            | {"objective": report["objective"], "wall_s": report["wall_s"]}
            | {"cached_wall_s": again["wall_s"], "cpu_s": report["cpu_s"]}
            | {"evaluations": report["evaluations"]}
            | {"value": report["value"], "stderr": report["stderr"]}
            | {name: found["value"] for name, found in report["tuned"].items()}
            | {f"{name}_stderr": found["stderr"] for name, found in report["tuned"].items()}
            | {name: report[name] for name in ("gradient_norm", "jump", "ending")}
        )
    print_table(rows)
    save({"runs": rows}, results_file("tuning"))


if __name__ == "__main__":
    main()
