import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray

from jaxlora import Options, Result, Task, predict, sweep
from jaxlora.finetuning import APART
from jaxlora.simulation import Setting, simulate
from jaxlora.sweeps import Experiment, Layout, Theory, continuation, make_design
from jaxlora.sweeps.dataset import dataset_of
from jaxlora.sweeps.plan import Plan, units_of
from jaxlora.sweeps.variables import NUMBERS, STDERR

# T = 2 and few samples: what is compared here does not depend on the sampling error.
FIXED = {"tokens": 2, "kappa0": 0.5, "kappa": 1.0, "alpha": 0.2, "delta": 0.5, "alpha_ft": 3.0}
FEW = Theory(samples=256, replicates=2)


def solve(design, point, theory, **how):
    numbers = {"samples": theory.samples, "replicates": theory.replicates}
    return predict(design.task(point), **numbers, **how)


def assert_same_numbers(dataset, design, point, known, rtol):
    """The point of a sweep is what is `known` of it, with its standard errors."""
    where = dict(zip(dataset.dims, np.unravel_index(point, design.shape), strict=True))
    one = dataset.isel(where)
    for variable in NUMBERS:
        for suffix, source in (("", known), (STDERR, known.stderr)):
            expected = float(getattr(getattr(source, variable.stage), variable.field))
            # Differences of replicates lose digits.
            np.testing.assert_allclose(
                float(one[variable.name + suffix]),
                expected,
                rtol=rtol if not suffix else 1e-4,
                atol=1e-9,
                err_msg=f"{variable.name}{suffix} at {where}",
            )


def assert_is_predict(dataset, design, chosen, rtol=1e-7):
    """The points `chosen` of a sweep are what `predict` says there."""
    for point in chosen:
        assert_same_numbers(dataset, design, point, solve(design, point, FEW), rtol)


GRID = FIXED | {
    "activation": "identity",
    "lam_ft": [1.5, 3.0],
    "lam": [0.3, 0.02, 0.1, float("inf")],
    "beta": [1.0, 0.8],
}


@pytest.fixture(scope="module")
def grid():
    # On so few draws a single sample's choice between minima makes two solutions of one, 1e-3
    # apart, of which that of less energy counts: both starts are tried everywhere, as in `predict`.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuation, "SOUGHT_EVERY", 1)
        yield sweep(theory=FEW, chunk=4, **GRID)


def test_grid_is_predict_at_every_point(grid):
    dataset = grid
    assert dict(dataset.sizes) == {"lam_ft": 2, "lam": 4, "beta": 2}
    assert_is_predict(dataset, make_design(GRID), (0, 3, 6, 10, 15))
    assert np.all(dataset.result.sel(lam=np.inf) == Result.COLLAPSED)
    assert np.all(dataset.residual_ft < 1e-9)


def assert_no_energy_is_above_that_of_predict(parameters, theory, chunk=None):
    """A sweep where branches coexist; where it reports predict's branch, it has all its numbers."""
    dataset, design = sweep(theory=theory, chunk=chunk, **parameters), make_design(parameters)
    same, apart, unsolved = 0, 0, 0
    for point in range(design.size):
        known = solve(design, point, theory, throw=False)
        if any(np.any(branch.result) for branch in known.replicates.finetuning.branches):
            unsolved += 1  # on few draws, some next to a transition
            continue
        assert np.ravel(dataset.residual_ft)[point] < 1e-9
        informed, uninformed = known.finetuning.branches
        apart += abs(informed.q - uninformed.q) + abs(informed.m - uninformed.m) > APART
        gap = float(np.ravel(dataset.energy)[point] - known.finetuning.energy)
        assert gap <= 1e-8  # of solutions to a residual of 1e-10
        if gap > -1e-8:
            same += 1
            assert_same_numbers(dataset, design, point, known, rtol=1e-6)
    assert apart > design.size // 4
    assert same > design.size // 4
    assert unsolved <= design.size // 4


def test_branches_of_identity_are_at_least_as_low_as_those_of_predict():
    coexisting = {"delta": 3.0, "alpha_ft": 2.0, "lam_ft": [0.3, 0.6], "beta": [1.0, 0.8]}
    assert_no_energy_is_above_that_of_predict(
        FIXED | coexisting | {"activation": "identity", "lam": np.geomspace(0.02, 0.5, 4)},
        FEW,
        chunk=4,
    )


@pytest.mark.slow
def test_branches_across_a_first_order_transition_are_at_least_as_low_as_those_of_predict():
    coexisting = {"kappa0": 1.0, "alpha_ft": 2.0, "lam_ft": 0.3, "lam": np.geomspace(0.02, 0.6, 12)}
    assert_no_energy_is_above_that_of_predict(FIXED | coexisting, Theory(1024, 2))


def test_one_point_is_a_sweep_without_axes():
    (unit,) = units_of(Plan(make_design(FIXED | {"lam": 0.1, "lam_ft": 1.0})))
    assert unit.points.shape == (1, 1, 1)


def test_units_have_rows_to_start_one_another_and_fit_into_memory():
    wide = FIXED | {"lam": np.geomspace(0.01, 1, 20), "lam_ft": np.geomspace(0.01, 1, 200)}
    shapes = {unit.points.shape for unit in units_of(Plan(make_design(wide)))}
    assert all(rows >= 5 and columns * rows <= 128 for _, columns, rows in shapes)
    large = Theory(samples=2**18)
    (shape,) = {unit.points.shape for unit in units_of(Plan(make_design(wide), large))}
    assert np.prod(shape) * 2**18 * 2 * 8 * 7 <= 2**29


def test_identity_tells_what_numbers_depend_on():
    def identity(**changes):
        return Plan(make_design(FIXED | {"lam": 0.1, "lam_ft": 1.0} | changes)).identity()

    axes = {"beta": [1.0, 2.0], "active_ratio": [0.5, 1.0]}
    assert identity(**axes) == identity(**axes)
    assert identity(**axes) != identity(**dict(reversed(axes.items())))
    one, other = (identity(activation=lambda a, p=p: a**p) for p in (2, 3))
    assert one != other
    assert one["parameters.activation"].startswith("<lambda> ")
    # Of a list, at the numbers of tokens that the function is used for.
    weights = jax.numpy.eye(3)
    fields = FIXED | {"lam": 0.1, "lam_ft": 1.0, "tokens": [2, 3]}
    fields["activation"] = ["softmax", lambda a: weights * a]
    listed = Plan(make_design(fields, "list")).identity()["parameters.activation"]
    assert listed[0] == "softmax"
    assert listed[1].startswith("<lambda> ")


@pytest.mark.slow
def test_softmax_along_lam_is_predict():
    parameters = FIXED | {"lam": np.geomspace(0.05, 0.2, 3), "lam_ft": 1.0}
    dataset = sweep(theory=FEW, **parameters)
    assert_is_predict(dataset, make_design(parameters), range(3))


@pytest.mark.slow
def test_list_with_static_and_selected_points_is_predict():
    parameters = FIXED | {
        "activation": "identity",
        "lam": [0.1, 0.2, 0.1],
        "lam_ft": [0.5, 0.4, 0.3],
        "reuse": [False, True, False],
        "active_ratio": [1.0, 1.0, 0.5],
    }
    dataset = sweep(design="list", theory=FEW, **parameters)
    assert dict(dataset.sizes) == {"point": 3}
    np.testing.assert_array_equal(dataset.reuse, parameters["reuse"])
    assert_is_predict(dataset, make_design(parameters, "list"), range(3), rtol=1e-6)


@pytest.mark.slow
def test_given_pretraining_is_predict():
    parameters = {
        "tokens": 2,
        "activation": "identity",
        "delta": [0.2, 0.5],
        "given": [(1.5, 1.5, 1.0), (1.2, 1.0, 0.9)],
        "alpha_ft": [2.0, 3.0],
        "lam_ft": 0.5,
    }
    dataset = sweep(theory=FEW, **parameters)
    assert_is_predict(dataset, make_design(parameters), range(8))
    assert np.all(dataset.result == Result.GIVEN)
    np.testing.assert_allclose(dataset.Q, dataset.given_Q.broadcast_like(dataset.Q))


@pytest.mark.parametrize("design", ["grid", "list"])
def test_given_pretrainings_make_an_axis(design):
    triples = np.array([[1.5, 1.5, 1.0], [1.2, 1.0, 0.9]])
    parameters = {"tokens": 2, "delta": 0.5, "given": triples, "alpha_ft": 2.0, "lam_ft": 0.5}
    plan = Plan(make_design(parameters, design), FEW)
    assert json.loads(json.dumps(plan.identity())) == plan.identity()
    dataset = dataset_of(plan, ())
    assert dict(dataset.sizes) == {"given" if design == "grid" else "point": 2}
    found = np.stack([dataset[f"given_{name}"] for name in ("Q0", "Q", "M")], axis=1)
    np.testing.assert_array_equal(found, triples)


@pytest.mark.slow
def test_batches_are_the_loop():
    parameters = FIXED | {"lam": [0.05, 0.1], "lam_ft": [0.5, 1.0, 2.0]}
    alone, together = (
        sweep(theory=FEW, layout=layout, **parameters) for layout in (Layout(1), Layout(2))
    )
    for name in ("test_error", "test_error_ft", "overlap"):
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-9)


MANY_DEVICES = """
import json, sys
import jax
jax.config.update("jax_enable_x64", True)
from jaxlora import sweep
from jaxlora.sweeps import Layout, Theory
fields = json.loads(sys.argv[1])
found = [sweep(theory=Theory(256, 2), layout=Layout(1, n), **fields) for n in (1, 8)]
worst = max(float(abs(found[0][k] - found[1][k]).max()) for k in ("test_error_ft", "Q", "q", "v"))
print(json.dumps({"devices": jax.device_count(), "worst": worst}))
"""


def test_eight_devices_are_one(tmp_path):
    # A given pre-training compiles sooner; 11 points do not divide evenly.
    fields = {"tokens": 2, "given": [1.5, 1.5, 1.0], "delta": 0.5, "alpha_ft": 3.0}
    fields |= {"lam_ft": np.geomspace(0.3, 3.0, 11).tolist()}
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    output = subprocess.run(
        [sys.executable, "-c", MANY_DEVICES, json.dumps(fields)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert output.returncode == 0, output.stderr
    found = json.loads(output.stdout)
    assert found["devices"] == 8
    assert found["worst"] <= 1e-10


@pytest.mark.slow
def test_simulation_stands_beside_theory():
    settings = tuple(Setting(dim, test_samples=200, starts=1) for dim in (12, 16))
    parameters = FIXED | {"lam": [0.1, 0.3], "lam_ft": 1.0}
    dataset = sweep(theory=None, simulation=Experiment(settings, seeds=2, seed=3), **parameters)
    assert dict(dataset.sizes) == {"lam": 2, "dim": 2}
    alone = simulate(make_design(parameters).task(1), settings[0], seeds=2, seed=3)
    one = dataset.sel(lam=0.3, dim=12)
    assert float(one.simulated_test_error_ft) == alone.finetuning.test_error
    assert float(one.simulated_overlap_stderr) == alone.stderr.finetuning.overlap
    assert np.all(dataset.simulated_converged_ft == 1)


def test_unit_of_a_simulation_is_the_fine_tunings_of_one_pretraining():
    settings = tuple(Setting(dim) for dim in (12, 16))
    axes = {"lam_ft": [0.5, 1.0, 2.0], "lam": [0.1, 0.3], "beta": [1.0, 0.8]}
    design = make_design(FIXED | axes)

    def units(design, chunk=None):
        return units_of(Plan(design, None, Experiment(settings), chunk=chunk))

    assert [unit.size for unit in units(design)] == [6] * 4
    for unit in units(design):
        assert len(set(design.values("lam", unit.points))) == 1
    held = [(unit.variant, point) for unit in units(design, chunk=4) for point in unit.points]
    assert sorted(held) == [(v, p) for v in range(2) for p in range(12)]
    assert {unit.size for unit in units(design, chunk=4)} == {4, 2}
    point = {"tokens": 2, "delta": 0.5, "given": (1.5, 1.5, 1.0), "alpha_ft": 3.0}
    assert [unit.size for unit in units(make_design(point | {"lam_ft": [0.5, 1.0]}))] == [1] * 4


@pytest.mark.slow
def test_simulated_fine_tunings_stand_at_their_points():
    """Of a unit with one pre-training; against separate runs."""
    parameters = FIXED | {"lam_ft": [1.0, 0.5], "lam": [0.1, 0.3], "beta": [0.9]}
    setting = Setting(12, test_samples=100, starts=1)
    dataset = sweep(theory=None, simulation=Experiment((setting,), seeds=2), **parameters)
    for place in ({"lam_ft": 1.0, "lam": 0.3}, {"lam_ft": 0.5, "lam": 0.1}):
        alone = simulate(Task(**(FIXED | place | {"beta": 0.9})), setting, seeds=2)
        one = dataset.sel(place).squeeze()
        for name, number in (
            ("Q", alone.pretraining.Q),
            ("train_error", alone.pretraining.train_error),
            ("train_error_stderr", alone.stderr.pretraining.train_error),
            ("q", alone.finetuning.q),
            ("test_error_ft_stderr", alone.stderr.finetuning.test_error),
        ):
            assert float(one[f"simulated_{name}"]) == number


@pytest.mark.slow
def test_bayes_is_solved_once_for_all_ridges():
    from jaxlora import bayes_optimal

    parameters = FIXED | {"lam": [0.1, 0.3], "lam_ft": [0.5, 1.0], "delta": [0.5, 1.0]}
    plan = Plan(make_design(parameters), None, None, bayes=True)
    assert [unit.size for unit in units_of(plan)] == [4, 4]
    dataset = sweep(theory=None, bayes=True, **(FIXED | {"lam": [0.1, 0.3], "lam_ft": 0.5}))
    default = Theory()
    fewer = default.samples // 4
    task = make_design(FIXED | {"lam": 0.1, "lam_ft": 0.5}).task(0)
    known = bayes_optimal(task, samples=fewer, replicates=default.replicates)
    np.testing.assert_allclose(
        dataset.bayes_test_error_ft, float(known.values.finetuning_bayes_error), rtol=1e-9
    )


def test_dataset_says_what_it_holds(grid):
    dataset = grid
    assert dataset.test_error_ft.attrs["long_name"] == "test error of the fine-tuned layer (73)"
    assert {array.attrs["units"] for array in dataset.data_vars.values()} == {"1"}
    assert dataset.lam.attrs["long_name"] == "pre-training ridge"
    assert dataset.attrs["kappa0"] == 0.5
    assert dataset.attrs["seed"] == 0
    assert dataset.attrs["jax_version"] == jax.__version__
    assert json.loads(dataset.attrs["configuration"])["parameters.lam_ft"] == [1.5, 3.0]
    meanings = dataset.result.attrs["flag_meanings"].split()
    assert meanings[int(dataset.result.sel(lam=0.1, lam_ft=1.5, beta=1.0))] == "converged"
    again = xarray.load_dataset(bytes(dataset.to_netcdf(engine="h5netcdf")), engine="h5netcdf")
    xarray.testing.assert_identical(again, dataset)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lam": -1.0}, "lam = -1: must be positive"),
        ({"lam": []}, r"lam = \[\]: an axis must have a value at least"),
        ({"lam": [0.1, 0.1]}, "the values of an axis must differ"),
        ({"lamb": 1.0}, "lamb: unknown parameter; must be one of tokens"),
        ({"tokens": 2.5}, "tokens = 2.5: must be an integer"),
        ({"tokens": [1, 2]}, "tokens = 1: must be at least 2 for softmax"),
        ({"kappa": "x"}, "kappa = 'x': must be a number"),
        ({"reuse": 1}, "reuse = 1: must be true or false"),
        ({"given": (1.5, 1.5, 1.0)}, "kappa0: not with given"),
        ({"given": [(1.5, 1.5, 1.0)]}, "kappa0: not with given"),
        ({"given": [(1.5, 1.5)]}, "given = .* must be the three numbers"),
        ({"alpha": None}, "alpha is missing"),
        ({"design": "cube"}, "design = 'cube': must be one of grid, list"),
        ({"design": "list", "lam": [0.1, 0.2], "lam_ft": [1.0]}, "of the same length"),
        ({"chunk": 0}, "chunk = 0: must be an integer of at least 1"),
        ({"theory": None}, "nothing to compute"),
        ({"activation": 3}, "activation = 3: must be a name or a function"),
        ({"bayes": True, "activation": jax.numpy.tanh}, "bayes: for the activations identity"),
    ],
)
def test_bad_sweep_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        sweep(**(FIXED | {"lam": 0.1, "lam_ft": 0.5} | changes))


@pytest.mark.slow
def test_float32_is_asked_for():
    parameters = FIXED | {"lam": [0.1, 0.2], "lam_ft": 1.0, "activation": "identity"}
    single = sweep(theory=Theory(256, 2, options=Options.single()), **parameters)
    double = sweep(theory=FEW, **parameters)
    assert single.test_error_ft.dtype == np.float32
    np.testing.assert_allclose(single.test_error_ft, double.test_error_ft, rtol=2e-3)


def test_units_hold_every_point_once_and_share_a_shape():
    parameters = FIXED | {
        "lam": np.geomspace(0.01, 1, 7)[::-1],
        "lam_ft": [0.1, 0.2, 0.3],
        "delta": [0.5, 1.0],
        "activation": ["identity", "softmax"],
    }
    design = make_design(parameters)
    units = units_of(Plan(design, chunk=10))
    held = np.concatenate([np.unique(unit.points) for unit in units])
    np.testing.assert_array_equal(np.sort(held), np.arange(design.size))
    assert len({unit.points.shape for unit in units}) == 1
    assert max(unit.points.size for unit in units) <= 10
    for unit in units:
        lam = np.reshape(design.values("lam", unit.points.ravel()), unit.points.shape)
        assert np.all(np.diff(lam, axis=-1) >= 0)
        assert np.all(lam == lam[:, :1])
