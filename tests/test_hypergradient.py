import numpy as np
import pytest
from points import figure_3, given

from jaxlora.simulation import Setting, Training, hyperparameter_gradient, run_seed, train_pair


@pytest.mark.parametrize("reuse", [False, True])
def test_hyperparameter_gradient_is_that_of_retraining(reuse):
    setting = Setting(24, test_samples=500, starts=1, training=Training(tol=1e-10))
    task = figure_3(lam=0.1, lam_ft=0.4, reuse=reuse, beta=0.9)
    gradient = hyperparameter_gradient(task, setting, train_pair(task, setting, 0), 0)
    assert max(map(float, gradient.residuals)) < 1e-7
    parameters = {"lam": 0.1, "lam_ft": 0.4, "reuse": reuse, "beta": 0.9}
    for name, found in (("lam", gradient.by_lam), ("lam_ft", gradient.by_lam_ft)):
        ends = [
            run_seed(figure_3(**(parameters | {name: parameters[name] + d})), setting, 0)
            for d in (1e-4, -1e-4)
        ]
        slope = (ends[0].finetuning.test_error - ends[1].finetuning.test_error) / 2e-4
        np.testing.assert_allclose(found, slope, rtol=1e-4)


def test_hyperparameter_gradient_of_a_given_pretraining():
    setting = Setting(24, test_samples=500, starts=1, training=Training(tol=1e-10))
    gradient = hyperparameter_gradient(given(), setting, train_pair(given(), setting, 0), 0)
    ends = [run_seed(given(0.5 + d), setting, 0).finetuning.test_error for d in (1e-4, -1e-4)]
    np.testing.assert_allclose(gradient.by_lam_ft, (ends[0] - ends[1]) / 2e-4, rtol=1e-5)
    assert np.isnan(gradient.by_lam)
