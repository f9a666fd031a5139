"""The Bayes-optimal benchmark of both stages: overlaps, plug-in errors, lower bounds."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..execution import finish, harmless, mark_invalid, prepare
from ..laws import correlated
from ..observables import evaluate, side_fields
from ..options import REPLICATES, SAMPLES, Options
from ..outputs import mean_and_stderr
from ..programs import Program
from ..results import Result, worst
from ..sampling import Draws, Samples, draw_nodes
from ..symmetric import identity_like
from ..tasks import Task
from ._finetuning import CHANNELS, ChannelSolution, solve_channel
from ._posterior import COMPONENTS
from ._pretraining import observed_fields, pretraining_overlap

NODES = 64  # of each proposal: integrals are right to about 1e-3 of the posterior's width
SAMPLES_SHARE = 4  # samples of `predict` for each one here, which costs an integral


class BayesOptimal(eqx.Module):
    """The Bayes-optimal benchmark (theory section 7), all O(1).

    `Q` is Q_BO (87) and `q` is q_BO (92), `overlap` o_BO = √q_BO (98). The test errors are those
    of the model at the posterior mean, the paper's (91) and (97). The Bayes errors
    ½E|s1 − s2|², of the posterior mean of σ, bound those of every estimator.
    """

    Q: jax.Array
    q: jax.Array
    pretraining_test_error: jax.Array
    finetuning_test_error: jax.Array
    pretraining_bayes_error: jax.Array
    finetuning_bayes_error: jax.Array
    overlap: jax.Array


class BayesStatus(eqx.Module):
    """How q_BO was found.

    `is_bound`: reused sequences with α' < 1, where q = 1 and the fine-tuning errors are bounds on
    the benchmark and not its values. `uninformed_q` is where the solve from near 0 ends, and
    `free_entropy_gap` by how much the solution from near 1 is preferred to it. Posterior integrals
    are worth `effective_samples` independent nodes on average, `least_effective_samples` on the
    worst sample, fewer than ten on the share `poor_share`; `nishimori_gap` is
    (E⟨x⟩·χ* − E|⟨x⟩|²)/T, sampling error. They are NaN for reused sequences, where there is nothing
    to integrate.
    """

    result: jax.Array
    is_bound: jax.Array
    residual: jax.Array
    iterations: jax.Array
    effective_samples: jax.Array
    least_effective_samples: jax.Array
    poor_share: jax.Array
    nishimori_gap: jax.Array
    uninformed_q: jax.Array
    free_entropy_gap: jax.Array

    def failure(self) -> str | None:
        """What failed, in a sentence; None where nothing did (concrete values only)."""
        result = Result(int(self.result))
        if result.successful:
            return None
        return f"Bayes-optimal benchmark: {result.message} Residual {float(self.residual):.2e}."


class BayesBenchmark(eqx.Module):
    """The benchmark's values, their standard errors over replicates, and status."""

    values: BayesOptimal
    stderr: BayesOptimal
    status: BayesStatus


def samples_beside(samples: int, replicates: int) -> int:
    """The samples of a benchmark beside a prediction of so many: of a like cost."""
    return max(samples // SAMPLES_SHARE, replicates)


def bayes_optimal(
    task: Task,
    *,
    samples: int = SAMPLES // SAMPLES_SHARE,
    replicates: int = REPLICATES,
    seed: int = 0,
    throw: bool = True,
    channel: str = "conditional",
    options: Options | None = None,
) -> BayesBenchmark:
    """The Bayes-optimal benchmark of `task` (theory section 7; (85)–(98)), for any λ and λ'.

    `channel` = "printed" takes the paper's (96), which leaves z* − z out of the observation and so
    breaks the Nishimori identity, for comparison. Other arguments as in `predict`, with a quarter
    of its samples, 2¹⁴. Q_BO is right to 1e-8. For reused sequences q_BO = 1 where α' ≥ 1; below
    that the result is a bound, and the status says so.

    Raises ValueError for a parameter outside its range, for an effective pre-training given by hand
    and for an activation that is neither softmax nor identity; ConvergenceError where the solve
    fails and `throw` is set.
    """
    if channel not in CHANNELS:
        raise ValueError(f"channel = {channel!r}: must be one of {', '.join(CHANNELS)}")
    if task.given is not None:
        raise ValueError("given = (Q0, Q, M): the benchmark needs kappa0 and alpha instead")
    observed_fields(task)
    options = options or Options()
    normal = draw_nodes(COMPONENTS, task.tokens, NODES, replicates, seed)
    nodes = jnp.asarray(normal, options.precision)
    arguments = prepare(task, samples, replicates, seed, options)
    return finish(_benchmark(*arguments, nodes, channel), throw)


@Program
def _benchmark(task: Task, samples: Samples, options: Options, nodes, channel: str):
    return mark_invalid(task, _solve(harmless(task), samples, options, nodes, channel))


def _solve(task: Task, samples: Samples, options: Options, nodes, channel: str) -> BayesBenchmark:
    Q = pretraining_overlap(task)

    def solve(inputs):
        draws, nodes = inputs
        return solve_channel(task, Q, draws, nodes, options, channel)

    if task.reuse:
        solution = _known(Q, samples.finetuning.weights.shape[0])
    else:
        solution = jax.lax.map(solve, (samples.finetuning, nodes))

    def observe(inputs):
        q, draws = inputs
        return _observables(task, Q, q, draws)

    values, stderr = mean_and_stderr(jax.lax.map(observe, (solution.q, samples.test)))
    status = BayesStatus(
        worst(solution.result),
        (task.alpha_ft < 1) & task.reuse,
        jnp.max(solution.residual),
        jnp.mean(solution.iterations, dtype=Q.dtype),
        jnp.mean(solution.effective_samples),
        jnp.min(solution.least_effective_samples),
        jnp.mean(solution.poor_share),
        jnp.mean(solution.nishimori_gap),
        jnp.mean(solution.uninformed_q),
        jnp.mean(solution.free_entropy_gap),
    )
    return BayesBenchmark(values, stderr, status)


def _known(Q, replicates: int) -> ChannelSolution:
    """q = 1: two noiseless labels of a reused sequence give χ* away."""
    one = jnp.ones(replicates, Q.dtype)
    nan = jnp.full(replicates, jnp.nan, Q.dtype)
    count = jnp.zeros(replicates, int)
    result = jnp.full(replicates, int(Result.CONVERGED))
    return ChannelSolution(one, nan, nan, nan, nan, nan, nan, 0 * one, count, result)


def _observables(task: Task, Q, q, draws: Draws) -> BayesOptimal:
    plug_in = evaluate(eqx.tree_at(lambda t: t.beta, task, jnp.ones_like(Q)), Q, Q, q, q, draws)
    # Two draws from the posterior given the same data: their joint law given nothing.
    A0 = task.teacher_variance()
    first, second = side_fields(task, A0, Q, draws)
    spikes = correlated(jnp.ones_like(q), q, jnp.ones_like(q), draws.spike, draws.noise)
    eye = identity_like(first)
    adapted = [
        z + chi[:, None] * chi[None] - eye for z, chi in zip((first, second), spikes, strict=True)
    ]
    sigma, loss = task.activation, task.activation.loss
    return BayesOptimal(
        Q,
        q,
        plug_in.pretraining,
        plug_in.finetuning,
        0.5 * draws.mean(loss(first, sigma(second))),
        0.5 * draws.mean(loss(adapted[0], sigma(adapted[1]))),
        jnp.sqrt(q),
    )
