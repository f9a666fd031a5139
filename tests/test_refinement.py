"""Descents and their refinement, on objectives whose optima and steps are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxlora import ConvergenceError, Kink
from jaxlora.tuning import Ending
from jaxlora.tuning.descent import DESCENTS
from jaxlora.tuning.landscape import Landscape, Met, Point
from jaxlora.tuning.objectives import Objective
from jaxlora.tuning.refinement import STEP, ending, refine
from jaxlora.tuning.space import make_space

TOL = 1e-4
HESSIAN = np.array([[0.5, 0.1], [0.1, 0.2]])
OPTIMUM = np.array([0.3, -0.2])
SCATTER = np.array([[0.02, 0.01], [-0.02, 0.01], [0.01, -0.02], [-0.01, 0.0]])  # of slopes


class Known(Landscape):
    """A paraboloid over two logarithms, with a step, and what else a test asks for.

    `step` is how far it rises where the first coordinate passes `edge`; its gradient does not see
    that, but is off by `turn`, downwards before the edge and upwards beyond.
    """

    def __init__(self, step=0.0, edge=0.0, turn=0.0, low=0.1, kinks=0, failing=False):
        bounds = {"lam": (low, 10.0), "lam_ft": (0.1, 10.0)}
        space = make_space({"lam": 2.0, "lam_ft": 1.0}, bounds, lambda values: values)
        objective = Objective("known", lambda replicates: replicates)
        super().__init__(space, objective, {"replicates": len(SCATTER)}, None)
        self.step, self.edge, self.turn = step, edge, turn
        self.kinks, self.failing = kinks, failing

    def _point(self, x, known):
        away, beyond = x - OPTIMUM, float(x[0] > self.edge)
        cost = 1 + float(away @ HESSIAN @ away) / 2 + self.step * beyond
        gradient = HESSIAN @ away + np.array([self.turn * (2 * beyond - 1), 0.0])
        status = SimpleNamespace(
            failure=lambda: "failed" if self.failing else None,
            finetuning=SimpleNamespace(kinks=int(self.kinks)),
        )
        prediction = SimpleNamespace(status=status, replicates=cost + SCATTER @ x)
        return Point(x, cost, gradient, prediction)

    def descend(self, start, number=1):
        self.begin(number)
        DESCENTS["lbfgs"](self, np.array(start), self.space.low, self.space.high, TOL, 40)

    def refined(self, best=None):
        """The refinement of the descents' best point, or of a given one."""
        if best is not None:
            self.best = self.look(np.array(best))
        point, around = refine(self, TOL)
        return point, around, ending(self, point, around, TOL)


def test_a_smooth_optimum_is_found_with_its_surroundings():
    landscape = Known()
    landscape.descend([1.0, 1.0])
    point, around, how = landscape.refined()
    assert how is Ending.CONVERGED
    np.testing.assert_allclose(point.x, OPTIMUM, atol=TOL / 0.17)  # its least curvature
    np.testing.assert_allclose(around.hessian, HESSIAN, rtol=1e-9)
    assert around.jump < 1e-12
    # The optimum of each replicate is at −H⁻¹ times its own slope.
    each = np.linalg.solve(HESSIAN, SCATTER.T).T
    np.testing.assert_allclose(around.stderr, each.std(axis=0, ddof=1) / 2, rtol=1e-9)


def test_the_root_of_the_gradient_is_found_beyond_a_step():
    # Values are lower before the step, by more than what is left to gain.
    landscape = Known(step=3e-4, edge=OPTIMUM[0] - 0.02)
    beside = np.array([OPTIMUM[0] - 0.021, OPTIMUM[1]])
    point, around, how = landscape.refined(beside)
    assert how is Ending.CONVERGED
    np.testing.assert_allclose(point.x, OPTIMUM, atol=TOL / 0.17)
    assert point.cost > landscape.look(beside).cost
    np.testing.assert_allclose(around.jump, 3e-4, rtol=1e-6)


def test_an_optimum_at_a_turn_of_the_gradient_is_reported_as_such():
    landscape = Known(step=3e-4, edge=OPTIMUM[0], turn=2e-3)  # changes sign without a root
    point, _, how = landscape.refined([OPTIMUM[0] - 0.021, OPTIMUM[1]])
    assert how is Ending.JUMPS
    assert how.successful
    np.testing.assert_allclose(point.x, OPTIMUM, atol=0.01)


def test_a_step_higher_than_the_optimum_is_deep_is_not_climbed():
    landscape = Known(step=0.1, edge=OPTIMUM[0] - 0.4)
    beside = [OPTIMUM[0] - 0.41, OPTIMUM[1]]
    point, _, how = landscape.refined(beside)
    np.testing.assert_array_equal(point.x, beside)
    assert how is Ending.UNFINISHED  # the optimum is not within the error bars
    assert not how.successful


def test_an_end_where_branches_cross_is_reported():
    landscape = Known(step=0.1, edge=OPTIMUM[0] - 0.4, kinks=Kink.BRANCHES)
    assert landscape.refined([OPTIMUM[0] - 0.41, OPTIMUM[1]])[2] is Ending.BRANCHES


def test_a_bound_is_kept():
    landscape = Known(low=2.0)
    landscape.descend([1.0, 1.0])
    point, around, how = landscape.refined()
    assert how is Ending.CONVERGED
    assert point.x[0] == pytest.approx(np.log(2.0))
    # Along the bound the least is where the second derivative by the other coordinate says.
    along = OPTIMUM[1] - HESSIAN[0, 1] / HESSIAN[1, 1] * (np.log(2.0) - OPTIMUM[0])
    assert point.x[1] == pytest.approx(along, abs=TOL / 0.2)
    np.testing.assert_array_equal(around.free, [False, True])


def test_a_descent_stops_where_it_meets_another():
    landscape = Known()
    landscape.descend([1.0, 1.0])
    with pytest.raises(Met):
        landscape.descend([-1.0, -1.0], number=2)
    assert landscape.count < 20


def test_what_surrounds_an_optimum_may_be_unknown():
    landscape = Known(failing=True)
    with pytest.raises(ConvergenceError, match="at the best point: failed"):
        refine(landscape, TOL)
    landscape = Known()
    centre = OPTIMUM + 0.01
    landscape.best = landscape.look(centre)
    plain = landscape._point

    def fails_beside(x, known):
        landscape.failing = bool(np.max(np.abs(x - centre)) > STEP / 2)
        return plain(x, known)

    landscape._point = fails_beside
    point, around, _ = landscape.refined()
    assert np.all(np.isnan(around.hessian))
    assert np.all(np.isnan(around.stderr))
    np.testing.assert_array_equal(point.x, centre)
