import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import assert_refused
from independent import identity_state_evolution
from points import figure_1, figure_3
from scipy.optimize import minimize_scalar

import jaxlora
from jaxlora import predict, tune
from jaxlora.cli import main
from jaxlora.outputs import ConvergenceError
from jaxlora.tuning import Objective, pareto

IDENTITY = {"tokens": 2, "activation": "identity", "kappa0": 0.5, "kappa": 1.0, "alpha": 0.3}
IDENTITY |= {"delta": 0.5, "lam": 0.05, "alpha_ft": 3.0, "lam_ft": 0.3}
FEW = {"samples": 2**11, "replicates": 4}


def task(**fields):
    return jaxlora.Task(**(IDENTITY | fields))


@pytest.mark.slow
def test_the_best_ridge_of_the_identity_is_that_of_its_scalar_equations():
    def noise(log_lam):
        Q, M, _ = identity_state_evolution(2, 0.5, 1.0, 0.3, 0.5, np.exp(log_lam))
        return 1.75 + Q - 2 * M

    expected = minimize_scalar(noise, bracket=(-4, -2, -1), tol=1e-10)
    tuned = tune(task(), ["lam"], "effective_noise", starts=1, **FEW)
    assert tuned.converged
    np.testing.assert_allclose(tuned.value, expected.fun, rtol=1e-7)
    np.testing.assert_allclose(tuned.parameters["lam"].value, np.exp(expected.x), rtol=1e-3)
    step = 1e-2
    second = noise(expected.x + step) + noise(expected.x - step) - 2 * expected.fun
    np.testing.assert_allclose(tuned.curvature, [second / step**2], rtol=1e-2)
    assert tuned.improvement == pytest.approx(noise(np.log(0.05)) - expected.fun, rel=1e-4)


@pytest.fixture(scope="module")
def tuned():
    return tune(task(), {"lam": (0.01, 1.0), "lam_ft": (0.02, 5.0)}, **FEW)


def test_no_prediction_nearby_is_better(tuned):
    lam, lam_ft = (tuned.parameters[name].value for name in ("lam", "lam_ft"))
    for change in (0.97, 1.03):
        for moved in ({"lam": lam * change}, {"lam_ft": lam_ft * change}):
            there = task(**({"lam": lam, "lam_ft": lam_ft} | moved))
            assert float(predict(there, **FEW).finetuning.test_error) > tuned.value
    assert tuned.converged
    assert tuned.gradient_norm < 1e-4
    assert min(tuned.curvature) > 0
    assert float(predict(tuned.task, **FEW).finetuning.test_error) == pytest.approx(tuned.value)


def test_the_improvement_is_over_the_task_that_was_given(tuned):
    before = predict(task(), **FEW)
    expected = float(before.finetuning.test_error) - tuned.value
    assert tuned.improvement == pytest.approx(expected)
    assert 0 < tuned.improvement_stderr < tuned.stderr + float(before.stderr.finetuning.test_error)


@pytest.mark.slow
def test_adam_finds_the_same(tuned):
    other = tune(
        tuned.task, ["lam", "lam_ft"], optimiser="adam", starts=1, max_evaluations=60, **FEW
    )
    assert other.value == pytest.approx(tuned.value, rel=1e-6)


@pytest.mark.slow
def test_error_bars_of_the_optimum_are_those_of_its_scatter_over_seeds():
    few = {"samples": 2**11, "replicates": 4, "starts": 1}
    found = [tune(task(), ["lam_ft"], seed=seed, **few).parameters["lam_ft"] for seed in range(12)]
    scatter = np.std([f.value for f in found], ddof=1)
    ratio = scatter / np.sqrt(np.mean([f.stderr**2 for f in found]))
    assert 0.6 < ratio < 1.6  # 11 degrees of freedom, at two standard errors


def test_a_bound_that_holds_a_parameter_is_reported(tuned):
    low = 2 * tuned.parameters["lam_ft"].value
    held = tune(tuned.task, {"lam_ft": (low, 10 * low)}, starts=1, **FEW)
    optimum = held.parameters["lam_ft"]
    assert optimum.at_bound
    assert optimum.value == pytest.approx(low)
    assert optimum.gradient > 0
    assert np.isnan(optimum.stderr)
    assert held.converged


@pytest.mark.slow
def test_a_function_can_be_tuned_and_the_overlap_is_maximised():
    def both(prediction):
        return prediction.finetuning.test_error - 0.1 * prediction.finetuning.overlap

    found = tune(task(), ["lam_ft"], both, starts=1, **FEW)
    assert found.objective == "both"
    assert found.converged
    largest = tune(task(), ["lam"], "overlap", starts=1, **FEW)
    assert largest.value > float(predict(task(), **FEW).finetuning.overlap)
    assert largest.improvement > 0


@pytest.mark.slow
def test_other_starts_find_what_the_first_does_not():
    # Beyond the collapse nothing depends on λ, and a descent from there stays.
    found = tune(task(lam=20.0), {"lam": (0.01, 30.0)}, "error", starts=4, **FEW)
    assert found.parameters["lam"].value < 1
    assert found.converged


@pytest.mark.parametrize(
    ("over", "settings", "words"),
    [
        (["gamma"], {}, "over = 'gamma': must be one of"),
        ([], {}, "over is empty"),
        ({"lam": (1.0, 0.1)}, {}, "bounds of lam = .1, 0.1.: must be positive, finite"),
        (["lam"], {"objective": "loss"}, "objective = 'loss': must be one of error_ft"),
        (["lam"], {"optimiser": "sgd"}, "optimiser = 'sgd': must be one of lbfgs, adam"),
        (["lam"], {"starts": 0}, "starts = 0: must be at least 1"),
        (["lam"], {"options": jaxlora.Options.single()}, "precision = 'float32': must be float64"),
    ],
)
def test_bad_settings_are_named(over, settings, words):
    with pytest.raises(ValueError, match=words):
        tune(task(), over, **settings, **FEW)


def test_a_parameter_that_the_task_lacks_is_named():
    given = jaxlora.Task(tokens=2, given=(1.5, 1.0, 0.8), delta=0.5, alpha_ft=3.0, lam_ft=0.3)
    with pytest.raises(ValueError, match="over = 'lam': the task does not have it"):
        tune(given, ["lam"], **FEW)


@pytest.mark.slow
def test_the_front_lies_between_the_optima_and_no_point_betters_another():
    # Of the identity, the forgetting E'' wants ŵ = 0 and E' wants it trained.
    bounds = {"lam_ft": (0.1, 20.0)}
    pair = ("error_ft", Objective("forgetting", lambda p: p.finetuning.forgetting))
    front = jaxlora.pareto_front(task(), bounds, pair, points=5, starts=1, **FEW)
    errors, forgotten = np.array([point.values for point in front]).T
    assert len(front) == 5
    assert np.all(np.diff(errors) > 0)
    assert np.all(np.diff(forgotten) < 0)
    # Each is the best of its weighted sum among all λ'.
    ridges = np.geomspace(*bounds["lam_ft"], 40)
    grid = [predict(task(lam_ft=x), **FEW).finetuning for x in ridges]
    curve = np.array([[float(p.test_error), float(p.forgetting)] for p in grid])
    spans = np.abs([errors[-1] - errors[0], forgotten[-1] - forgotten[0]])
    for point in front[1:-1]:
        shares = np.array([1 - point.weight, point.weight]) / spans
        assert shares @ point.values <= np.min(curve @ shares) + 1e-6


def test_a_weight_without_a_solution_costs_a_front_no_other_point(monkeypatch):
    """Of x² and (x − 1)², in units of 1 each, the weight s of the second leads to x = s."""

    def solve(given, over, objective, **_):
        x = {"first": 0.0, "second": 1.0}.get(objective.name)
        if x is None:
            x = float(objective.name.split()[2])
        if x in unsolved:
            raise ConvergenceError("not solved", None)
        prediction = SimpleNamespace(x=x, replicates=SimpleNamespace(x=np.array([x, x])))
        return SimpleNamespace(task=given, prediction=prediction)

    monkeypatch.setattr(pareto, "tune", solve)
    pair = Objective("first", lambda p: p.x**2), Objective("second", lambda p: (p.x - 1) ** 2)
    unsolved = {0.5}
    front = jaxlora.pareto_front(task(), ["lam_ft"], pair, points=5)
    assert [point.weight for point in front] == [0.0, 0.25, 0.75, 1.0]
    assert [point.values[0] for point in front] == [0.0, 0.25**2, 0.75**2, 1.0]
    unsolved = {1.0}
    with pytest.raises(ConvergenceError):
        jaxlora.pareto_front(task(), ["lam_ft"], pair, points=5)


@pytest.mark.slow
def test_the_best_split_is_better_than_splits_beside_it():
    split = jaxlora.best_split(task(), 1.0, (1.0, 0.1), over=["lam", "lam_ft"], starts=1, **FEW)
    assert split.tuned.converged
    assert split.alpha + 0.1 * split.alpha_ft == pytest.approx(1.0)
    assert split.share == pytest.approx(split.alpha)
    assert 0 < split.stderr < 0.1
    for share in (split.share - 0.05, split.share + 0.05):
        beside = task(
            alpha=share,
            alpha_ft=(1 - share) / 0.1,
            lam=split.tuned.parameters["lam"].value,
            lam_ft=split.tuned.parameters["lam_ft"].value,
        )
        assert tune(beside, ["lam", "lam_ft"], starts=1, **FEW).value > split.tuned.value


@pytest.mark.slow
def test_the_best_split_at_figure_1_is_one_within_its_error_bars():
    # There single samples change between minima, and values move in steps of 1e-4.
    settings = {"samples": 2**13, "replicates": 8}
    split = jaxlora.best_split(figure_1(), 0.4, (1.0, 0.1), starts=1, **settings)
    tuned = split.tuned
    assert tuned.ending.successful
    assert min(tuned.curvature) > 0
    assert not any(optimum.at_bound for optimum in tuned.parameters.values())
    # Errors of splits beside it, at the same ridges, have their least within two error bars.
    shares = split.share + np.linspace(-0.06, 0.06, 7)
    ridges = {name: tuned.parameters[name].value for name in ("lam", "lam_ft")}
    errors = [
        float(
            predict(
                figure_1(alpha=0.4 * x, alpha_ft=4 * (1 - x), **ridges), **settings
            ).finetuning.test_error
        )
        for x in shares
    ]
    square, slope, _ = np.polyfit(shares - split.share, errors, 2)
    assert abs(-slope / (2 * square)) < 2 * split.stderr
    assert min(errors) > tuned.value - tuned.jump


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": -1.0}, "budget = -1.0: must be positive"),
        ({"prices": (1.0, 0.0)}, "prices.1. = 0.0: must be positive"),
        ({"over": ["alpha", "lam"]}, "are what the budget sets"),
        ({"task": task(reuse=True)}, "reuse = True: reused sequences have labels"),
    ],
)
def test_bad_budgets_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        jaxlora.best_split(**({"task": task(), "budget": 1.0} | arguments))


@pytest.mark.slow
def test_the_optimum_of_figure_1_is_that_of_a_grid():
    point, settings = figure_1(), {"samples": 2**13, "replicates": 4}
    found = tune(point, ["lam", "lam_ft"], **settings)
    lam, lam_ft = (found.parameters[name].value for name in ("lam", "lam_ft"))
    assert found.converged
    steps = np.geomspace(0.6, 1 / 0.6, 7)
    errors = np.array(
        [
            [
                float(
                    predict(
                        figure_1(lam=lam * x, lam_ft=lam_ft * y), **settings
                    ).finetuning.test_error
                )
                for y in steps
            ]
            for x in steps
        ]
    )
    assert np.unravel_index(errors.argmin(), errors.shape) == (3, 3)
    assert errors.min() == pytest.approx(found.value, rel=1e-8)
    # The surface around is the one that gradient and curvature describe.
    assert min(found.curvature) > 0


@pytest.mark.slow
def test_at_figure_3_the_best_ridge_for_the_error_is_not_that_for_the_overlap():
    point, settings = figure_3(reuse=True), {"samples": 2**12, "replicates": 4, "starts": 1}
    bounds = {"lam": (0.003, 0.8)}
    error = tune(point, bounds, **settings)
    overlap = tune(point, bounds, "overlap", **settings)
    assert error.converged
    assert overlap.converged
    assert not error.parameters["lam"].at_bound
    assert overlap.parameters["lam"].value < 0.5 * error.parameters["lam"].value
    grid = [figure_3(lam=x, reuse=True) for x in np.geomspace(0.003, 0.8, 12)]
    numerics = {"samples": 2**12, "replicates": 4}
    found = [predict(t, throw=False, **numerics).finetuning for t in grid]
    assert error.value <= min(float(p.test_error) for p in found) + 1e-7
    assert overlap.value >= max(float(p.overlap) for p in found) - 1e-7


ARGUMENTS = ["tune", "--no-cache", "--samples", "2048", "--replicates", "4", "--starts", "1"]
ARGUMENTS += [
    word for name, value in IDENTITY.items() for word in ("--" + name.replace("_", "-"), str(value))
]


@pytest.mark.usefixtures("keep_settings")
def test_the_command_reports_the_optimum(capsys):
    assert main([*ARGUMENTS, "--over", "lam_ft=0.05,3", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["objective"] == "error_ft"
    assert report["converged"] is True
    assert report["gradient_norm"] < 1e-4
    assert report["curvature"][0] > 0
    optimum = report["tuned"]["lam_ft"]
    assert report["parameters"]["lam_ft"] == pytest.approx(optimum["value"])
    assert optimum["stderr"] > 0
    assert report["value"] == pytest.approx(report["prediction"]["finetuning"]["test_error"])
    assert report["improvement"] > 0
    assert main([*ARGUMENTS, "--over", "lam_ft", "--verbose"]) == 0
    assert "improvement" in capsys.readouterr().out


@pytest.mark.usefixtures("keep_settings")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--over", "beta=1"], "over = 'beta=1': must be beta=LOW,HIGH with two numbers"),
        (["--over", "rank"], "over = 'rank': must be one of"),
        (["--over", "lam=3,1"], "bounds of lam = (3, 1): must be positive"),
        (["--objective", "loss"], "invalid choice: 'loss'"),
        (["--starts", "0"], "starts = 0: must be at least 1"),
    ],
)
def test_bad_flags_are_refused(words, message, capsys):
    assert_refused([*ARGUMENTS, *words], message, capsys)
