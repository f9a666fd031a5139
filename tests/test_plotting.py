from types import SimpleNamespace

import matplotlib.figure
import numpy as np
import pytest

import jaxlora
from jaxlora.plotting import plot_front, plot_spectrum, plot_splits
from jaxlora.simulation import Setting, simulate
from jaxlora.tuning import FrontPoint, Split


@pytest.mark.slow
def test_spectrum_of_theory_and_of_trained_layers_agree():
    """Areas and first two moments of the curve, and of the histogram within 1/D effects."""
    task = jaxlora.Task(
        tokens=2, kappa0=0.5, kappa=1, alpha=0.2, delta=0.5, lam=0.05, alpha_ft=3, lam_ft=np.inf
    )
    prediction = jaxlora.predict(task, samples=2**13)
    simulation = simulate(task, Setting(60, test_samples=10), seeds=4)
    axes = matplotlib.figure.Figure().subplots()
    plot_spectrum(axes, prediction, simulation)
    (line,) = axes.lines
    x, rho = line.get_data()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    at_zero = {label.startswith("theory"): float(label.split("at 0: ")[1]) for label in labels}
    theory, histogram = at_zero[True], at_zero[False]
    positive = np.trapezoid(rho, x)
    np.testing.assert_allclose(theory + positive, 1, atol=2e-3)
    np.testing.assert_allclose(np.trapezoid(rho * x**2, x), prediction.pretraining.Q, rtol=2e-3)
    area = sum(patch.get_height() * patch.get_width() for patch in axes.patches)
    np.testing.assert_allclose(histogram + area, 1, atol=2e-3)
    assert abs(histogram - theory) < 2 / 60 + 0.02


def test_a_spectrum_without_eigenvalues_is_refused():
    fields = {"tokens": 2, "delta": 0.5, "alpha_ft": 3, "lam_ft": 1}
    trained = {"kappa0": 0.5, "kappa": 1, "alpha": 0.2, "lam": np.inf}
    for pretraining, words in ((trained, "lam = inf"), ({"given": (1, 1, 0)}, "no eigenvalues")):
        simulation = SimpleNamespace(task=jaxlora.Task(**fields, **pretraining))
        with pytest.raises(ValueError, match=words):
            plot_spectrum(None, None, simulation)


def test_a_front_is_drawn_with_the_values_that_lead_to_it():
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    tuned = SimpleNamespace(
        parameters={"lam": SimpleNamespace(value=0.02), "beta": SimpleNamespace(value=1.5)}
    )
    front = [FrontPoint(w, (1 + w, 2 + w), (0.1, 0.2), tuned) for w in (0.0, 0.5, 1.0)]
    plot_front(axes, front, ("error_ft", "overlap"))
    line = axes.lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [1, 1.5, 2])
    np.testing.assert_array_equal(line.get_ydata(), [2, 2.5, 3])
    assert [text.get_text() for text in axes.texts] == ["λ = 0.02, β = 1.5"] * 3
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$E'$", "$o_w$")


def test_words_beside_points_of_a_front_do_not_overlap():
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    tuned = SimpleNamespace(parameters={"lam": SimpleNamespace(value=0.02)})
    heights = [0.0, 0.01, 0.5, 0.51, 0.99, 1.0]
    front = [FrontPoint(0.0, (1 + y, y), (0.1, 0.2), tuned) for y in heights]
    plot_front(axes, front, ("error_ft", "overlap"))
    assert [text.xy[1] for text in axes.texts] == [0.0, 0.5, 1.0]


def test_splits_are_drawn_in_per_cent_beside_what_they_buy():
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    splits = [
        Split(
            1.0,
            2.0,
            share,
            0.01,
            SimpleNamespace(value=0.1, parameters={"odds": SimpleNamespace(at_bound=share > 0.5)}),
        )
        for share in (0.3, 0.6)
    ]
    plot_splits(axes, [1.0, 2.0], splits)
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata(), float), [30, 60])
    hollow = axes.lines[-1]
    assert hollow.get_markerfacecolor() == "w"
    np.testing.assert_allclose(np.asarray(hollow.get_ydata(), float), [60])
    bought = np.asarray(figure.axes[1].lines[0].get_ydata(), float)
    np.testing.assert_allclose(bought, [0.1, 0.1])
