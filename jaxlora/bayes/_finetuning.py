"""Bayes-optimal overlap of the fine-tuning on fresh sequences, (92)–(96) (theory section 7)."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..fixed_point import solve_fixed_point
from ..laws import root
from ..options import Options
from ..results import Result
from ..sampling import Draws
from ..symmetric import identity_like, root_weights, unpack
from ..tasks import Task
from ._posterior import Observation, Posterior, Proposal, posterior, propose

CHANNELS = ("conditional", "printed")
INFORMED, UNINFORMED = 0.99, 0.02  # where q is started from
POOR = 10  # independent nodes below which a posterior average is a rough guess
LEAST_VARIANCE = 1e-10  # of V_BO and 1 − q, where the observation leaves nothing open


class ChannelEvolution(eqx.Module):
    """The map q → q of the Bayes-optimal fine-tuning on frozen draws (one replicate).

    `V` is V_BO. `channel` says what is observed: "conditional", Y = χ*χ*ᵀ + z* − z given z; or
    "printed", χ*χ*ᵀ alone, as in (96), which the posterior does not match.
    """

    task: Task
    V: jax.Array
    draws: Draws
    nodes: jax.Array
    channel: str = eqx.field(static=True)

    @property
    def problem(self) -> Observation:
        """The likelihood of χ*."""
        return Observation(self.task.activation, self.task.tokens)

    def observation(self, q) -> tuple[jax.Array, jax.Array, jax.Array]:
        """ω ~ N(0, q I) and χ* = ω + √(1 − q) N(0, I), both (T, n), and Y (T, T, n)."""
        omega = root(q) * self.draws.noise
        truth = omega + root(1 - q) * self.draws.spike
        Y = truth[:, None] * truth[None]
        if self.channel == "conditional":
            noise = jnp.sqrt(self.V) * root_weights(self.task.tokens, omega)
            Y = Y + unpack(noise * self.draws.first, self.task.tokens)
        return omega, truth, Y

    def propose(self, q, known: Proposal | None = None) -> Proposal:
        """Where the posterior is at q, from scratch or next to where it was `known` to be."""
        omega, truth, Y = self.observation(q)
        starts = jnp.stack([truth, omega]) if known is None else known.mean[1:]
        return propose(self.problem, 1 - q, self.V, Y, omega, starts)

    def posterior(self, q, proposal: Proposal) -> Posterior:
        """The posterior of χ* at q."""
        omega, _, Y = self.observation(q)
        return posterior(self.problem, proposal, self.nodes, 1 - q, self.V, Y, omega)

    def __call__(self, x, proposal: Proposal) -> jax.Array:
        """The map at x = (q,): q̂ = α' E|g|², q = q̂/(1 + q̂) with g = (⟨x⟩ − ω)/(1 − q)."""
        (q,) = x
        g = (self.posterior(q, proposal).mean - self.observation(q)[0]) / (1 - q)
        q_hat = self.task.alpha_ft * self.draws.mean(_dot(g, g))
        return (q_hat / (1 + q_hat))[None]

    def free_entropy(self, q, proposal: Proposal) -> jax.Array:
        """α' E log Z_out + (q + log(1 − q))/2 per dimension; the largest is the right branch."""
        evidence = self.draws.mean(self.posterior(q, proposal).log_evidence)
        return self.task.alpha_ft * evidence + 0.5 * (q + jnp.log1p(-q))

    def zero_growth(self, proposal: Proposal) -> jax.Array:
        """α' E|⟨xxᵀ⟩ − I|²_F at q = 0, above which 1 the solution q = 0 is unstable."""
        second = self.posterior(jnp.zeros_like(self.V), proposal).second_moment
        excess = second - identity_like(second)
        return self.task.alpha_ft * self.draws.mean(jnp.sum(excess**2, axis=(0, 1)))


class ChannelSolution(eqx.Module):
    """q_BO of one replicate, and how it was found.

    `free_entropy_gap` is that of the informed minus the uninformed branch. `effective_samples` and
    `least_effective_samples` are the mean and the least number of independent nodes that the
    integral of a sample is worth, `poor_share` is the share of the samples where it is worth fewer
    than `POOR`; `nishimori_gap` is (E⟨x⟩·χ* − E|⟨x⟩|²)/T.
    """

    q: jax.Array
    uninformed_q: jax.Array
    free_entropy_gap: jax.Array
    effective_samples: jax.Array
    least_effective_samples: jax.Array
    poor_share: jax.Array
    nishimori_gap: jax.Array
    residual: jax.Array
    iterations: jax.Array
    result: jax.Array


def solve_channel(
    task: Task, Q, draws: Draws, nodes, options: Options, channel: str = "conditional"
) -> ChannelSolution:
    """Solve q = F(q) from near 1 and from near 0, and keep the branch of larger free entropy.

    `Q` is Q_BO, `nodes` (C, T, K) are the standard normal nodes of the posterior's integrals.
    """
    V = jnp.maximum(task.teacher_variance() - Q, LEAST_VARIANCE)
    evolution = ChannelEvolution(task, V, draws, nodes, channel)

    def feasible(x):
        return (x[0] >= 0) & (x[0] <= 1 - LEAST_VARIANCE)

    def solve(start):
        return solve_fixed_point(
            evolution,
            # Modes found anew could be others, and the map would jump.
            lambda x, known, _: evolution.propose(x[0], known),
            start[None],
            evolution.propose(start),
            feasible,
            floor=1e-3,
            **options.iteration,
        )

    starts = jnp.asarray([INFORMED, UNINFORMED], V.dtype)
    solved = jax.lax.map(solve, starts)
    zero = jnp.zeros_like(V)
    at_zero = evolution.propose(zero)
    # On frozen draws √q terms do not average out, and a stable q = 0 would show as a small q.
    stays = evolution.zero_growth(at_zero) < 1
    uninformed = jnp.where(stays, zero, solved.value[1, 0])
    found = jnp.stack([solved.value[0, 0], uninformed])
    entropies = jax.lax.map(lambda q: evolution.free_entropy(q, evolution.propose(q)), found)
    gap = entropies[0] - entropies[1]
    best = jnp.where(gap >= 0, 0, 1)
    q = found[best]
    at_best = evolution.posterior(q, evolution.propose(q))
    truth = evolution.observation(q)[1]
    square = draws.mean(_dot(at_best.mean, at_best.mean))
    residual = jnp.where((best == 1) & stays, 0.0, solved.residual[best])
    reached = jnp.where(residual <= options.tol, Result.CONVERGED, Result.NOT_CONVERGED)
    sizes = at_best.effective_sample_size
    return ChannelSolution(
        q,
        uninformed,
        gap,
        jnp.mean(sizes),
        jnp.min(sizes),
        jnp.mean(sizes < POOR, dtype=sizes.dtype),
        (draws.mean(_dot(at_best.mean, truth)) - square) / task.tokens,
        residual,
        solved.iterations[best],
        jnp.where(jnp.isfinite(residual) & jnp.isfinite(gap), reached, Result.NON_FINITE),
    )


def _dot(a, b):
    return jnp.sum(a * b, axis=0)
