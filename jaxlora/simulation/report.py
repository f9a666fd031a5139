"""Simulations as JSON objects and as tables for people."""

import dataclasses
import math
from typing import Any

from ..report import Json, number, parameters_of, row
from .ensemble import Simulation
from .experiment import Outcome
from .starts import StageStatus

STAGES = ("pretraining", "finetuning")


def simulation_to_json(simulation: Simulation) -> Json:
    """A simulation as a JSON object with the names of a prediction, and every seed's numbers."""
    setting = dataclasses.asdict(simulation.setting)
    return {
        "parameters": parameters_of(simulation.task),
        "setting": {"dim": setting.pop("dimension"), **setting},
        **{stage: _stage(getattr(simulation, stage)) for stage in STAGES},
        "stderr": {stage: _stage(getattr(simulation.stderr, stage)) for stage in STAGES},
        "status": {stage: _status(simulation, stage) for stage in STAGES},
        "seeds": [_outcome(outcome) for outcome in simulation.outcomes],
    }


def simulation_to_table(report: Json) -> str:
    """The JSON object of a simulation as a table."""
    parameters = report["parameters"] | {"dim": report["setting"]["dim"]}
    lines = ["  ".join(f"{k}={v}" for k, v in parameters.items() if v is not None), ""]
    for stage in STAGES:
        status = report["status"][stage]
        lines.append(f"{stage}: {status['result']}")
        for name, value in report[stage].items():
            lines.append(row(name, value, report["stderr"][stage][name]))
        counts = (f"{k} {v:g}" for k, v in status.items() if k != "result" and v is not None)
        lines += ["  " + ", ".join(counts), ""]
    count = len(report["seeds"])
    lines.append(f"means over {count} seed{'s' * (count > 1)}, {report['seconds']:.1f} s")
    return "\n".join(lines)


def _stage(values) -> Json:
    return {name: number(value) for name, value in values._asdict().items()}


def _status(simulation: Simulation, stage: str) -> Json:
    """The worst and the total over seeds."""
    statuses = [s for o in simulation.outcomes if (s := getattr(o, f"{stage}_status")) is not None]
    if not statuses:
        given = stage == "pretraining" and simulation.task.given is not None
        return {"result": "given" if given else "not trained"}
    spreads = [status.spread for status in statuses if not math.isnan(status.spread)]
    informed = simulation.setting.informed and stage == "finetuning"
    return {
        "result": "converged" if all(s.converged for s in statuses) else "not converged",
        "gradient": number(max(status.gradient for status in statuses)),
        "iterations": sum(status.iterations for status in statuses) / len(statuses),
        "starts": sum(status.starts for status in statuses),
        "unconverged_starts": sum(status.unconverged for status in statuses),
        "largest_spread": max(spreads, default=None),
        **({"kept_informed": sum(s.informed for s in statuses)} if informed else {}),
    }


def _outcome(outcome: Outcome) -> Json:
    def status(stage: StageStatus | None) -> Any:
        if stage is None:
            return None
        values = stage._asdict()
        return {k: number(v) if isinstance(v, float) else v for k, v in values.items()}

    return {
        "seed": outcome.seed,
        **{stage: _stage(getattr(outcome, stage)) for stage in STAGES},
        "status": {stage: status(getattr(outcome, f"{stage}_status")) for stage in STAGES},
    }
