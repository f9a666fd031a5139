import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from jaxlora.fixed_point import METHODS, solve_fixed_point

BOTH_METHODS = pytest.mark.parametrize("method", METHODS)
MATRIX = np.array([[0.3, 0.2, 0.0], [-0.4, 0.1, 0.3], [0.1, 0.0, 0.5]])
SHIFT = np.array([1.0, 2.0, 3.0])


def anywhere(x):
    return jnp.array(True)


@functools.cache
def solver(function, **options):
    """Jitted start → solution of x = function(x), with the last point of evaluation as `aux`."""

    def run(start):
        return solve_fixed_point(
            lambda x, aux: function(x), lambda x, aux, _: x, start, start, anywhere, **options
        )

    return jax.jit(run)


def solve(function, start, **options):
    return solver(function, **options)(jnp.asarray(start))


def contraction(x):
    return MATRIX @ x + SHIFT


def oscillating(x):
    """Fixed point (2, 1), with eigenvalues −3 and 0.5, and nonlinear terms."""
    away = x - jnp.array([2.0, 1.0])
    return x + jnp.array([-4.0, -0.5]) * away + 0.3 * jnp.sin(away) ** 2 * away[::-1]


def saddle(x):
    """Fixed points (1, 2), with eigenvalues 1.2 and 0.5, and (3, 2), with 0.8 and 0.5."""
    return jnp.stack([x[0] + 0.1 * (x[0] - 1) * (3 - x[0]), 1 + 0.5 * x[1]])


def slow(x):
    return x - 0.01 * (x - 5)


def iterates(points):
    """Without those beside an iterate along one coordinate, which I − F' is found from."""
    kept = []
    for point in points:
        if all(np.sum(point != other) > 1 for other in kept):
            kept.append(point)
    return np.array(kept)


def residual(function, x, floor):
    x = np.asarray(x)
    return np.max(np.abs(np.asarray(function(x)) - x) / (floor + np.abs(x)))


@BOTH_METHODS
@pytest.mark.parametrize("damping", [1.0, 0.5])
def test_linear_contraction(method, damping):
    exact = np.linalg.solve(np.eye(3) - MATRIX, SHIFT)
    solved = solve(contraction, np.ones(3), method=method, damping=damping, tol=1e-12)
    assert solved.residual <= 1e-12
    np.testing.assert_allclose(solved.value, exact, rtol=1e-11)


def test_plain_iteration_cannot_solve_an_oscillating_map():
    solved = solve(oscillating, [2.1, 1.1], method="damped", max_iterations=300)
    assert solved.iterations == 300
    assert solved.residual > 0.1


@pytest.mark.parametrize("options", [{"method": "newton"}, {"method": "damped", "damping": 0.3}])
@pytest.mark.parametrize("start", [[2.02, 0.99], [3.5, 2.0], [0.5, 0.2]])
def test_oscillating_map_needs_newton_or_damping(options, start):
    solved = solve(oscillating, start, tol=1e-12, **options)
    assert solved.residual <= 1e-12
    np.testing.assert_allclose(solved.value, [2, 1], rtol=1e-11)


def reflection(x):
    """Every start but the fixed point 2.1 is on a cycle of two points."""
    return 4.41 / x


@pytest.mark.parametrize("start", [1.5, 1.7, 2.9])
def test_cycle_is_left(start):
    plain = solve(reflection, [start], method="damped", max_iterations=100)
    assert plain.residual > 0.1
    solved = solve(reflection, [start], tol=1e-12, max_iterations=100)
    np.testing.assert_allclose(solved.value, 2.1, rtol=1e-11)


@BOTH_METHODS
@pytest.mark.parametrize("start", [[1.0001, 2.0], [1.02, 1.9], [1.2, 2.2]])
def test_unstable_fixed_point_is_left(method, start):
    assert residual(saddle, start, 1e-3) < 0.1
    solved = solve(saddle, start, method=method, tol=1e-12, max_iterations=1000)
    assert solved.residual <= 1e-12
    np.testing.assert_allclose(solved.value, [3, 2], rtol=1e-10)


def test_newton_needs_few_evaluations_where_the_map_is_slow():
    newton = solve(slow, [4.0], tol=1e-12, max_iterations=5000)
    damped = solve(slow, [4.0], method="damped", tol=1e-12, max_iterations=5000)
    for solved in (newton, damped):
        np.testing.assert_allclose(solved.value, 5, rtol=1e-9)
    assert newton.iterations < 10
    assert damped.iterations > 1000


def vanishing(x):
    """To (0, 0, 2) at rates of 0.9 and 0.4, all but linear there."""
    m, s, _ = x
    return jnp.stack([0.9 * m / (1 + m**2), 0.4 * s + 0.1 * m, 2 - (m**2 + s**2) / 4])


def test_newton_needs_few_evaluations_on_the_way_to_zero():
    newton = solve(vanishing, [1.0, 0.5, 1.0], max_iterations=5000)
    damped = solve(vanishing, [1.0, 0.5, 1.0], method="damped", max_iterations=5000)
    for solved in (newton, damped):
        assert solved.residual <= 1e-10
        np.testing.assert_allclose(solved.value, [0, 0, 2], atol=2e-12)
    assert newton.iterations <= 15
    assert damped.iterations > 150


@BOTH_METHODS
def test_nothing_is_evaluated_after_the_start_has_converged(method):
    exact = np.linalg.solve(np.eye(3) - MATRIX, SHIFT)
    solved = solve(contraction, exact, method=method)
    assert solved.iterations == 1
    np.testing.assert_array_equal(solved.value, exact)


@BOTH_METHODS
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_max_iterations_counts_evaluations(method, limit):
    points = []

    def prepare(x, aux, _):
        jax.debug.callback(lambda x: points.append(x), x)
        return aux

    start = jnp.array([1.1, 1.9])
    solved = solve_fixed_point(
        lambda x, aux: saddle(x),
        prepare,
        start,
        start,
        anywhere,
        method=method,
        max_iterations=jnp.asarray(limit),
    )
    jax.effects_barrier()
    assert solved.iterations == limit
    assert len(iterates(points)) == limit
    assert method == "newton" or len(points) == limit


@BOTH_METHODS
def test_known_change_spares_the_first_evaluation(method):
    points = []

    def prepare(x, aux, _):
        jax.debug.callback(lambda x: points.append(x), x)
        return aux

    def run(change):
        points.clear()
        solved = solve_fixed_point(
            lambda x, aux: oscillating(x), prepare, start, start, anywhere, change=change, **options
        )
        jax.effects_barrier()
        return solved, iterates(points)

    start, options = jnp.array([2.2, 0.9]), {"method": method, "damping": 0.3}
    usual, all_points = run(None)
    solved, later_points = run(oscillating(start) - start)
    assert solved.iterations == usual.iterations - 1
    np.testing.assert_allclose(later_points, all_points[1:], rtol=1e-12)
    # At a solution there is nothing to do.
    assert run(jnp.zeros(2))[0].iterations == 0


@BOTH_METHODS
@pytest.mark.parametrize("floor", [1e-3, 10.0])
def test_residual_is_that_of_the_undamped_map_at_the_value(method, floor):
    options = {"method": method, "damping": 0.1, "max_iterations": 2, "floor": floor}
    solved = solve(contraction, 100 * np.ones(3), **options)
    assert solved.residual > 1e-3
    np.testing.assert_allclose(
        solved.residual, residual(contraction, solved.value, floor), rtol=1e-12
    )


@BOTH_METHODS
def test_aux_belongs_to_the_value(method):
    solved = solve(oscillating, [3.0, 0.5], method=method, damping=0.3, max_iterations=5)
    np.testing.assert_array_equal(solved.aux, solved.value)


@BOTH_METHODS
def test_map_without_numbers_ends_with_infinite_residual(method):
    solved = solve(lambda x: x * jnp.nan, [1.0, 2.0], method=method, max_iterations=20)
    assert solved.residual == jnp.inf


@BOTH_METHODS
def test_one_missing_number_makes_the_residual_infinite(method):
    def partly(x):
        return jnp.stack([0.5 * x[0], jnp.sqrt(-1 - x[1] ** 2)])

    solved = solve(partly, [1.0, 2.0], method=method, max_iterations=20)
    assert solved.residual == jnp.inf


@BOTH_METHODS
def test_running_into_missing_numbers_is_not_taken_for_a_solution(method):
    def until_six(x):
        return x + 3 + 0 * jnp.sqrt(6 - x)

    solved = solve(until_six, [1.0], method=method, max_iterations=50)
    assert solved.residual > 0.1
    assert solved.value < 6


@BOTH_METHODS
@pytest.mark.parametrize("root", [0.95, 1 - 1e-7])
def test_what_is_evaluated_is_feasible(method, root):
    """A full step from 0.8 leaves x < 1, where the fixed point is."""
    points = []

    def function(x):
        return 1.5 * root - 0.5 * x

    def prepare(x, aux, _):
        jax.debug.callback(lambda x: points.append(x), x)
        return aux

    start = jnp.array([0.8])
    assert function(start) > 1
    solved = solve_fixed_point(
        lambda x, aux: function(x), prepare, start, None, lambda x: x[0] < 1, method=method
    )
    jax.effects_barrier()
    np.testing.assert_allclose(solved.value, root, rtol=1e-9)
    assert max(points) < 1


@BOTH_METHODS
@pytest.mark.parametrize("limit", [0, 3, 200])
def test_revisiting_evaluates_once_more_at_the_end(method, limit):
    def run(revisit):
        return solve_fixed_point(
            lambda x, anew: jnp.where(anew, 7.0, oscillating(x)),
            lambda x, aux, anew: jnp.asarray(anew),
            jnp.array([2.2, 0.9]),
            jnp.array(False),
            anywhere,
            method=method,
            damping=0.3,
            max_iterations=limit,
            revisit=revisit,
        )

    plain, solved = run(False), run(True)
    np.testing.assert_array_equal(solved.value, plain.value)
    np.testing.assert_array_equal(solved.residual, plain.residual)
    assert solved.iterations == plain.iterations
    assert not solved.aux
    anew, change = solved.last
    assert anew
    np.testing.assert_allclose(change, 7.0 - solved.value, rtol=1e-12)


@BOTH_METHODS
def test_what_is_prepared_is_that_of_the_latest_point(method):
    """x = (x + cos x)/2, with the cosine prepared."""

    def function(x, cosine):
        return 0.5 * (x + cosine)

    def prepare(x, aux, _):
        return jnp.cos(x)

    start, unknown = jnp.array([0.7]), jnp.array([100.0])
    solved = solve_fixed_point(
        function, prepare, start, unknown, anywhere, method=method, tol=1e-13
    )
    np.testing.assert_allclose(solved.value, brentq(lambda x: x - np.cos(x), 0, 1), rtol=1e-11)


def test_every_evaluation_is_logged(capsys):
    solved = solve(oscillating, [2.3, 0.8], verbose=True)
    jax.effects_barrier()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == solved.iterations
    assert f"{float(solved.residual):.2e}" in lines[-1]


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.0, 100.0, np.nan])
def test_matrix_that_is_given_spares_its_evaluation_or_is_renewed(factor):
    """I − F' of a point nearby is used; one that does not serve costs evaluations, not the root."""
    points = []

    def prepare(x, aux, _):
        jax.debug.callback(lambda x: points.append(x), x)
        return aux

    def solve_from(matrix):
        points.clear()
        start = jnp.array([2.02, 0.99])
        solved = solve_fixed_point(
            lambda x, aux: oscillating(x), prepare, start, start, anywhere, matrix=matrix
        )
        jax.block_until_ready(solved)
        jax.effects_barrier()
        return solved, len(points) - len(iterates(points))

    exact = np.eye(2) - jax.jacfwd(oscillating)(jnp.array([2.0, 1.0]))
    plain, count = solve_from(None)
    given, count_given = solve_from(jnp.asarray(factor * exact))
    np.testing.assert_allclose(plain.value, [2.0, 1.0], rtol=1e-9)
    np.testing.assert_allclose(given.value, [2.0, 1.0], rtol=1e-9)
    np.testing.assert_allclose(plain.matrix, exact, atol=0.05)
    assert count > 0
    assert (count_given == 0) == (factor == 1.0)
