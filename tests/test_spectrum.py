import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlora.spectrum import (
    density,
    edges,
    gap_open,
    inverse_stieltjes,
    merging_eta,
    quadrature,
    right_edge,
    stieltjes,
    truncated_moments,
)

KAPPAS = (0.1, 0.3, 0.5, 0.9, 0.999, 1.0, 1.001, 1.1, 2.0, 5.0)
ETAS = (1e-3, 1e-2, 0.1, 0.7, 3.0, 10.0)
NECKS = (0.9, 0.99, 0.999, 1 - 1e-6, 1.0, 1 + 1e-6, 1.001, 1.01, 1.04)

# (eta, kappa0): two bands, just below and just above merging, hard edge, one band.
POINTS = (
    (0.05, 0.5),
    (0.131, 0.5),
    (0.138, 0.5),
    (0.01, 0.1),
    (1e-3, 1.0),
    (0.4, 1.0),
    (0.3, 5.0),
    (3.0, 0.3),
)
PLACES = ("left", "lower", "middle", "upper", "near", "right")

jit_edges = jax.jit(edges)
map_edges = jax.jit(jax.vmap(edges))
jit_stieltjes = jax.jit(stieltjes)
map_quadrature = jax.jit(jax.vmap(quadrature))


@jax.jit
@jax.vmap
def map_sides(eta, eps, kappa0):
    """Quadratures above and below eps."""
    return quadrature(eta, kappa0, eps), quadrature(eta, kappa0, eps, below=True)


def place(eta, kappa0, where):
    """An eps left of the bands, in them, in the gap or neck, next to the end, or right of them."""
    a1, b1, a2, b2 = np.asarray(jit_edges(eta, kappa0))
    return {
        "left": a1 - 0.3,
        "lower": 0.6 * a1 + 0.4 * b1,
        "middle": (b1 + a2) / 2,
        "upper": (a2 + b2) / 2,
        "near": b2 - 1e-2,
        "right": b2 + 1e-3,
    }[where]


def grid():
    # Twice as many points as every_place(): each mapped function compiles for one shape.
    pairs = [(eta, kappa0) for kappa0 in KAPPAS for eta in ETAS]
    necks = [(r * float(merging_eta(k)), k) for k in KAPPAS if k < 0.99 for r in NECKS]
    return np.split(np.array(pairs + necks).T, 2, axis=1)


def every_place():
    triples = [(e, place(e, k, where), k) for e, k in POINTS for where in PLACES]
    return np.array(triples).T


def vector(eta, eps, kappa0):
    return jnp.stack(truncated_moments(eta, eps, kappa0))


def gradient(eta, eps, kappa0):
    """First derivatives of J, J1 and J2, by reverse mode; one row a parameter."""
    return jnp.stack(jax.jacrev(vector, (0, 1, 2))(eta, eps, kappa0))


def hessian(eta, eps, kappa0):
    return jnp.stack(jax.jacfwd(gradient, (0, 1, 2))(eta, eps, kappa0))


jit_vector = jax.jit(vector)
map_vector, map_gradient, map_hessian = (jax.jit(jax.vmap(f)) for f in (vector, gradient, hessian))


def power_moments(q):
    return np.stack([np.sum(q.weights * q.x**n, axis=-1) for n in range(4)], axis=-1)


def exact_power_moments(eta, kappa0):
    s = kappa0**0.5
    third = 1 / s + 3 * s * (1 + eta**2) + s**3
    return np.stack([s / s, s, 1 + kappa0 + eta**2, third], axis=-1)


def differences(f, arguments, steps):
    """Sixth-order central differences of f in each of its arguments, stacked first."""

    def shifted(i, k):
        # Elementwise for arrays of points, whose steps may have trailing axes of size 1.
        step = k * np.reshape(steps[i], np.shape(arguments[i]))
        return np.asarray(f(*arguments[:i], arguments[i] + step, *arguments[i + 1 :]))

    weights = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
    return np.stack(
        [
            sum(c * (shifted(i, k) - shifted(i, -k)) for k, c in weights) / steps[i]
            for i in range(len(arguments))
        ]
    )


def critical_values(eta, kappa0):
    s = np.sqrt(kappa0)
    e2 = eta**2
    G = np.roots([e2, -2 * e2 * s, e2 * kappa0 + kappa0 - 1, 2 * s, -kappa0])
    real = np.abs(G.imag) < 1e-9 * np.abs(G)
    return np.sort((1 / G + kappa0 / (s - G) + e2 * G).real[real])


# Curve and edges


def test_inverse_stieltjes_has_the_free_cumulants():
    # x(G) - 1/G: mean s, variance 1 + eta^2, then the free cumulants 1/s and 1/kappa0 of mu_0.
    eta, kappa0, G = 0.3, 0.5, 1e-3
    s = np.sqrt(kappa0)
    series = s + (1 + eta**2) * G + G**2 / s + G**3 / kappa0
    np.testing.assert_allclose(inverse_stieltjes(G, eta, kappa0) - 1 / G, series, atol=1e-11)


def test_stieltjes_is_the_integral_outside_the_bands():
    points = every_place()
    quadratures = map_quadrature(points[0], points[2])
    for i, (eta, kappa0) in enumerate(POINTS):
        a1, b1, a2, b2 = np.asarray(jit_edges(eta, kappa0))
        outside = [a1 - 1.0, a1 - 0.3, b2 + 0.3, b2 + 1.0, b2 + 100.0]
        if gap_open(eta, kappa0) and a2 - b1 > 0.05:
            outside += [0.7 * b1 + 0.3 * a2, 0.3 * b1 + 0.7 * a2]
        x, weights = (np.asarray(values)[i * len(PLACES)] for values in quadratures[:2])
        for point in outside:
            G = jit_stieltjes(point, eta, kappa0)
            assert G.imag == 0
            np.testing.assert_allclose(G.real, np.sum(weights / (point - x)), rtol=1e-9)


def test_stieltjes_solves_the_curve_with_positive_imaginary_part_in_the_bands():
    for eta, kappa0 in POINTS:
        s = np.sqrt(kappa0)
        a1, b1, a2, b2 = np.asarray(jit_edges(eta, kappa0))
        t = np.linspace(0.01, 0.99, 7)
        for x_i in np.concatenate([a1 + (b1 - a1) * t, a2 + (b2 - a2) * t]):
            G_i = complex(jit_stieltjes(x_i, eta, kappa0))
            assert G_i.imag > 0
            cubic = np.array([eta**2, -(eta**2 * s + x_i), x_i * s + 1 - kappa0, -s])
            roots = np.roots(cubic)
            np.testing.assert_allclose(G_i, roots[np.argmax(roots.imag)], rtol=1e-5)
            scale = np.max(np.abs(cubic) * np.abs(G_i) ** np.arange(3, -1, -1))
            assert abs(np.polyval(cubic, G_i)) < 1e-14 * scale


def test_arrays_of_x_and_the_density():
    x, eta, kappa0 = np.linspace(-0.1, 4.3, 9).reshape(3, 3), 0.05, 0.5
    expected = [[jit_stieltjes(entry, eta, kappa0) for entry in row] for row in x]
    np.testing.assert_allclose(stieltjes(x, eta, kappa0), expected, rtol=1e-13)
    np.testing.assert_allclose(density(x, eta, kappa0), np.imag(expected) / np.pi, rtol=1e-13)


def test_stieltjes_derivatives():
    def pair(x, eta, kappa0):
        G = stieltjes(x, eta, kappa0)
        return jnp.stack([G.real, G.imag])

    def slope(x, eta, kappa0):
        return jnp.stack(jax.jacrev(pair, (0, 1, 2))(x, eta, kappa0))

    def curvature(x, eta, kappa0):
        return jnp.stack(jax.jacfwd(slope, (0, 1, 2))(x, eta, kappa0))

    pair_, slope_, curvature_ = (jax.jit(f) for f in (pair, slope, curvature))
    for x in (-2.0, -0.02, 0.3, 1.7, 6.0):
        arguments = (x, 0.05, 0.5)
        steps = (1e-3 * min(1, abs(x)), 5e-5, 5e-4 * min(1, abs(x)))
        expected = differences(pair_, arguments, steps)
        np.testing.assert_allclose(slope_(*arguments), expected, rtol=1e-7, atol=1e-8)
        expected = differences(slope_, arguments, steps)
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(curvature_(*arguments), expected, rtol=1e-6, atol=1e-8 * scale)


def test_edges_are_the_critical_values():
    etas, kappas = np.concatenate(grid(), axis=1)
    computed_edges = np.concatenate([map_edges(*half) for half in grid()])
    for eta, kappa0, computed in zip(etas, kappas, computed_edges, strict=True):
        expected = critical_values(eta, kappa0)
        assert np.all(np.diff(computed) >= -1e-15 * computed[3])
        if abs(eta / max(float(merging_eta(kappa0)), 1e-300) - 1) < 1e-5:
            continue  # np.roots cannot tell a double root from a close pair
        assert len(expected) == (4 if gap_open(eta, kappa0) else 2)
        if len(expected) == 2:
            assert computed[0] < computed[1] == computed[2] < computed[3]
            computed = computed[[0, 3]]
        np.testing.assert_allclose(computed, expected, rtol=1e-9, atol=1e-14 * expected[-1])
    np.testing.assert_allclose(right_edge(etas[-1], kappas[-1]), computed_edges[-1, 3], rtol=1e-14)


def test_edges_known_limits():
    # kappa0 -> infinity: a semicircle of variance 1 + eta^2 around s.
    eta, kappa0 = 0.7, 1e10
    radius = 2 * np.sqrt(1 + eta**2)
    outer = np.asarray(jit_edges(eta, kappa0))[[0, 3]] - np.sqrt(kappa0)
    np.testing.assert_allclose(outer, [-radius, radius], atol=2e-5)
    # eta -> 0: Marchenko-Pastur, and the atom spread over 2 eta sqrt(1 - kappa0).
    eta, kappa0 = 1e-5, 0.5
    s = np.sqrt(kappa0)
    atom = 2 * eta * np.sqrt(1 - kappa0)
    expected = [-atom, atom, (1 - s) ** 2 / s, (1 + s) ** 2 / s]
    np.testing.assert_allclose(jit_edges(eta, kappa0), expected, atol=1e-9)


def test_edges_derivatives():
    slope = jax.jit(lambda *a: jnp.stack(jax.jacrev(edges, (0, 1))(*a)))
    curvature = jax.jit(lambda *a: jnp.stack(jax.jacfwd(slope, (0, 1))(*a)))
    for eta, kappa0 in ((0.05, 0.5), (0.4, 1.0), (0.3, 5.0)):
        moving = [0, 1, 2, 3] if gap_open(eta, kappa0) else [0, 3]
        steps = (3e-3 * eta, 3e-3 * kappa0)
        for derivative, f in ((slope, jit_edges), (curvature, slope)):
            expected = differences(f, (eta, kappa0), steps)
            computed = np.asarray(derivative(eta, kappa0))
            np.testing.assert_allclose(
                computed[..., moving], expected[..., moving], rtol=1e-8, atol=1e-9
            )


# Quadrature


def test_mass_and_first_three_moments():
    for eta, kappa0 in grid():
        computed = power_moments(map_quadrature(eta, kappa0))
        np.testing.assert_allclose(computed, exact_power_moments(eta, kappa0), rtol=1e-10)


def test_more_nodes_are_more_accurate_at_merging():
    kappa0 = 0.5
    eta = float(merging_eta(kappa0)) * (1 + 1e-5)
    q = jax.jit(lambda: quadrature(eta, kappa0, num_nodes=16))()
    assert q.x.shape == (32,)
    assert 1e-8 < abs(np.sum(q.weights) - 1) < 1e-2  # 1e-10 with the default


def test_quadrature_above_and_below_eps():
    eta, eps, kappa0 = every_place()
    bands = np.asarray(map_edges(eta, kappa0))

    above, below = map_sides(eta, eps, kappa0)
    total = power_moments(above) + power_moments(below)
    np.testing.assert_allclose(total, exact_power_moments(eta, kappa0), rtol=1e-11)
    for i, (a1, b1, a2, b2) in enumerate(bands):
        x_above = np.asarray(above.x[i])[np.asarray(above.weights[i]) != 0]
        x_below = np.asarray(below.x[i])[np.asarray(below.weights[i]) != 0]
        assert np.all(x_above >= eps[i])
        assert np.all(x_below <= eps[i])
        x = np.concatenate([x_above, x_below])
        assert np.all((a1 <= x) & (x <= b2))
        assert not np.any((b1 < x) & (x < a2))
        assert len(x_above) > 0 or eps[i] > b2
        assert len(x_below) > 0 or eps[i] < a1


def test_quadrature_derivatives():
    def moments(eta, kappa0, eps):
        q = quadrature(eta, kappa0, eps)
        return jnp.stack([jnp.sum(q.weights * q.x**n) for n in range(4)])

    def exact(eta, kappa0):
        s = jnp.sqrt(kappa0)
        third = 1 / s + 3 * s * (1 + eta**2) + s**3
        return jnp.stack([jnp.ones_like(s), s, 1 + kappa0 + eta**2, third])

    def derivatives(f, argnums):
        first = jax.jacrev(f, argnums)
        return jax.jit(lambda *a: (jnp.array(first(*a)), jnp.array(jax.jacfwd(first, argnums)(*a))))

    computed, expected = derivatives(moments, (0, 1, 2)), derivatives(exact, (0, 1))
    for eta, kappa0 in ((0.05, 0.5), (0.1326, 0.5), (0.4, 1.0), (0.3, 5.0)):
        first, second = (np.asarray(d) for d in computed(eta, kappa0, -3.0))
        first_exact, second_exact = expected(eta, kappa0)
        np.testing.assert_allclose(first[:2], first_exact, atol=1e-9)
        if eta != 0.1326:  # a relative 6e-4 above merging
            np.testing.assert_allclose(second[:2, :2], second_exact, atol=1e-8)
        assert np.all(first[2] == 0)
    # In a band the slopes in eps are minus the integrand there; right of the bands all vanishes.
    eta, kappa0, eps = 0.05, 0.5, 1.3
    first, _ = computed(eta, kappa0, eps)
    rho = jit_stieltjes(eps, eta, kappa0).imag / np.pi
    np.testing.assert_allclose(first[2], -rho * eps ** np.arange(4), rtol=1e-9)
    for values in computed(eta, kappa0, 9.0):
        assert np.all(np.asarray(values) == 0)


# J, J1 and J2


def test_truncated_moments_against_quadrature():
    eta, eps, kappa0 = every_place()

    above, _ = map_sides(eta, eps, kappa0)
    weights, y = np.asarray(above.weights), np.asarray(above.x) - eps[:, None]
    J = np.sum(weights * y**2, axis=1)
    J1 = 2 * eta * np.sum(weights * 2 * y * above.G.real, axis=1)
    J2 = -2 * np.sum(weights * y, axis=1)
    expected = np.stack([J, J1, J2], axis=1)
    computed = np.asarray(map_vector(eta, eps, kappa0))
    np.testing.assert_allclose(computed, expected, rtol=1e-10, atol=1e-13)
    near = np.arange(len(eps)) % len(PLACES) == PLACES.index("near")
    assert np.min(expected[near, 0]) < 1e-6  # small, and still right to relative accuracy
    np.testing.assert_allclose(computed[near], expected[near], rtol=1e-10)


@pytest.mark.parametrize("fraction", [1e-4, 0.03, 0.2, 0.5])
def test_truncated_moments_on_the_whole_grid(fraction):
    # Whatever path the contour takes: J and J2 from the exact moments and the part below eps.
    for eta, kappa0 in grid():
        a1, _, _, b2 = np.asarray(map_edges(eta, kappa0)).T
        eps = a1 + fraction * (b2 - a1)
        _, below = map_sides(eta, eps, kappa0)
        y = np.asarray(below.x) - eps[:, None]
        _, mean, second, _ = exact_power_moments(eta, kappa0).T
        J = second - 2 * eps * mean + eps**2 - np.sum(below.weights * y**2, axis=1)
        J2 = 2 * (eps - mean) + 2 * np.sum(below.weights * y, axis=1)
        computed = np.asarray(map_vector(eta, eps, kappa0))
        np.testing.assert_allclose(computed[:, 0], J, rtol=1e-9)
        np.testing.assert_allclose(computed[:, 2], J2, rtol=1e-9)


def test_truncated_moments_power_laws_at_the_right_edge():
    eta, kappa0 = 0.4, 1.0
    edge, edge_speed = jax.jit(jax.value_and_grad(right_edge))(eta, kappa0)
    gaps = np.array([1e-5, 1e-7])
    J, J1, J2 = np.transpose([jit_vector(eta, edge - gap, kappa0) for gap in gaps])
    for value, power in ((J, 3.5), (J1, 2.5), (J2, 2.5)):
        ratio = value / gaps**power
        np.testing.assert_allclose(ratio[0], ratio[1], rtol=1e-4)
    np.testing.assert_allclose(-J1[1] / J2[1], edge_speed, rtol=1e-5)


def test_truncated_moments_left_of_the_bands_and_in_the_gap():
    eta, kappa0 = 0.05, 0.5
    s = np.sqrt(kappa0)
    for eps in (-0.2, -1.0, -50.0):
        expected = [1 + kappa0 + eta**2 - 2 * eps * s + eps**2, 2 * eta, 2 * (eps - s)]
        np.testing.assert_allclose(jit_vector(eta, eps, kappa0), expected, rtol=1e-14)
    # In the gap J is a parabola in eps; its curvature is twice the mass of the upper band, kappa0.
    eps = place(eta, kappa0, "middle")
    J, _, J2 = jit_vector(eta, eps, kappa0)
    shifted = jit_vector(eta, eps + 0.01, kappa0)
    np.testing.assert_allclose(shifted[0], J + 0.01 * J2 + kappa0 * 0.01**2, rtol=1e-13)


def test_right_of_the_bands_everything_is_zero():
    arguments = every_place()
    right = np.arange(arguments.shape[1]) % len(PLACES) == PLACES.index("right")
    for f in (map_vector, map_gradient, map_hessian):
        values = np.asarray(f(*arguments))
        assert np.all(values[right] == 0)
        assert not np.any(np.all(values[~right] == 0, axis=tuple(range(1, values.ndim))))


def test_finite_at_the_edges_and_far_away():
    eta, _, kappa0 = every_place()
    a1, b1, a2, b2 = np.asarray(map_edges(eta, kappa0)).T
    choices = np.stack([a1, b1, a2, b2, a1 - 1e6, b2 + 1e6])
    eps = choices[np.arange(len(eta)) % len(PLACES), np.arange(len(eta))]
    for f in (map_vector, map_gradient, map_hessian):
        assert np.all(np.isfinite(np.asarray(f(eta, eps, kappa0))))


# In the neck, in a gap, in thin and wide bands.
INTERIOR = [
    (0.138, "middle", 0.5, 5e-5),
    (0.138, "lower", 0.5, 5e-5),
    (0.05, "middle", 0.5, 1e-3),
    (0.05, "lower", 0.5, 5e-4),
    (0.05, "upper", 0.5, 1e-3),
    (0.4, "upper", 1.0, 1e-2),
    (0.3, "lower", 5.0, 1e-2),
    (3.0, "left", 0.3, 3e-3),
    (3.0, "lower", 0.3, 3e-3),
    (3.0, "middle", 0.3, 3e-3),
]


def test_derivatives_against_differences():
    eta, kappa0, h = np.array([(e, k, h) for e, _, k, h in INTERIOR]).T
    eps = np.array([place(e, k, where) for e, where, k, _ in INTERIOR])
    size = every_place().shape[1]
    arguments = [np.resize(values, size) for values in (eta, eps, kappa0)]
    h = np.resize(h, size)

    def along_parameters(f):
        columns = (1, *range(2, f(*arguments).ndim + 1))
        steps = [h.reshape(-1, *(1 for _ in columns[1:]))] * 3
        return differences(f, arguments, steps).transpose(1, 0, *columns[1:])

    J, J1, J2 = np.asarray(map_vector(*arguments)).T
    slope = along_parameters(map_vector)
    np.testing.assert_allclose(slope[:, 0, 0], J1, rtol=1e-9, atol=1e-10 * np.min(J))
    np.testing.assert_allclose(slope[:, 1, 0], J2, rtol=1e-9, atol=1e-10 * np.min(J))
    np.testing.assert_allclose(map_gradient(*arguments), slope, rtol=1e-8, atol=1e-9)
    curvature = along_parameters(map_gradient)
    scale = np.max(np.abs(curvature), axis=(1, 2, 3), keepdims=True)
    errors = (map_hessian(*arguments) - curvature) / scale
    np.testing.assert_allclose(errors, 0, atol=3e-8)


def test_forward_and_reverse_agree_and_schwarz_holds():
    eta, eps, kappa0 = every_place()
    forward = jnp.stack(jax.jit(jax.vmap(jax.jacfwd(vector, (0, 1, 2))))(eta, eps, kappa0), axis=1)
    reverse = map_gradient(eta, eps, kappa0)
    np.testing.assert_allclose(forward, reverse, rtol=1e-12, atol=1e-12)
    _, J1, J2 = map_vector(eta, eps, kappa0).T
    np.testing.assert_allclose(forward[:, 0, 0], J1, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(forward[:, 1, 0], J2, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(forward[:, 1, 1], forward[:, 0, 2], rtol=1e-10, atol=1e-12)


def test_derivatives_in_eps_are_the_mass_the_density_and_its_slope():
    # d^2 J = 2 mass and d^3 J = -2 density; from the fourth order on the end of the path moves too.
    def J2(eps, eta, kappa0):
        return truncated_moments(eta, eps, kappa0).J2

    points = every_place()
    first, second = np.asarray(map_gradient(*points)), np.asarray(map_hessian(*points))
    above, _ = map_sides(*points)
    fourth = jax.jit(jax.jacfwd(jax.grad(jax.grad(J2))))
    slope = jax.jit(jax.grad(density))
    for point, where in (((0.05, 0.5), "upper"), ((3.0, 0.3), "lower")):
        i = POINTS.index(point) * len(PLACES) + PLACES.index(where)
        eta, eps, kappa0 = points[:, i]
        rho = jit_stieltjes(eps, eta, kappa0).imag / np.pi
        np.testing.assert_allclose(first[i, 1, 2], 2 * np.sum(above.weights[i]), rtol=1e-11)
        np.testing.assert_allclose(second[i, 1, 1, 2], -2 * rho, rtol=1e-11)
        expected = -2 * slope(eps, eta, kappa0)
        np.testing.assert_allclose(fourth(eps, eta, kappa0), expected, rtol=1e-9)


def test_jit_and_vmap_agree_with_single_calls():
    eta, eps, kappa0 = every_place()
    batched = map_vector(eta, eps, kappa0)
    for i in range(0, len(eta), 7):
        single = truncated_moments(eta[i], eps[i], kappa0[i])
        np.testing.assert_allclose(batched[i], single, rtol=1e-12, atol=1e-14)


def test_float32_stays_float32_and_accurate():
    eta, eps, kappa0 = (values.astype(np.float32) for values in every_place())
    expected = map_vector(*(values.astype(np.float64) for values in (eta, eps, kappa0)))
    computed = map_vector(eta, eps, kappa0)
    assert computed.dtype == jnp.float32
    scale = np.max(np.abs(expected), axis=1, keepdims=True) + 1
    assert np.max(np.abs(computed - expected) / scale) < 2e-5
    assert np.all(np.isfinite(np.asarray(map_gradient(eta, eps, kappa0))))

    assert jit_edges(eta[0], kappa0[0]).dtype == jnp.float32
    for eta, kappa0 in grid():
        q = map_quadrature(eta.astype(np.float32), kappa0.astype(np.float32))
        assert q.weights.dtype == jnp.float32
        assert q.G.dtype == jnp.complex64
        exact = exact_power_moments(eta, kappa0)
        np.testing.assert_allclose(power_moments(q), exact, rtol=1e-4)


@pytest.mark.parametrize(
    ("eta", "kappa0", "eps_values"), [(0.08, 0.5, (0.3, 1.5)), (0.6, 2.0, (0.5, 2.0))]
)
def test_against_a_random_matrix(eta, kappa0, eps_values):
    D = 1000
    P0 = int(kappa0 * D)
    rng = np.random.default_rng(3)
    W = rng.standard_normal((D, P0))
    H = rng.standard_normal((D, D))
    S, H = W @ W.T / np.sqrt(P0 * D), (H + H.T) / np.sqrt(2 * D)
    h = 0.01
    x, x_up, x_down = (np.linalg.eigvalsh(S + e * H) for e in (eta, eta + h, eta - h))

    a1, b1, a2, b2 = np.asarray(jit_edges(eta, kappa0))
    # Extreme eigenvalues are Tracy-Widom outwards, mean -1.2 and std 1.3 in units of
    # width D^(-2/3), where density^2 ~ |x - edge| / (pi^2 width^3).
    for edge, inwards, extreme in ((a1, 1e-4, x[0]), (b2, -1e-4, x[-1])):
        width = (1e-4 / (np.pi * density(edge + inwards, eta, kappa0)) ** 2) ** (1 / 3)
        assert -5 < (extreme - edge) * -np.sign(inwards) / (width * D ** (-2 / 3)) < 3

    if gap_open(eta, kappa0):
        assert np.sum(x < (b1 + a2) / 2) == D - P0  # exact separation
        assert not np.any((b1 + 0.02 < x) & (x < a2 - 0.02))

    for eps in eps_values:
        J, J1, J2 = jit_vector(eta, eps, kappa0)
        y, y_up, y_down = (np.maximum(values - eps, 0) for values in (x, x_up, x_down))
        # Gaussian Poincare inequality: D^2 Var(mean f(x)) <= noise * mean f'(x)^2, f' = 2y or -2.
        # The slope in eta is mean f'(x_i) u_i^T H u_i: the same with f'' = 2, and 2 mean f'^2.
        # The means are off by O(1/D) at most, within the 3 deviations.
        noise = 2 * eta**2 + 4 * (1 + 1 / np.sqrt(kappa0)) ** 2
        assert abs(np.mean(y**2) - J) < 3 * np.sqrt(noise * 4 * J) / D
        assert abs(-2 * np.mean(y) - J2) < 3 * np.sqrt(noise * 4) / D
        slope = np.mean(y_up**2 - y_down**2) / (2 * h)
        assert abs(slope - J1) < 3 * np.sqrt(noise * 4 + 8 * J) / D
