"""Parameter points of the paper that several test modules share."""

import jaxlora

FIGURE_1 = {"tokens": 3, "kappa0": 1, "kappa": 1, "alpha": 0.1, "delta": 0.5, "alpha_ft": 3}
FIGURE_3 = {"tokens": 2, "kappa0": 0.5, "kappa": 1, "alpha": 0.2, "delta": 0.5, "alpha_ft": 3}
GIVEN = {"tokens": 3, "delta": 0.5, "given": (1.5, 1.5, 1.0), "alpha_ft": 3}


def figure_1(lam=0.05, lam_ft=0.2, **fields):
    """A task at the parameters of the paper's figure 1."""
    return jaxlora.Task(**(FIGURE_1 | {"lam": lam, "lam_ft": lam_ft} | fields))


def figure_3(lam=0.1, lam_ft=0.2, **fields):
    """A task at the parameters of the paper's figure 3."""
    return jaxlora.Task(**(FIGURE_3 | {"lam": lam, "lam_ft": lam_ft} | fields))


def given(lam_ft=0.5, **fields):
    """A task with an effective pre-training."""
    return jaxlora.Task(**(GIVEN | {"lam_ft": lam_ft} | fields))
