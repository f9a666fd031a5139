"""What the benchmarks share: medians of run times, the machine, tables and files."""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

FIGURE_1 = {"tokens": 3, "kappa0": 1.0, "kappa": 1.0, "alpha": 0.1, "delta": 0.5, "alpha_ft": 3.0}
FIGURE_3 = {"tokens": 2, "kappa0": 0.5, "kappa": 1.0, "alpha": 0.2, "delta": 0.5, "alpha_ft": 3.0}


def seconds(function: Callable[[], Any], repeats: int = 5, *, warm: bool = False) -> float:
    """Median run time of `function`, which is called once before unless it is warm."""
    if not warm:
        jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def machine() -> dict[str, Any]:
    """Processor, cores and versions that a result belongs to."""
    processor = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if "model name" in line
        ]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "jaxopt")},
    }


def results_file(name: str) -> pathlib.Path:
    """Where the results of the benchmark of that name are kept."""
    return pathlib.Path(__file__).parent / "results" / f"{name}.json"


def save(results: dict[str, Any], path: pathlib.Path) -> None:
    """Write results and the machine they belong to."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the same keys as columns under these names."""
    cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
