import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import identity_frozen_error, trained_spike

import jaxlora
from jaxlora import predict, solve_finetuning
from jaxlora.finetuning import SideFields, describe, solve_state_evolution
from jaxlora.laws import correlated
from jaxlora.sampling import draw
from jaxlora.start import from_order
from jaxlora.symmetric import root_weights, unpack

GIVEN = {"tokens": 3, "delta": 0.5, "given": (1.5, 1.5, 1.0), "alpha_ft": 3.0}


@pytest.mark.parametrize("active_ratio", [1.0, 0.1])
def test_agrees_with_trained_layers_at_finite_dimension(active_ratio):
    dimension, seeds = 160, 12
    simulated = np.array(
        [
            trained_spike(3, (1.5, 1.5, 1.0), 0.5, 4.0, 0.8, dimension, seed, active_ratio)
            for seed in range(seeds)
        ]
    )
    task = GIVEN | {"alpha_ft": 4.0, "lam_ft": 0.8, "active_ratio": active_ratio}
    solved = solve_finetuning(jaxlora.Task(**task), samples=2**13)
    values, errors = solved.values, solved.stderr
    for i, name in enumerate(("q", "m", "train_error")):
        value = float(getattr(values, name))
        simulation = simulated[:, i]
        sem = np.hypot(simulation.std(ddof=1) / np.sqrt(seeds), float(getattr(errors, name)))
        # Four standard errors and the finite-size bias, which is O(1/D).
        assert abs(simulation.mean() - value) < 4 * sem + 1.5 * abs(value) / dimension, name


@pytest.mark.parametrize(("lam_ft", "trained"), [(2.7, False), (2.0, True)])
def test_the_zero_branch_ends_at_the_known_threshold(lam_ft, trained):
    # Hessian of layers at D = 1200 and theory put the threshold at 2.37 to 2.40.
    values = solve_finetuning(jaxlora.Task(**GIVEN, lam_ft=lam_ft), samples=2**13).values
    if trained:
        assert float(values.m) > 0.1
        assert float(values.test_error) < float(values.frozen_test_error)
    else:
        assert abs(float(values.q)) < 1e-8
        assert abs(float(values.test_error - values.frozen_test_error)) < 1e-6


def test_no_finetuning_is_the_frozen_layer():
    values = solve_finetuning(jaxlora.Task(**GIVEN, lam_ft=jnp.inf), samples=2**13).values
    assert float(values.q) == float(values.m) == float(values.v) == 0
    assert jnp.isnan(values.overlap)
    np.testing.assert_allclose(values.test_error, values.frozen_test_error, rtol=1e-14)
    np.testing.assert_allclose(values.energy, 3 * values.train_error, rtol=1e-14)


def test_identity_errors_are_closed_forms():
    given = (2.0, 1.9, 1.7)
    task = jaxlora.Task(
        tokens=3, activation="identity", delta=0.5, given=given, alpha_ft=3.0, lam_ft=0.5
    )
    solved = solve_finetuning(task, samples=2**13)
    values, errors = solved.values, solved.stderr
    noise = 2.25 + 1.9 - 2 * 1.7
    q, m = float(values.q), float(values.m)
    exact = 12 / 9 * (noise + 1 + q**2 - 2 * m**2)
    # The closed form is taken at the means of q and m; four standard errors.
    assert abs(float(values.test_error) - exact) < 4 * float(errors.test_error) + 1e-4
    frozen = identity_frozen_error(noise, 3)
    assert abs(float(values.frozen_test_error) - frozen) < 4 * float(errors.frozen_test_error)


def test_identity_depends_on_the_effective_noise_only():
    # Q, M and Δ enter through Δ_eff = Δ/2 + Q0 − 2M + Q alone; both are 1.05 here.
    solved = [
        solve_finetuning(
            jaxlora.Task(
                tokens=2, activation="identity", delta=delta, given=given, alpha_ft=4.0, lam_ft=0.3
            ),
            samples=2**13,
        )
        for delta, given in ((0.5, (1.6, 1.2, 1.0)), (1.5, (1.0, 0.5, 0.6)))
    ]
    for name in ("q", "m", "test_error", "train_error"):
        first, second = (float(getattr(s.values, name)) for s in solved)
        error = np.hypot(*(float(getattr(s.stderr, name)) for s in solved))
        assert abs(first - second) < 4 * error, name


@pytest.mark.slow
def test_without_pretraining_reused_and_fresh_sequences_are_the_same():
    pretraining = {"tokens": 2, "kappa0": 1.0, "kappa": 1.0, "alpha": 0.1, "delta": 0.5}
    finetuning = {"lam": jnp.inf, "alpha_ft": 3.0, "lam_ft": 1.0}
    fresh, reused = (
        predict(jaxlora.Task(**pretraining, **finetuning, reuse=reuse), samples=2**12, replicates=2)
        for reuse in (False, True)
    )
    np.testing.assert_allclose(fresh.finetuning.test_error, reused.finetuning.test_error)


def test_the_branch_of_least_energy_is_reported():
    values = solve_finetuning(jaxlora.Task(**GIVEN, lam_ft=0.3), samples=2**13).values
    energies = {branch.start: float(branch.energy) for branch in values.branches}
    assert set(energies) == {"informed", "uninformed"}
    assert float(values.energy) <= min(energies.values()) + 1e-6
    np.testing.assert_allclose(values.energy, 3 * values.train_error + 0.3 * values.q, rtol=1e-12)


@pytest.mark.slow
def test_the_sign_of_the_weights_is_fixed_in_all_that_is_reported():
    # ŵ → −ŵ takes (m, ζ) to (−m, −ζ); the solution reported has m ≥ 0 and m̂ = m/v either way.
    task = jaxlora.Task(**GIVEN, lam_ft=0.5)
    draws = jax.tree.map(lambda x: jnp.asarray(x[0]), draw(3, 2**10, 1, 0, 0))
    mirrored = eqx.tree_at(lambda d: d.noise, draws, -draws.noise)
    packed = correlated(task.teacher_variance(), *jnp.array([1.0, 1.5]), draws.first, draws.second)
    fields = SideFields(*(unpack(root_weights(3, x) * x, 3) for x in packed))

    @eqx.filter_jit
    def solve(draws, m):
        options, start = jaxlora.Options(), from_order(jnp.array([1.0, m, 0.2]))
        solution = solve_state_evolution(task, fields, draws, start, options)
        return describe(task, fields, draws, solution.solved, options)

    solutions = [solve(draws, 0.95), solve(mirrored, -0.95)]
    for order, conjugates in ((s.order, s.conjugates) for s in solutions):
        np.testing.assert_allclose(order, solutions[0].order, rtol=1e-8)
        np.testing.assert_allclose(conjugates, solutions[0].conjugates, rtol=1e-7)
        np.testing.assert_allclose(conjugates.m, order[1] / order[2], rtol=1e-8)


@pytest.mark.slow
def test_both_starts_lead_to_one_solution_where_minima_compete_on_the_way():
    # Shares of competing minima from far away must not weigh the forms of Stein's lemma in the end.
    point = {"tokens": 2, "kappa0": 0.5, "kappa": 1.0, "alpha": 0.2, "delta": 0.5, "lam": 0.1}
    task = jaxlora.Task(**point, alpha_ft=3.0, lam_ft=0.2)
    for seed in range(2):
        solved = predict(task, samples=2**12, replicates=1, seed=seed).finetuning
        informed, uninformed = (float(branch.v[()]) for branch in solved.branches)
        np.testing.assert_allclose(uninformed, informed, rtol=1e-3)
