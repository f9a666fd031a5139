"""Several fine-tunings of one pre-training, and the informed start."""

import dataclasses

import jax
import numpy as np
import pytest
from points import figure_1, figure_3, given
from scipy.optimize import minimize

from jaxlora.checkpoints import Checkpoint
from jaxlora.simulation import Setting, run_seed, simulate, simulate_finetunings, train_pair
from jaxlora.simulation import starts as starts_module

SETTING = Setting(20, test_samples=50, starts=1)
DIFFERENT = ({}, {"lam_ft": 1.0}, {"alpha_ft": 1.5, "beta": 0.8}, {"lam_ft": np.inf})


def assert_same(found, expected):
    """The same numbers to the last bit, NaN where the others are."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("point", "fields"),
    [
        (figure_3, {"reuse": True}),
        pytest.param(figure_1, {"active_ratio": 0.5}, marks=pytest.mark.slow),
        pytest.param(figure_1, {"lam": np.inf}, marks=pytest.mark.slow),
        (given, {}),
    ],
)
def test_fine_tunings_have_the_numbers_of_separate_runs(point, fields):
    tasks = [point(**(fields | different)) for different in DIFFERENT]
    together = simulate_finetunings(tasks, SETTING, seeds=2, seed=3)
    for task, found in zip(tasks, together, strict=True):
        expected = simulate(task, SETTING, seeds=2, seed=3)
        assert_same(found.outcomes, expected.outcomes)
        assert_same(found.stderr, expected.stderr)
        assert found.task is task


def test_one_pretraining_a_seed_and_the_data_of_one_fine_tuning_at_a_time():
    def run(count):
        begun, most = [], 0

        def watch(stage, report):
            nonlocal most
            begun.extend([stage] * (report.iterations == 0))
            most = max(most, sum(array.nbytes for array in jax.live_arrays()))

        tasks = [figure_1(lam_ft=lam_ft) for lam_ft in np.geomspace(0.2, 1, count)]
        before = sum(array.nbytes for array in jax.live_arrays())
        simulate_finetunings(tasks, SETTING, seeds=2, watch=watch)
        return begun, most - before

    begun, most = run(1)
    assert begun == ["pretraining", "finetuning"] * 2
    begun, with_more = run(4)
    assert begun == ["pretraining", *(f"finetuning {i} of 4" for i in (1, 2, 3, 4))] * 2
    # What is more is the parameters of the tasks.
    assert with_more < 1.01 * most


def test_interrupted_fine_tunings_go_on_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(starts_module, "SAVE_SECONDS", 0.0)
    setting = dataclasses.replace(SETTING, informed=True)
    tasks = [figure_3(reuse=True, lam_ft=lam_ft) for lam_ft in (0.2, 0.5, 1.0)]
    expected = simulate_finetunings(tasks, setting, seeds=1)

    class Stop(Exception):
        pass

    def run(most):
        begun = []

        def watch(stage, report):
            begun.append(stage)
            if len(begun) > most:
                raise Stop

        found = simulate_finetunings(
            tasks, setting, seeds=1, checkpoint=Checkpoint(tmp_path), watch=watch
        )
        return found, begun

    stops = 0
    for _ in range(5):
        try:
            run(3)
        except Stop:
            stops += 1
    assert stops >= 3
    found, begun = run(1000)
    assert "pretraining" not in begun
    assert_same([x.outcomes for x in found], [x.outcomes for x in expected])
    with pytest.raises(ValueError, match=r"lam_ft = \[0.2, 0.5, 1.0\] there, \[0.2, 0.5\] here"):
        simulate_finetunings(tasks[:2], setting, seeds=1, checkpoint=Checkpoint(tmp_path))


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([], "must hold a task"),
        ([figure_1(), figure_1(lam=0.1)], "lam = 0.05 and 0.1: must be the same"),
        ([figure_1(), figure_1(reuse=True)], "reuse = False and True: must be the same"),
        ([figure_1(), figure_1(activation="identity")], "activation = softmax and identity: must"),
        (
            [given(), given(given=(1.5, 1.5, 0.5))],
            r"given = \[1.5, 1.5, 1.0\] and \[1.5, 1.5, 0.5\]: must",
        ),
        ([figure_1(), figure_1(alpha_ft=0.01)], "alpha_ft = 0.01: makes N' = 0"),
    ],
)
def test_what_are_no_fine_tunings_of_one_pretraining_is_refused(tasks, words):
    with pytest.raises(ValueError, match=words):
        simulate_finetunings(tasks, SETTING)


def test_informed_start_is_kept_where_random_ones_end_higher():
    """At little data without noise, against the minimum that SciPy reaches from w*."""
    task = given(delta=0.0, alpha_ft=2.0, lam_ft=0.02)
    setting = Setting(40, test_samples=100, starts=2, normalise_teacher=True, informed=True)
    random = run_seed(task, dataclasses.replace(setting, informed=False), 2)
    informed = run_seed(task, setting, 2)
    assert informed.finetuning_status.informed
    assert informed.finetuning_status.starts == 3
    pair = train_pair(task, setting, 2)
    evaluate = jax.jit(lambda w: pair.finetuning.value_and_gradient(w[:, None]))

    def function(w):
        value, gradient = evaluate(w)
        return float(value), np.asarray(gradient)[:, 0]

    least = minimize(function, np.asarray(pair.teacher_w), jac=True, method="L-BFGS-B", tol=1e-14)
    np.testing.assert_allclose(informed.finetuning.energy, least.fun / 40, rtol=1e-8)
    assert informed.finetuning.energy < 0.9 * random.finetuning.energy
    assert informed.finetuning.overlap > random.finetuning.overlap


def test_informed_start_changes_nothing_where_random_ones_end_at_the_same_minimum():
    task = given(delta=0.0, alpha_ft=3.0, lam_ft=0.1)
    setting = Setting(40, test_samples=100, starts=2, normalise_teacher=True)
    random = run_seed(task, setting, 1)
    informed = run_seed(task, dataclasses.replace(setting, informed=True), 1)
    assert not informed.finetuning_status.informed
    assert informed.finetuning_status.spread < 1e-10
    assert informed.finetuning == random.finetuning
