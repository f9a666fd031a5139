import matplotlib.figure
import numpy as np

import jaxlora
from jaxlora.plotting import plot_spectrum
from jaxlora.simulation import Setting, simulate


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
