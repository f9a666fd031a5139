"""What a prediction holds: values, standard errors and status of both stages."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .results import Result


class Pretraining(eqx.Module):
    """Order parameters and observables of the pre-trained weights, all O(1).

    Q, M, V (8) and their conjugates (46)–(51) are those of the training; the errors (55), (20) and
    the effective noise Δ_eff (26) are those of the layer recalibrated by β. `critical_lam` is λ_c,
    from which on Ŵ = 0; the solution is stable where `replicon` (75) is below 1. NaN where
    undefined: the training side of a given pre-training.
    """

    Q: jax.Array
    M: jax.Array
    V: jax.Array
    Q_hat: jax.Array
    M_hat: jax.Array
    V_hat: jax.Array
    test_error: jax.Array
    train_error: jax.Array
    effective_noise: jax.Array
    critical_lam: jax.Array
    replicon: jax.Array


class Branch(eqx.Module):
    """The fixed point that one start leads to; `energy` is α' E'_train + λ' q, per dimension."""

    start: str = eqx.field(static=True)
    q: jax.Array
    m: jax.Array
    v: jax.Array
    energy: jax.Array
    result: jax.Array


class Finetuning(eqx.Module):
    """Order parameters and observables of the fine-tuned weights, all O(1).

    q, m, v (9) and their conjugates (62)–(72), E' (73), E'_train (20), the overlap o_w = m/√q, the
    forgetting E'' (84), and E' of the frozen layer (79). They are those of the branch of least
    energy, the empirical risk minimiser; `branches` has all. NaN where undefined: the overlap of
    ŵ = 0. The solution is stable where `replicon` (78) is below 1.
    """

    q: jax.Array
    m: jax.Array
    v: jax.Array
    q_hat: jax.Array
    m_hat: jax.Array
    v_hat: jax.Array
    test_error: jax.Array
    train_error: jax.Array
    overlap: jax.Array
    forgetting: jax.Array
    energy: jax.Array
    replicon: jax.Array
    frozen_test_error: jax.Array
    branches: tuple[Branch, ...]


class StandardErrors(eqx.Module):
    """Standard errors of the numbers of both stages; NaN for a single replicate."""

    pretraining: Pretraining
    finetuning: Finetuning


class Replicates(eqx.Module):
    """The numbers of both stages on every replicate of the draws, arrays (R,).

    What they are used for has the error bar of their scatter: a ratio of two, or the difference of
    two predictions with the same draws, which is known better than either.
    """

    pretraining: Pretraining
    finetuning: Finetuning


class SolveStatus(eqx.Module):
    """How one stage's solve ended, the worst over replicates; `iterations` is their mean.

    `residual` is the undamped max |F(x) − x|/(1e-3 + |x|) on the branches that were followed, and
    `switching_jump` the same with all proximal minima taken anew. `switched_share` is the share of
    samples whose minimum the plain start would have missed or that changed in the end; where it is
    above 1e-3 the effective description begins to break. It is 0 where a pilot of the samples, 512
    of a replicate at least, has no competing minima, and no minimum changed. `largest_gradient` is
    what is left of the proximal gradients. `stein_gap` is the share of the response
    (1/n) E Tr ∂x/∂centre that jumps of the proximal map x carry, by which its forms before and
    after Stein's lemma differ: sampling error where the map is continuous.
    `stability` is the verdict of the replicon, a `Stability`; `kinks` says what derivatives leave
    out here, a `Kink`.
    """

    result: jax.Array
    residual: jax.Array
    iterations: jax.Array
    switched_share: jax.Array
    largest_gradient: jax.Array
    stein_gap: jax.Array
    switching_jump: jax.Array
    stability: jax.Array
    kinks: jax.Array

    def failure(self) -> str | None:
        """What failed, in a sentence; None where nothing did (concrete values only)."""
        result = Result(int(self.result))
        if result.successful:
            return None
        return f"{result.message} Undamped residual {float(self.residual):.2e}."


class Status(eqx.Module):
    """The status of both stages."""

    pretraining: SolveStatus
    finetuning: SolveStatus

    def failure(self) -> str | None:
        """What failed, in a sentence for each stage; None where nothing did (concrete values)."""
        stages = (("pretraining", self.pretraining), ("finetuning", self.finetuning))
        failures = [f"{name}: {failure}" for name, stage in stages if (failure := stage.failure())]
        return " ".join(failures) or None


class Prediction(eqx.Module):
    """Both stages: means over the replicates, their standard errors, and how the solves ended."""

    pretraining: Pretraining
    finetuning: Finetuning
    stderr: StandardErrors
    status: Status
    replicates: Replicates


class ConvergenceError(RuntimeError):
    """A solve failed; `prediction` is what there is, its status included."""

    def __init__(self, message: str, prediction):
        super().__init__(message)
        self.prediction = prediction


def mean_and_stderr(values):
    """Means over the leading axis R of every leaf and their standard errors (NaN for one).

    Standard errors carry no derivatives, which would be infinite where they vanish.
    """
    leaves, structure = jax.tree.flatten(values)
    means = [jnp.mean(x, axis=0) for x in leaves]
    dtype = jnp.result_type(*(x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)))
    table = jnp.stack([jax.lax.stop_gradient(x).astype(dtype) for x in leaves])
    replicates = table.shape[1]
    if replicates == 1:
        stderr = jnp.full_like(table[:, 0], jnp.nan)
    else:
        stderr = jnp.std(table, axis=1, ddof=1) / np.sqrt(replicates)
    return structure.unflatten(means), structure.unflatten(list(stderr))
