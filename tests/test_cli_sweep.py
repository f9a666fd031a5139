import json

import jax
import numpy as np
import pytest
import xarray
from helpers import assert_refused

from jaxlora import Options
from jaxlora.cli import _sweep, main
from jaxlora.sweeps import Theory, make_design, work
from jaxlora.sweeps import run as run_plan
from jaxlora.sweeps.configuration import ConfigurationError, configuration_of
from jaxlora.sweeps.pictures import plot_sweep

pytestmark = pytest.mark.usefixtures("keep_settings")

TASK = {
    "tokens": "2",
    "activation": '"identity"',
    "kappa0": "0.5",
    "kappa": "1",
    "alpha": "0.2",
    "delta": "0.5",
    "lam": "{log = [0.05, 0.2, 3]}",
    "alpha_ft": "3",
    "lam_ft": "[0.5, 1.0]",
}
TABLES = {"theory": {"samples": "64", "replicates": "2"}}


def toml(tables):
    lines = []
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{k} = {v}" for k, v in table.items() if v is not None)]
        else:
            lines.insert(0, f"{name} = {table}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("task", "lamb", "0.1", "task.lamb: unknown key; must be one of activation, active_ratio"),
        ("task", "lam", "-1.0", "task.lam = -1: must be positive (inf: no pre-training)"),
        ("task", "lam", "[]", "task.lam = []: an axis must have a value at least"),
        ("task", "lam", "[0.1, -2]", "task.lam = -2: must be positive"),
        ("task", "lam", '"x"', "task.lam = 'x': must be a number"),
        ("task", "lam", "{log = [0.1, 1]}", "{log = [first, last, count]}"),
        ("task", "lam", "{log = [0.1, 1, 0]}", "of at least one value"),
        ("task", "lam", "{log = [0, 1, 3]}", "a range of positive numbers"),
        ("task", "lam", "{cubic = [1, 2, 3]}", "task.lam = {'cubic': [1, 2, 3]}: must be a number"),
        ("task", "tokens", "2.5", "task.tokens = 2.5: must be an integer"),
        ("task", "tokens", "{lin = [2, 3, 2]}", "must be a value, or a list of them"),
        ("task", "kappa", "0.5", "task.kappa = 0.5: must be at least 1"),
        ("task", "activation", '"relu"', "task.activation = 'relu': must be one of identity"),
        ("task", "alpha", None, "task.alpha is missing"),
        ("theory", "samples", '"many"', "theory.samples = 'many': must be an integer"),
        ("theory", "samples", "1", "theory.samples = 1: must be an integer of at least 2"),
        ("theory", "sample", "1", "theory.sample: unknown key; must be one of precision, repl"),
        ("theory", "precision", '"half"', "theory.precision = 'half': must be one of float64"),
        ("simulation", "dim", "1.5", "simulation.dim = 1.5: must be an integer"),
        ("simulation", "centring", '"x"', "simulation.dim is missing"),
        ("design", "kind", '"cube"', "design.kind = 'cube': must be one of grid, list, random"),
        ("engine", "kind", '"slurm"', "engine.kind = 'slurm': must be one of serial, dask"),
        ("engine", "workers", "0", "workers = 0: must be an integer of at least 1"),
        ("chunk", None, "0", "chunk = 0: must be an integer of at least 1"),
        ("bayes", None, '"yes"', "bayes = 'yes': must be true or false"),
        ("theory", None, "false", "nothing to compute"),
        ("sweep", None, "1", "sweep: unknown key; must be one of bayes, chunk, design"),
    ],
)
def test_bad_configuration_is_one_line_and_exit_code_two(
    table, key, value, words, tmp_path, capsys
):
    tables = {"task": dict(TASK), "theory": dict(TABLES["theory"])}
    if key is None:
        tables[table] = value
    else:
        tables.setdefault(table, {})[key] = value
    file = tmp_path / "bad.toml"
    file.write_text(toml(tables))
    arguments = ["sweep", str(file), "--out", str(tmp_path / "x.nc"), "--no-cache"]
    assert_refused(arguments, f"{file}: ", capsys)
    assert_refused(arguments, words, capsys)


@pytest.fixture
def planned(monkeypatch):
    """The plan that `jaxlora sweep` makes of tables and flags, without doing it."""

    def planned_by(file, tables, *flags):
        plans = []

        def run(plan, **_):
            plans.append(plan)
            raise ValueError("not done")

        monkeypatch.setattr(_sweep, "run_sweep", run)
        file.write_text(toml({"task": TASK} | tables))
        assert main(["sweep", str(file), "--out", "x.nc", "--no-cache", *flags]) == 2
        return plans[0]

    return planned_by


def test_seed_is_that_of_everything_there_is(planned, tmp_path):
    file, numbers = tmp_path / "sweep.toml", ("--seed", "5")
    plan = planned(file, {}, *numbers, "--dim", "60")
    assert (plan.theory.seed, plan.experiment.seed) == (5, 5)
    plan = planned(file, {}, *numbers, "--dim", "60", "--no-theory")
    assert plan.theory is None
    assert plan.experiment.seed == 5
    in_file = {"simulation": {"dim": "60", "seed": "3"}, "theory": {"seed": "2"}}
    plan = planned(file, in_file)
    assert (plan.theory.seed, plan.experiment.seed) == (2, 3)
    assert planned(file, in_file, *numbers).experiment.seed == 5
    assert planned(file, {"simulation": "false"}, *numbers).experiment is None


def test_benchmark_without_theory_is_solved_as_the_flags_say(planned, tmp_path, monkeypatch):
    file, alone = tmp_path / "sweep.toml", ("--no-theory", "--bayes")
    flags = ("--samples", "4096", "--seed", "3", "--precision", "float32")
    plan = planned(file, {}, *alone, *flags)
    assert plan.theory is None
    assert plan.benchmark == Theory(4096, seed=3, options=Options.single())
    assert planned(file, {"theory": "false", "bayes": "true"}, *flags).benchmark == plan.benchmark
    numbers = {"samples": "512", "replicates": "2"}
    for tables in ({"theory": numbers}, {"bayes": numbers}):
        assert planned(file, tables, *alone, "--seed", "3").benchmark == Theory(512, 2, 3)
    both = planned(file, {}, "--bayes", "--samples", "64")
    assert both.benchmark == both.theory == Theory(64)
    assert planned(file, {}, "--samples", "64").benchmark is None
    beside = planned(file, {"bayes": numbers}, "--seed", "3", "--precision", "float32")
    assert beside.benchmark == Theory(512, 2, 3, Options.single())
    assert beside.theory == Theory(seed=3, options=Options.single())

    def solve(task, **numerics):
        assert numerics == {
            "samples": 1024,
            "replicates": 4,
            "seed": 3,
            "throw": False,
            "options": Options.single(),
        }
        raise InterruptedError

    monkeypatch.setattr(work, "bayes_optimal", solve)
    # Nothing may ask for float64.
    with jax.enable_x64(False), pytest.raises(InterruptedError):
        run_plan(plan)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), ("task =", "not TOML"), ("task = 1", "a table")]
)
def test_bad_file_is_named(content, words, tmp_path, capsys):
    file = tmp_path / "bad.toml"
    if content is not None:
        file.write_text(content)
    assert_refused(["sweep", str(file), "--out", "x.nc", "--no-cache"], words, capsys)


def test_random_design_is_the_same_for_the_same_seed():
    task = {"tokens": 2, "kappa0": 0.5, "kappa": 1, "alpha": 0.2, "delta": 0.5, "alpha_ft": 3}
    task |= {"lam": {"log": [0.01, 1.0]}, "lam_ft": {"lin": [0.5, 1.5]}}

    def draw(seed):
        tables = {"task": task, "design": {"kind": "random", "points": 500, "seed": seed}}
        return configuration_of(tables).plan.design

    first, again, other = draw(0), draw(0), draw(1)
    assert first == again
    assert first != other
    assert first.shape == (500,)
    lam, lam_ft = (np.array(first.axes[name]) for name in ("lam", "lam_ft"))
    assert 0.01 <= lam.min() < lam.max() <= 1.0
    assert 0.5 <= lam_ft.min() < lam_ft.max() <= 1.5
    # Half of them below the middle of the range on its scale, to four standard errors.
    assert abs(np.mean(lam < 0.1) - 0.5) < 4 * 0.5 / 500**0.5
    assert abs(np.mean(lam_ft < 1.0) - 0.5) < 4 * 0.5 / 500**0.5
    with pytest.raises(ConfigurationError, match="in a random design"):
        configuration_of({"task": task | {"lam": [0.1, 0.2]}, "design": {"kind": "random"}})


def test_informed_start_is_configured():
    task = {"tokens": 2, "given": [1.5, 1.5, 1.0], "delta": 0.5, "alpha_ft": 3, "lam_ft": 1}

    def experiment(**keys):
        return configuration_of({"task": task, "simulation": {"dim": 12} | keys}).plan.experiment

    assert [setting.informed for setting in experiment(informed=True).settings] == [True]
    assert not experiment().settings[0].informed
    with pytest.raises(ConfigurationError, match="informed = 'yes': must be true or false"):
        experiment(informed="yes")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The file of a small sweep, with theory and trained layers."""
    folder = tmp_path_factory.mktemp("swept")
    # A given pre-training compiles sooner.
    task = {k: TASK[k] for k in ("tokens", "activation", "delta", "lam_ft")}
    task |= {"given": "[1.5, 1.5, 1.0]", "alpha_ft": "{log = [1, 4, 3]}"}
    (folder / "sweep.toml").write_text(toml({"task": task} | TABLES))
    out = folder / "sweep.nc"
    arguments = ["sweep", str(folder / "sweep.toml"), "--out", str(out), "--no-cache"]
    arguments += ["--dim", "12", "--seeds", "2", "--test-samples", "50", "--lam-ft", "0.5,2"]
    assert main(arguments) == 0
    return out


def test_flags_take_precedence_over_the_file(swept):
    with xarray.open_dataset(swept, engine="h5netcdf") as dataset:
        assert dict(dataset.sizes) == {"alpha_ft": 3, "lam_ft": 2, "dim": 1}
        np.testing.assert_array_equal(dataset.lam_ft, [0.5, 2.0])
        np.testing.assert_allclose(dataset.alpha_ft, [1, 2, 4])
        assert np.all(np.isfinite(dataset.simulated_test_error_ft_stderr))


def test_info_says_what_is_in_a_sweep(swept, capsys):
    assert main(["info", str(swept)]) == 0
    words = capsys.readouterr().out
    assert "alpha_ft       3 values from 1 to 4" in words
    assert "failed: none" in words
    assert main(["info", str(swept), "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    with xarray.open_dataset(swept, engine="h5netcdf") as dataset:
        least = dataset.test_error_ft.argmin(...)
        assert said["numbers"]["test_error_ft"]["least"] == float(dataset.test_error_ft.min())
        where = said["numbers"]["test_error_ft"]["least_at"]
        assert where["lam_ft"] == float(dataset.lam_ft[least["lam_ft"]])


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_plot_writes_a_picture(swept, suffix, tmp_path, capsys):
    out = tmp_path / f"picture.{suffix}"
    assert main(["plot", str(swept), "--out", str(out)]) == 0
    assert out.stat().st_size > 5000


def test_curves_and_points_are_those_of_the_dataset(swept):
    import matplotlib.figure

    with xarray.open_dataset(swept, engine="h5netcdf") as dataset:
        axes = matplotlib.figure.Figure().subplots()
        plot_sweep(axes, dataset, "overlap", x="lam_ft", by="alpha_ft")
        lines = axes.get_lines()
        for i in range(3):
            x, y = lines[2 * i].get_data()  # a curve, and the points of trained layers
            np.testing.assert_array_equal(x, dataset.lam_ft)
            np.testing.assert_array_equal(y, dataset.overlap.isel(alpha_ft=i))
            _, points = lines[2 * i + 1].get_data()
            np.testing.assert_array_equal(points, dataset.simulated_overlap.isel(alpha_ft=i, dim=0))
        assert axes.get_xlabel() == r"$\lambda'$"
        assert axes.get_ylabel() == "$o_w$"
        assert len(axes.containers) == 3


def test_heat_map_marks_the_least_error(swept):
    import matplotlib.figure

    with xarray.open_dataset(swept, engine="h5netcdf") as dataset:
        axes = matplotlib.figure.Figure().subplots()
        plot_sweep(axes, dataset, x="alpha_ft", by="lam_ft", heat=True)
        (star,) = axes.get_lines()
        place = dataset.test_error_ft.argmin(...)
        np.testing.assert_array_equal(star.get_xdata(), dataset.alpha_ft[place["alpha_ft"]])
        np.testing.assert_array_equal(star.get_ydata(), dataset.lam_ft[place["lam_ft"]])
        mesh = axes.collections[0]
        np.testing.assert_array_equal(
            np.ravel(mesh.get_array()),
            np.ravel(dataset.test_error_ft.transpose("lam_ft", "alpha_ft")),
        )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--variable", "E"], "variable = 'E': must be one of Q, M"),
        (["--x", "delta"], "x = 'delta': must be one of alpha_ft, lam_ft"),
        (["--at", "delta=1"], "at delta = 1: the sweep has the axes alpha_ft, lam_ft"),
        (["--at", "beta"], "at 'beta': must be AXIS=VALUE"),
        (["--at", "alpha_ft=x"], "at alpha_ft = 'x': must be a number"),
        (["--heat", "--at", "alpha_ft=2"], "a heat map needs two axes"),
        (["--out", "x.jpg"], "out = 'x.jpg': must end in one of .png"),
    ],
)
def test_bad_picture_is_refused(swept, flags, words, capsys):
    assert_refused(["plot", str(swept), *flags], words, capsys)


@pytest.mark.parametrize("command", ["plot", "info"])
def test_what_is_no_sweep_is_refused(command, tmp_path, capsys):
    other = tmp_path / "other.nc"
    assert_refused([command, str(other)], f"{other}: no such file", capsys)
    other.write_text("nothing")
    assert_refused([command, str(other)], f"{other}: not netCDF", capsys)
    xarray.Dataset({"x": 1.0}).to_netcdf(other, engine="h5netcdf")
    assert_refused([command, str(other)], f"{other}: not the file of a sweep", capsys)


def test_failed_points_are_left_out_and_counted(swept):
    import matplotlib.figure

    from jaxlora.sweeps.dataset import failures

    with xarray.load_dataset(swept, engine="h5netcdf") as dataset:
        assert failures(dataset) == {}
        dataset["result_ft"][1, 0] = 4
        assert failures(dataset) == {"finetuning": 1}
        axes = matplotlib.figure.Figure().subplots()
        plot_sweep(axes, dataset)
        first = axes.get_lines()[0].get_ydata()
        np.testing.assert_array_equal(np.isnan(first), [False, True, False])


def test_the_frozen_layer_is_left_out_where_the_pretraining_failed(swept):
    import matplotlib.figure

    with xarray.load_dataset(swept, engine="h5netcdf") as dataset:
        dataset["result"][1, :] = 4
        dataset["result_ft"][2, :] = 4
        for name, other in (("test_error_ft", "frozen_test_error"), ("forgetting", "test_error")):
            axes = matplotlib.figure.Figure().subplots()
            plot_sweep(axes, dataset, name)
            (dotted,) = (line for line in axes.get_lines() if line.get_linestyle() == ":")
            expected = dataset[other].isel(lam_ft=0).where([True, False, True])
            np.testing.assert_array_equal(dotted.get_ydata(), expected)


def test_trained_layers_that_did_not_converge_are_hollow_and_not_in_heat_maps(swept):
    import matplotlib.figure

    with xarray.load_dataset(swept, engine="h5netcdf") as dataset:
        dataset["simulated_converged_ft"][1, 0] = 0.5
        points = dataset.simulated_overlap.isel(lam_ft=0, dim=0)
        axes = matplotlib.figure.Figure().subplots()
        plot_sweep(axes, dataset, "overlap", x="alpha_ft", by="lam_ft")
        _, filled, hollow, _, other = axes.get_lines()
        np.testing.assert_array_equal(filled.get_ydata(), points.where([True, False, True]))
        np.testing.assert_array_equal(hollow.get_ydata(), points.where([False, True, False]))
        assert filled.get_markerfacecolor() is filled.get_color()
        assert hollow.get_markerfacecolor() == "white"
        assert hollow.get_color() is filled.get_color()
        assert np.all(np.isfinite(other.get_ydata()))
        # The pre-training is given, and has no training that could fail.
        axes = matplotlib.figure.Figure().subplots()
        plot_sweep(axes, dataset, "test_error", x="alpha_ft", by="lam_ft")
        assert len(axes.get_lines()) == 4
        axes = matplotlib.figure.Figure().subplots()
        plot_sweep(
            axes, dataset.drop_vars("overlap"), "overlap", x="alpha_ft", by="lam_ft", heat=True
        )
        drawn = np.ma.filled(axes.collections[0].get_array().reshape(2, 3), np.nan)
        np.testing.assert_array_equal(np.isnan(drawn), [[False, True, False], [False] * 3])


def test_values_of_a_list_belong_together():
    design = make_design(
        {"tokens": 2, "given": (1.5, 1.5, 1.0), "delta": 0.5}
        | {"alpha_ft": [1.0, 2.0], "lam_ft": [0.5, 0.7]},
        "list",
    )
    task = design.task(1)
    assert (float(task.alpha_ft), float(task.lam_ft)) == (2.0, 0.7)
