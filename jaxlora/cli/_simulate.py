"""`jaxlora simulate`: real attention layers of finite dimension, trained and measured."""

import argparse
import json
import sys
import time

from ..simulation import Checkpoint, Setting, Simulation, Training, simulate
from ..simulation.optimisers import OPTIMISERS
from ..simulation.progress import ProgressLine
from ..simulation.report import simulation_to_json, simulation_to_table
from ..simulation.setting import CENTRINGS
from ..tasks import Task
from ._arguments import add_flags, configure, task_of
from ._exit_codes import NOT_SOLVED, OK


def add_command(commands) -> None:
    """Add `simulate` to the commands."""
    parser = commands.add_parser("simulate", help="train layers of finite dimension and measure")
    parser.set_defaults(work=work, show=show)
    add_flags(parser, theory=False)
    group = add_experiment(parser)
    group.add_argument("--dim", type=int, required=True, metavar="D", help="dimension")


def add_experiment(parser: argparse.ArgumentParser):
    """The flags of an experiment but its dimension; returns their group."""
    group = parser.add_argument_group("experiment")
    group.add_argument(
        "--seeds", type=int, default=4, metavar="N", help="how many, from --seed on (%(default)s)"
    )
    group.add_argument(
        "--test-samples",
        type=int,
        default=10_000,
        metavar="N",
        help="fresh sequences a seed (%(default)s)",
    )
    group.add_argument(
        "--centring",
        choices=CENTRINGS,
        default="population",
        help="the mean that centres A (%(default)s)",
    )
    group.add_argument(
        "--normalise-teacher", action="store_true", help="|w*|² = D exactly: less scatter"
    )
    group.add_argument(
        "--starts",
        type=int,
        default=4,
        metavar="N",
        help="initialisations of the fine-tuning, of which the best is kept (%(default)s)",
    )
    group.add_argument(
        "--informed-start", action="store_true", help="fine-tune from w = w* as well"
    )
    group.add_argument(
        "--pretraining-starts",
        type=int,
        default=1,
        metavar="N",
        help="initialisations of the pre-training, of which the best is kept (%(default)s)",
    )
    group.add_argument(
        "--tol",
        type=float,
        metavar="X",
        help="root-mean-square gradient a weight to train to (1e-6, in float32 1e-4)",
    )
    group.add_argument(
        "--max-iterations", type=int, default=3000, metavar="N", help="of a training (%(default)s)"
    )
    group.add_argument(
        "--optimiser",
        choices=tuple(OPTIMISERS),
        help="whose L-BFGS (optax); optax-alone: without message passing before it, which brings "
        "large fine-tunings close to a minimum",
    )
    group.add_argument(
        "--checkpoint", metavar="DIR", help="save what is done in DIR, and go on from what is there"
    )
    return group


def setting_of(parsed: argparse.Namespace, dimension: int) -> Setting:
    """The setting that the flags describe; raises ValueError for a bad one."""
    chosen = {"tol": parsed.tol, "optimiser": parsed.optimiser}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    return Setting(
        dimension,
        test_samples=parsed.test_samples,
        centring=parsed.centring,
        normalise_teacher=parsed.normalise_teacher,
        precision=parsed.precision,
        starts=parsed.starts,
        pretraining_starts=parsed.pretraining_starts,
        informed=parsed.informed_start,
        training=Training.of(parsed.precision, max_iterations=parsed.max_iterations, **chosen),
    )


def simulate_as_asked(parsed: argparse.Namespace, task: Task, setting: Setting) -> Simulation:
    """Run the experiment of the flags, with a line of progress on stderr."""
    with ProgressLine(parsed.seeds, always=parsed.verbose) as line:
        checkpoint = None
        if parsed.checkpoint is not None:
            checkpoint = Checkpoint(parsed.checkpoint).stage(f"dim{setting.dimension}")
        return simulate(
            task,
            setting,
            seeds=parsed.seeds,
            seed=parsed.seed,
            watch=line.watch,
            on_seed=line.on_seed,
            checkpoint=checkpoint,
        )


def work(parsed: argparse.Namespace) -> tuple[Simulation, float]:
    """The simulation, and the seconds that it took."""
    start = time.monotonic()
    configure(parsed)
    simulation = simulate_as_asked(parsed, task_of(parsed), setting_of(parsed, parsed.dim))
    return simulation, time.monotonic() - start


def show(parsed: argparse.Namespace, done: tuple[Simulation, float]) -> int:
    """Print the simulation; returns the exit code."""
    simulation, seconds = done
    report = simulation_to_json(simulation) | {"seconds": seconds}
    if parsed.format == "json":
        print(json.dumps(report, allow_nan=False, indent=1))
    else:
        print(simulation_to_table(report))
    if failure := simulation.failure():
        print(f"jaxlora simulate: not converged: {failure}", file=sys.stderr)
        return NOT_SOLVED
    return OK
