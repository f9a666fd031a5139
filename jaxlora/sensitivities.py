"""Elasticities of the observables: by how many per cent each changes with one of a parameter."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .outputs import Prediction, mean_and_stderr
from .prediction import predict
from .tasks import PARAMETERS, Task

OBSERVABLES = {
    "error": lambda p: p.pretraining.test_error,
    "train_error": lambda p: p.pretraining.train_error,
    "effective_noise": lambda p: p.pretraining.effective_noise,
    "error_ft": lambda p: p.finetuning.test_error,
    "train_error_ft": lambda p: p.finetuning.train_error,
    "overlap": lambda p: p.finetuning.overlap,
    "forgetting": lambda p: p.finetuning.forgetting,
}


class Sensitivities(NamedTuple):
    """d log observable/d log θ by observable and parameter, with standard errors; NaN: undefined.

    `prediction` is the one that they are derivatives of; its `kinks` say what they leave out.
    """

    elasticities: dict[str, dict[str, float]]
    stderr: dict[str, dict[str, float]]
    prediction: Prediction


def sensitivities(task: Task, **numerics: Any) -> Sensitivities:
    """The elasticities of both stages' errors, Δ_eff and o_w by every real parameter of `task`.

    Errors are those of the replicates' own elasticities. Keywords as in `predict`. 0 for a
    parameter that is 0, where the logarithm means nothing.
    """
    names = [name for name in PARAMETERS if getattr(task, name) is not None]
    values = _parameters(task, names)
    names += [] if task.given is None else ["Q0", "Q", "M"]

    def observe(values):
        moved = eqx.tree_at(lambda t: _parameters(t, names), task, values)
        prediction = predict(moved, **numerics)
        observed = {name: one(prediction.replicates) for name, one in OBSERVABLES.items()}
        return observed, (observed, jax.lax.stop_gradient(prediction))

    slopes, (observed, prediction) = jax.jacfwd(observe, has_aux=True)(values)
    elasticities, stderr = {}, {}
    for name, by_parameter in slopes.items():
        # An infinite ridge changes nothing.
        table = jnp.stack(
            [
                jnp.where(jnp.isinf(value), 0.0, value * slope) / observed[name]
                for value, slope in zip(values, by_parameter, strict=True)
            ],
            axis=1,
        )
        means, errors = mean_and_stderr(table)
        elasticities[name] = dict(zip(names, means.tolist(), strict=True))
        stderr[name] = dict(zip(names, errors.tolist(), strict=True))
    return Sensitivities(elasticities, stderr, prediction)


def _parameters(task: Task, names: list[str]) -> list[jax.Array]:
    """Those that `names` has, then the three of a given pre-training."""
    of_task = [getattr(task, name) for name in names if name in PARAMETERS]
    return of_task if task.given is None else [*of_task, *task.given]
