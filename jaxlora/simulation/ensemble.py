"""Experiments over several seeds: means, standard errors and what failed."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..checkpoints import Checkpoint
from ..identity import identity_of
from ..outputs import mean_and_stderr
from ..report import parameters_of
from ..tasks import Task
from .experiment import Outcome, run_finetunings
from .measurements import MeasuredFinetuning, MeasuredPretraining
from .setting import Setting, check_memory, sizes_of
from .stages import Watch

# What fine-tunings of one pre-training may differ in.
FINETUNING = ("alpha_ft", "lam_ft", "beta", "active_ratio")


class SimulationErrors(NamedTuple):
    """Standard errors of both stages' numbers; NaN for a single seed."""

    pretraining: MeasuredPretraining
    finetuning: MeasuredFinetuning


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Both stages trained at finite D: means over seeds, standard errors, every seed's outcome.

    Standard errors are NaN for a single seed, numbers where undefined.
    """

    task: Task
    setting: Setting
    pretraining: MeasuredPretraining
    finetuning: MeasuredFinetuning
    stderr: SimulationErrors
    outcomes: tuple[Outcome, ...]

    def failure(self) -> str | None:
        """Which stages of which seeds did not converge, in a sentence; None where all did."""
        sentences = []
        for stage in ("pretraining", "finetuning"):
            statuses = [(o.seed, getattr(o, f"{stage}_status")) for o in self.outcomes]
            failed = [(seed, s) for seed, s in statuses if s is not None and not s.converged]
            if failed:
                worst = max(status.gradient for _, status in failed)
                seeds = ", ".join(str(seed) for seed, _ in failed)
                sentences.append(
                    f"{stage}: seed {seeds} did not reach the gradient "
                    f"{self.setting.training.tol:.1e} from any start; the largest left is "
                    f"{worst:.1e}. Allow more iterations or a larger tolerance."
                )
        return " ".join(sentences) or None


def simulate(
    task: Task,
    setting: Setting,
    *,
    seeds: int = 4,
    seed: int = 0,
    watch: Watch = lambda stage, report: None,
    checkpoint: Checkpoint | None = None,
    on_seed: Any = lambda seed: None,
) -> Simulation:
    """Train real layers of dimension D for `seeds` seeds from `seed` on (theory sections 1 and 8).

    `watch` is told of the training's progress, `on_seed` of each seed that begins. With a
    `checkpoint` an interrupted run goes on where it was and ends at the same numbers.

    Raises ValueError for parameters outside their range, for a size that rounds to 0 and for data
    that does not fit into the memory; CheckpointError where the disk does not take a checkpoint;
    RuntimeError for float64 without `jax_enable_x64`.
    """
    (simulation,) = simulate_finetunings(
        [task],
        setting,
        seeds=seeds,
        seed=seed,
        watch=watch,
        checkpoint=checkpoint,
        on_seed=on_seed,
    )
    return simulation


def simulate_finetunings(
    tasks: Sequence[Task],
    setting: Setting,
    *,
    seeds: int = 4,
    seed: int = 0,
    watch: Watch = lambda stage, report: None,
    checkpoint: Checkpoint | None = None,
    on_seed: Any = lambda seed: None,
) -> list[Simulation]:
    """As `simulate` for each of `tasks`, fine-tunings of one pre-training, with the same numbers.

    The tasks may differ in α', λ', β and ρ. For each seed W is trained once. `watch` is told which
    of several fine-tunings is trained.

    Raises what `simulate` raises, and ValueError for no tasks or other differences between them.
    """
    check_seeds(seeds, seed)
    check_together(tasks)
    for task in tasks:
        check(task, setting)
    if checkpoint is not None:
        checkpoint.claim({**_parameters_of(tasks), **dataclasses.asdict(setting)})
    outcomes = []
    for number in range(seed, seed + seeds):
        on_seed(number)
        one = checkpoint and checkpoint.stage(f"seed{number}")
        outcomes.append(list(run_finetunings(tasks, setting, number, watch=watch, checkpoint=one)))
    by_task = zip(tasks, zip(*outcomes, strict=True), strict=True)
    return [_simulation(task, setting, of_task) for task, of_task in by_task]


def _simulation(task: Task, setting: Setting, outcomes: tuple[Outcome, ...]) -> Simulation:
    pairs = [(outcome.pretraining, outcome.finetuning) for outcome in outcomes]
    table = jax.tree.map(lambda *x: jnp.asarray(x, float), *pairs)
    mean, stderr = (jax.tree.map(float, x) for x in mean_and_stderr(table))
    return Simulation(task, setting, mean[0], mean[1], SimulationErrors(*stderr), outcomes)


def _parameters_of(tasks: Sequence[Task]) -> dict[str, Any]:
    """The parameters of the tasks, lists of those that several of them may differ in."""
    first, *others = (parameters_of(task) for task in tasks)
    first["activation"] = identity_of(tasks[0].activation, tasks[0].tokens)
    if not others:
        return first
    return first | {name: [first[name], *(one[name] for one in others)] for name in FINETUNING}


def check_together(tasks: Sequence[Task]) -> None:
    """Raise ValueError unless the tasks are fine-tunings of one pre-training."""
    if not tasks:
        raise ValueError("tasks = []: must hold a task at least")
    for name in (field.name for field in dataclasses.fields(Task) if field.name not in FINETUNING):
        for task in tasks[1:]:
            if not eqx.tree_equal(getattr(tasks[0], name), getattr(task, name)):
                values = " and ".join(str(parameters_of(one)[name]) for one in (tasks[0], task))
                raise ValueError(
                    f"{name} = {values}: must be the same for all fine-tunings of a pre-training"
                )


def check_seeds(seeds, seed) -> None:
    """Raise ValueError for a number of seeds, or a first one, that makes no sense."""
    for name, value, least in (("seeds", seeds, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} = {value!r}: must be an integer of at least {least}")


def check(task: Task, setting: Setting) -> None:
    """Raise ValueError for an experiment that cannot be run, RuntimeError without float64."""
    task.check()
    if setting.dtype == jnp.float64 and jnp.zeros(()).dtype != jnp.float64:
        raise RuntimeError(
            "float64 is off: call jax.config.update('jax_enable_x64', True) before making a Task, "
            "or ask for Setting(precision='float32')"
        )
    if any(leaf.ndim for leaf in jax.tree.leaves(task)):
        raise ValueError("the parameters of a task must be scalars in an experiment")
    if task.given is not None:
        Q0, Q, M = (float(x) for x in task.given)
        if Q * Q0 < M**2:
            raise ValueError(
                f"given Q = {Q:g}: must be at least M²/Q0 = {M**2 / Q0:g} in an experiment"
            )
    check_memory(sizes_of(task, setting), setting)
