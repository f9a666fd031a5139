import numpy as np
import pytest

import jaxlora
from jaxlora import best_active_ratio, predict
from jaxlora.tuning.candidates import kept_first

GIVEN = {"tokens": 2, "activation": "identity", "given": (1.5, 1.5, 1.0), "delta": 0.5}
FEW = {"samples": 2**11, "replicates": 4}
POOL, PRICE = 20.0, 0.02


def task(**fields):
    return jaxlora.Task(**(GIVEN | {"alpha_ft": 1.0, "lam_ft": 0.5} | fields))


def exponential(candidates, count=4096):
    distances = np.random.default_rng(0).exponential(size=(candidates, count))
    return distances, np.argsort(distances, axis=None)


@pytest.mark.parametrize(("ratio", "candidates"), [(0.5, 64), (0.1, 64), (0.02, 64), (0.1, 4)])
def test_chosen_candidates_follow_the_law_of_the_kept_ones(ratio, candidates):
    distances, ranking = exponential(candidates)
    chosen = distances.ravel()[kept_first(distances, ranking, ratio)]
    assert np.max(chosen) <= np.quantile(distances, ratio)
    end = -np.log(1 - ratio)
    mean = 1 - end * (1 - ratio) / ratio
    second = 2 * mean - end**2 * (1 - ratio) / ratio
    # Four standard errors of a mean over so many independent ones.
    different = len(np.unique(chosen))
    assert abs(np.mean(chosen) - mean) < 4 * np.sqrt((second - mean**2) / different)


def test_all_are_labelled_at_share_one_and_few_change_with_the_share():
    distances, ranking = exponential(64)
    np.testing.assert_array_equal(kept_first(distances, ranking, 1.0), np.arange(4096))
    before, after = (kept_first(distances, ranking, ratio) for ratio in (0.3, 0.297))
    assert 0 < np.mean(before != after) < 0.02


@pytest.fixture(scope="module")
def held():
    return best_active_ratio(task(), POOL, over=(), price=PRICE, bounds=(0.1, 1.0), **FEW)


@pytest.mark.slow
def test_the_best_share_is_better_than_predictions_beside_it(held):
    assert held.converged
    assert held.at_bound == ()
    assert 0 < held.stderr < 0.1 * held.ratio
    assert held.curvature > 0
    # `predict` draws other candidates: at the optimum it agrees to four standard errors.
    at = predict(held.task, **FEW)
    value = float(at.finetuning.test_error) + PRICE * float(held.task.alpha_ft)
    error = np.hypot(held.value_stderr, float(at.stderr.finetuning.test_error))
    assert abs(value - held.value) < 4 * error
    for factor in (0.5, 2.0):
        ratio = held.ratio * factor
        beside = predict(task(alpha_ft=ratio * POOL, active_ratio=ratio), **FEW)
        cost = float(beside.finetuning.test_error) + PRICE * ratio * POOL
        assert cost > held.value + 2 * float(beside.stderr.finetuning.test_error)


def test_the_improvement_is_over_labelling_all(held):
    whole = predict(task(alpha_ft=POOL), **FEW)
    value = float(whole.finetuning.test_error) + PRICE * POOL
    assert held.curve[-1].ratio == 1
    assert held.curve[-1].value == pytest.approx(value, rel=1e-8)
    assert held.improvement == pytest.approx(value - held.value)
    assert held.improvement > 5 * held.improvement_stderr


def test_the_result_is_that_of_its_task(held):
    assert float(held.task.active_ratio) == held.ratio
    assert float(held.task.alpha_ft) == pytest.approx(held.ratio * POOL)
    error = float(held.prediction.finetuning.test_error)
    assert held.value == pytest.approx(error + PRICE * held.ratio * POOL)
    assert held.value == min(point.value for point in held.curve)
    kinks = jaxlora.Kink(int(held.prediction.status.finetuning.kinks))
    assert jaxlora.Kink.SELECTION in kinks


@pytest.mark.slow
def test_with_the_best_ridge_it_is_that_of_a_grid_of_tuned_shares():
    found = best_active_ratio(task(), POOL, price=PRICE, **FEW)
    assert found.converged
    assert 0.05 < found.ratio < 1
    ratios = found.ratio * np.geomspace(1 / 3, 3, 5)
    costs = []
    for ratio in ratios:
        here = jaxlora.tune(
            task(alpha_ft=ratio * POOL, active_ratio=ratio), ["lam_ft"], starts=1, **FEW
        )
        costs.append(here.value + PRICE * ratio * POOL)
    assert np.argmin(costs) == 2
    assert abs(costs[2] - found.value) < 4 * np.hypot(found.value_stderr, here.stderr)


@pytest.mark.slow
def test_reused_sequences_are_selected_by_their_fields_after_the_pretraining():
    trained = {"given": None, "kappa0": 0.5, "kappa": 1.0, "alpha": 0.3, "lam": 0.05}
    start = task(**trained, reuse=True)
    found = best_active_ratio(start, POOL, over=(), price=0.05, points=4, **FEW)
    at = predict(found.task, **FEW)
    value = float(at.finetuning.test_error) + 0.05 * float(found.task.alpha_ft)
    error = np.hypot(found.value_stderr, float(at.stderr.finetuning.test_error))
    assert abs(value - found.value) < 4 * error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pool": 0.0}, "pool = 0.0: must be positive and finite"),
        ({"price": -1.0}, "price = -1.0: must be non-negative and finite"),
        ({"bounds": (0.01, 1.0)}, "must increase between 1/64 and 1"),
        ({"bounds": (0.5, 0.5)}, "must increase between 1/64 and 1"),
        ({"points": 2}, "points = 2: must be at least 3"),
        ({"tol": 0.0}, "tol = 0.0: must be positive and finite"),
        ({"max_evaluations": 0}, "max_evaluations = 0: must be at least 1"),
        ({"over": ["lam"]}, "over = 'lam': must be 'lam_ft', or empty"),
        ({"over": {"lam_ft": (2.0, 1.0)}}, "bounds of lam_ft = .2, 1.: must be positive"),
        ({"objective": "loss"}, "objective = 'loss': must be one of error_ft"),
        ({"options": jaxlora.Options.single()}, "precision = 'float32': must be float64"),
        ({"samples": 0}, "samples = 0: must be an integer of at least"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        best_active_ratio(task(), **({"pool": POOL} | arguments))
