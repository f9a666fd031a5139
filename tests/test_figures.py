"""The figures: their points are the paper's, their claims say what the numbers do."""

import argparse
import json
import pathlib

import matplotlib.figure
import numpy as np
import pytest
import xarray

from jaxlora import Task, effective_noise
from jaxlora.cli import _figure, main
from jaxlora.figures import FIGURES, Figure, Scale, figure3, figure4, make_figure
from jaxlora.figures.claims import (
    Claim,
    Number,
    agreement_claim,
    number,
    point_of_least,
    share_positive,
    stability_claim,
)
from jaxlora.figures.drawing import draw_layers, is_stable
from jaxlora.figures.effective import noises, triples
from jaxlora.figures.lab import Lab, largest_dimension
from jaxlora.figures.scale import spread
from jaxlora.outputs import ConvergenceError
from jaxlora.simulation import Setting, setting
from jaxlora.simulation.setting import sizes_of

DRAWN = pathlib.Path(__file__).parents[1] / "docs/figures"
# What is tested does not depend on the sampling error.
TINY = Scale(samples=256, replicates=2, points=7, simulated=0)
GIVEN = {
    "tokens": 2,
    "activation": "identity",
    "delta": 0.5,
    "given": (1.5, 1.5, 1.0),
    "lam_ft": 0.5,
    "alpha_ft": 3.0,
}


def table(**columns) -> xarray.Dataset:
    """A sweep along λ with these numbers; all solved."""
    lam = np.geomspace(0.01, 0.1, len(next(iter(columns.values()))))
    solved = {"result": 0, "result_ft": 0, "replicon": 0.5, "replicon_ft": 0.5}
    variables = {name: ("lam", np.full(len(lam), x)) for name, x in solved.items()}
    variables |= {name: ("lam", np.asarray(x, float)) for name, x in columns.items()}
    return xarray.Dataset(variables, {"lam": lam})


@pytest.mark.parametrize("delta", [0.0, 2.0])
def test_given_pretrainings_have_the_effective_noise(delta):
    noise = noises(13, delta / 2)
    assert noise[0] == delta / 2
    assert noise[-1] == 3
    for wanted, (Q0, Q, M) in zip(noise, triples(noise, delta), strict=True):
        assert Q0 == Q
        assert M == 1
        np.testing.assert_allclose(effective_noise(Q0 + delta / 2, Q, M), wanted, atol=1e-12)


def test_noises_of_different_teachers_are_the_same_ones():
    every, some = noises(33), noises(33, 1.0)
    assert np.all(np.isin(some, every))


def test_places_are_spread_over_both_ends():
    np.testing.assert_array_equal(spread(9, 5), [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(spread(3, 7), [0, 1, 2])


def test_differences_are_positive_where_their_errors_allow():
    lam = {"lam": [1.0, 2.0, 3.0, 4.0]}
    value = xarray.DataArray([1.0, 0.2, -1.0, np.nan], lam)
    difference = Number(value, xarray.full_like(value, 0.1))
    assert share_positive(difference) == pytest.approx(1 / 3)
    assert np.isnan(share_positive(difference.isel(lam=[3])))
    other = Number(xarray.zeros_like(value), xarray.full_like(value, 0.1))
    np.testing.assert_allclose((difference - other).stderr, 0.1 * 2**0.5)
    # All points of several differences count the same; one without an error does not count.
    assert share_positive(difference, difference.isel(lam=[0])) == pytest.approx(2 / 4)
    assert np.isnan(share_positive(Number(value, value * np.nan)))


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        (1.0, "confirmed"),
        (0.0, "not confirmed"),
        (0.5, "at 50 % of the points"),
        (0.997, "at 99.7 % of the points"),
        (0.9996, "at 99.96 % of the points"),
        (0.002, "at 0.2 % of the points"),
        (np.nan, "not tested"),
    ],
)
def test_a_claim_says_how_far_it_holds(holds, verdict):
    assert Claim("", holds, "").verdict == verdict


def test_unsolved_points_are_left_out():
    data = table(test_error_ft=[3.0, 1.0, 2.0], test_error_ft_stderr=[0.1] * 3)
    data["result_ft"][1] = 4
    assert float(point_of_least(data, "test_error_ft").test_error_ft) == 2
    np.testing.assert_array_equal(np.isnan(number(data, "test_error_ft").value), [0, 1, 0])
    data["result_ft"][:] = 4
    data = data.assign_coords(lam_ft=0.5).assign_attrs(delta=2.0)
    words = "test_error_ft at no point along lam, with delta = 2.0, lam_ft = 0.5"
    with pytest.raises(ConvergenceError, match=words):
        point_of_least(data, "test_error_ft")


def test_a_stage_that_succeeded_stays_where_the_next_one_failed():
    data = table(test_error=[3.0, 1.0], test_error_stderr=[0.1] * 2)
    data["result_ft"][1] = 4
    np.testing.assert_array_equal(number(data, "test_error").value, [3, 1])


def test_the_largest_replicon_is_named_with_its_place():
    data = table(test_error_ft=[1.0, 1.0, 1.0])
    data["replicon_ft"] = ("lam", [0.5, 0.7, 1.5])
    claim = stability_claim([data])
    assert claim.holds == pytest.approx(2 / 3)
    assert "largest replicon_ft 1.5 at λ = 0.1" in claim.numbers
    np.testing.assert_array_equal(is_stable(data, "overlap"), [True, True, False])
    assert np.all(is_stable(data, "test_error"))


def test_stability_is_that_of_both_stages_at_a_point():
    data = table(test_error_ft=np.ones(5))
    data["replicon"] = ("lam", [1.5, 0.5, np.nan, np.nan, 0.5])
    data["replicon_ft"] = ("lam", [0.5, 1.5, 0.5, np.nan, 0.5])
    data["result_ft"][4] = 4
    claim = stability_claim([data])
    # The third has no pre-training; at the fourth neither applies, the fifth is not solved.
    assert claim.holds == pytest.approx(1 / 3)
    assert "1 points not solved" in claim.numbers
    assert np.isnan(stability_claim([data.isel(lam=[3])]).holds)


def test_agreement_is_counted_in_standard_errors_of_both():
    theory = table(test_error_ft=[1.0, 2.0], test_error_ft_stderr=[0.3, 0.3])
    measured = xarray.Dataset(
        {
            "simulated_test_error_ft": (("lam", "dim"), [[9.0, 1.5], [9.0, 5.0]]),
            "simulated_test_error_ft_stderr": (("lam", "dim"), [[0.4, 0.4], [0.4, 0.4]]),
        },
        {"lam": theory.lam, "dim": [50, 100]},
        {"simulation_seeds": 4},
    )
    claim = agreement_claim([(theory, measured)])
    # At D = 100 the differences are one and six standard errors of 0.5.
    assert claim.holds == 0.5
    assert "D = 100 with 4 seeds: 2 numbers" in claim.numbers
    assert "root mean square 4.3, largest 6" in claim.numbers
    assert np.isnan(agreement_claim([(theory, None)]).holds)
    measured["simulated_test_error_ft_stderr"][:] = np.nan  # as of a single seed
    claim = agreement_claim([(theory, measured)])
    assert np.isnan(claim.holds)
    assert claim.numbers == "D = 100 with 4 seeds: no standard errors"


def test_a_number_that_points_share_counts_once():
    """Of two λ, two λ' of which the second is ∞, and two α' with the same pre-trainings."""
    pairs = []
    for alpha_ft, rounding in ((0.0, 1.0), (10.0, 1 + 1e-12)):
        theory, measured = xarray.Dataset(), xarray.Dataset(coords={"dim": [9]})
        for name, value in {
            "test_error": [[1.0, 1.0], [2.0, 2.0]],
            "test_error_ft": [[5.0 + alpha_ft, 6.0 + alpha_ft], [7.0 + alpha_ft, 8.0 + alpha_ft]],
            "forgetting": [[3.0 + alpha_ft, 1.0], [4.0 + alpha_ft, 2.0]],
        }.items():
            theory[name] = (("lam", "lam_ft"), rounding * np.array(value))
            theory[f"{name}_stderr"] = 0 * theory[name]
            measured[f"simulated_{name}"] = 1.1 * theory[name] * xarray.ones_like(measured.dim)
            measured[f"simulated_{name}_stderr"] = 0 * measured[f"simulated_{name}"] + 0.1
        pairs.append((theory, measured.assign_attrs(simulation_seeds=2)))
    claim = agreement_claim(pairs)
    # E twice, E' eight times, E'' four times; each differs by as many errors as it is large.
    assert "14 numbers" in claim.numbers
    assert claim.holds == pytest.approx(2 / 14)


def test_where_reuse_helps_most_is_read_off():
    lam = np.array([0.01, 0.02, 0.04, 0.08])
    names = ("test_error", "test_error_ft", "overlap")
    curve = [2.0, 1.0, 2.0, 3.0]
    theory = xarray.concat(
        [table(**dict.fromkeys([*names, *(f"{name}_stderr" for name in names)], curve))]
        * len(figure3.RIDGES_FT),
        xarray.DataArray(list(figure3.RIDGES_FT), dims="lam_ft", name="lam_ft"),
    )
    noise, V = [0.5, 1.0, 1.0, 1.0], [1.0, 0.5, 2.0, 4.0]
    linear = table(effective_noise=noise, V=V, test_error_ft=curve)
    linear, theory = (one.assign_coords(lam=lam) for one in (linear, theory))
    linear["result"][3] = 4
    claim = figure3.claims(figure3.Data(theory, linear, None))[2]
    # At the third λ, where V is largest of those solved.
    assert "smallest at λ = 0.04 of 0.01 to 0.04" in claim.numbers
    assert claim.holds == 1


def test_gains_of_active_finetuning_are_compared_within_their_errors():
    """Of five comparisons that the values bear out, those of the smallest gains are unresolved."""
    tuned = {}
    for ratio, gain in zip(figure4.RATIOS, (3.0, 2.0, 1.9), strict=True):
        values, errors = {"test_error_ft": [[5, 5], [5, 5 + gain]]}, [[0.1, 0.1], [0.1, 0.1]]
        values["overlap"] = [[0.5, 0.5], [0.6, 0.4]]
        one = xarray.Dataset(coords={"active_ratio": [ratio, figure4.EVEN], "lam_ft": 0.5})
        for name, value in values.items():
            value = [value[0], value[0], value[1]]
            one[name] = (("given", "active_ratio"), np.array(value, float))
            one[f"{name}_stderr"] = (("given", "active_ratio"), np.array([errors[0]] * 3))
        for name in ("result", "result_ft", "replicon", "replicon_ft"):
            one[name] = 0 * one.overlap
        tuned[ratio] = one
    data = figure4.Data(np.array([0.0, 1.0, 2.0]), {}, tuned, {}, {})
    claim = figure4.claims(data)[2]
    # Each gain rises along Δ_eff, but 2.0 is above 1.9 by less than its error.
    assert claim.holds == pytest.approx(4 / 5)


def test_layers_of_many_dimensions_are_drawn():
    axes = matplotlib.figure.Figure().subplots()
    data = xarray.Dataset(
        {name: (("lam", "dim"), np.ones((2, 9))) for name in ("simulated_q", "simulated_q_stderr")}
    )
    draw_layers(axes, data, [1.0, 2.0], "q", "black")
    assert len(axes.containers) == 9


@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_layers_that_cannot_be_trained_are_found_before_anything_is_solved(
    figure, tmp_path, monkeypatch
):
    monkeypatch.setattr(Lab, "theory", lambda *arguments, **options: pytest.fail("solved"))
    with pytest.raises(ValueError, match=r"dim = 1000000: needs about"):
        make_figure(figure, tmp_path, Scale(dims=(30, 10**6)))
    if figure in (1, 3, 6):
        with pytest.raises(ValueError, match="at dim = 2"):
            make_figure(figure, tmp_path, Scale(dims=(2,)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_a_layer_of_each_size_is_checked(figure):
    """Against what the layers of docs/figures were trained at."""
    names = ("tokens", "reuse", "kappa0", "kappa", "alpha", "alpha_ft", "active_ratio")
    trained = set()
    for path in DRAWN.glob(f"figure{figure}/*_layers.nc"):
        dataset = xarray.load_dataset(path, engine="h5netcdf").isel(dim=0)
        given = {"given": (1.0, 1.0, 1.0)} if "given" in dataset.coords else {"lam": 0.1}
        points = dataset.simulated_test_error_ft.to_dataframe().reset_index()
        for point in points.to_dict("records"):
            values = {
                n: np.asarray(x).item() for n, x in (dataset.attrs | point).items() if n in names
            }
            task = Task(**values | given, delta=0.0, lam_ft=1.0)
            trained.add(sizes_of(task, Setting(1000)))
    assert trained == {sizes_of(Task(**one), Setting(1000)) for one in FIGURES[figure].LAYERS}


def test_layers_too_large_for_the_memory_are_halved(monkeypatch):
    task = Task(tokens=2, kappa0=1, kappa=1, alpha=0.2, delta=0.5, lam=0.1, alpha_ft=3, lam_ft=1)
    monkeypatch.setattr(setting, "_available_bytes", lambda: 2**30)
    dimension = largest_dimension(1000, [task])
    assert dimension in (125, 250, 500)
    monkeypatch.setattr(setting, "_available_bytes", lambda: 1)
    with pytest.raises(ValueError, match="needs about"):
        largest_dimension(1000, [task])


def test_a_sweep_of_a_figure_is_kept_and_not_mixed_with_another(tmp_path):
    seen = []
    lab = Lab(tmp_path, TINY, seen.append)
    first = lab.theory("one", GIVEN)
    assert seen
    assert [path.name for path in tmp_path.iterdir()] == ["one.nc"]
    seen.clear()
    again = lab.theory("one", GIVEN)
    assert not seen
    xarray.testing.assert_equal(first, again)
    with pytest.raises(ValueError, match="of another sweep"):
        lab.theory("one", GIVEN | {"lam_ft": 1.0})
    assert not lab.failed
    first["result_ft"][...] = 4
    first.to_netcdf(tmp_path / "one.nc", engine="h5netcdf")
    lab.theory("one", GIVEN)
    assert lab.failed == {"one": {"finetuning": 1}}
    assert lab.simulation("layers", GIVEN) is None


def test_a_claim_that_was_not_tested_is_null_in_json(tmp_path, capsys):
    claims = [Claim("one", np.nan, ""), Claim("other", 0.5, "")]
    figure = Figure(1, tmp_path / "figure1.png", tmp_path, claims, {})
    assert _figure.show(argparse.Namespace(format="json"), ([figure], 1.0)) == 0
    (shown,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["figures"]
    assert [claim["holds"] for claim in shown["claims"]] == [None, 0.5]
    assert shown["claims"][0]["verdict"] == "not tested"


@pytest.mark.slow
@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_every_figure_is_drawn_with_its_layers(figure, tmp_path):
    """At sizes where nothing can be concluded: that all parts fit together."""
    scale = Scale(
        samples=256, replicates=2, points=5, simulated=2, dims=(20, 30), seeds=2, quick=True
    )
    made = make_figure(figure, tmp_path, scale)
    assert made.picture.read_bytes().startswith(b"\x89PNG")
    layers = list(made.data.glob("*_layers.nc"))
    assert layers
    for path in layers:
        assert "simulated_test_error_ft" in xarray.load_dataset(path, engine="h5netcdf")
    *_, stability, agreement = made.claims
    assert "replicon" in stability.statement
    assert 0 <= agreement.holds <= 1
    assert "D = 30 with 2 seeds" in agreement.numbers


@pytest.mark.slow
def test_command_draws_and_reports(tmp_path, capsys, keep_settings):
    arguments = ["figure", "5", "--theory-only", "--quick", "--samples", "1024", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path), "--format", "json", "--no-cache"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["figures"]
    assert (tmp_path / "figure5.png").exists()
    depends, falls, *_ = report["claims"]
    # Theory appendix C: exact statements for σ = x/T; the first within sampling errors.
    assert depends["holds"] > 0.9
    assert falls["holds"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["7"], "figure = 7: must be from 1 to 6"),
        (
            ["5", "1", "--dims", "2", "--out", "{tmp}"],
            "alpha = 0.1: makes N = 0 at dim = 2, must be larger, or dim",
        ),
        (["5", "--seeds", "0"], "seeds = 0: must be an integer of at least 1"),
        (["5", "--dims", "1", "--out", "{tmp}"], "dimension = 1: must be an integer of at least 2"),
    ],
)
def test_bad_figure_is_one_line(arguments, words, tmp_path, capsys, keep_settings):
    arguments = [one.format(tmp=tmp_path) for one in arguments]
    assert main(["figure", *arguments, "--quick", "--samples", "64", "--quiet", "--no-cache"]) == 2
    error = capsys.readouterr().err
    assert error == f"jaxlora figure: error: {words}\n"
