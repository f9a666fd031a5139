"""The curve x(G) and its physical root G(x), by a cubic solved to working precision."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def as_floats(*values: ArrayLike) -> tuple[jax.Array, ...]:
    """The values as arrays of one floating dtype; Python numbers do not widen it."""
    dtype = jnp.result_type(float, *values)
    return tuple(jnp.asarray(value, dtype) for value in values)


def inverse_stieltjes(G: jax.Array, eta: jax.Array, kappa0: jax.Array) -> jax.Array:
    """x(G) = 1/G + s/(1 − G/s) + η²G, s = √κ0 (theory.md, section 4), for real or complex G."""
    return 1 / G + kappa0 / (jnp.sqrt(kappa0) - G) + eta**2 * G


def stieltjes(x: ArrayLike, eta: ArrayLike, kappa0: ArrayLike) -> jax.Array:
    """Stieltjes transform G(x − i0) of μ_η, the root of x(G) = x (theory.md, section 4).

    Inside a band Im G = +π·density(x) and Re G is the principal value of ∫ μ_η(dt)/(x − t).
    Outside, G is that integral and Im G = 0. Any shape of x with scalar η > 0 and κ0 > 0, or one
    shape for all; the result is complex, of that shape, in units of 1/x. Derivatives are right at
    any order; they diverge at the edges, as those of G do.
    """
    return _stieltjes(*as_floats(x, eta, kappa0))


def density(x: ArrayLike, eta: ArrayLike, kappa0: ArrayLike) -> jax.Array:
    """Density Im G(x − i0)/π of μ_η, zero outside the bands (theory.md, section 4). Shape of x."""
    return stieltjes(x, eta, kappa0).imag / jnp.pi


def _isolated_root(e1: jax.Array, e2: jax.Array, e3: jax.Array) -> jax.Array:
    """The root of R³ − e1 R² + e2 R − e3 far from the others: the real one if two are complex."""

    def residual(R: jax.Array) -> jax.Array:
        return ((R - e1) * R + e2) * R - e3

    center = e1 / 3
    p = center**2 - e2 / 3
    h = center * (center**2 - e2 / 2) + e3 / 2
    discriminant = h**2 - p**3
    one_real = discriminant > 0
    A = jnp.cbrt(jnp.abs(h) + jnp.sqrt(jnp.where(one_real, discriminant, 0)))
    cosine = jnp.minimum(jnp.abs(h) / jnp.where(one_real | (p <= 0), 1, p) ** 1.5, 1)
    t = jnp.where(
        one_real,
        A + p / jnp.where(A > 0, A, 1),
        2 * jnp.sqrt(jnp.maximum(p, 0)) * jnp.cos(jnp.arccos(cosine) / 3),
    )
    R = center + jnp.copysign(t, h)
    # The error is one rounding of the largest root, and R can be far smaller: Newton restores its
    # digits. Next to a triple root a step is noise: keep what lowers the residual.
    for _ in range(2):
        slope = (3 * R - 2 * e1) * R + e2
        trial = R - residual(R) / jnp.where(slope == 0, 1, slope)
        R = jnp.where(jnp.abs(residual(trial)) < jnp.abs(residual(R)), trial, R)
    return R


@jax.custom_jvp
def _stieltjes(x: jax.Array, eta: jax.Array, kappa0: jax.Array) -> jax.Array:
    """η²G³ − (η²s + x)G² + (xs + 1 − κ0)G − s = 0, by one real root r = R/η², then the others."""
    s = jnp.sqrt(kappa0)
    eta2 = eta**2
    R = _isolated_root(eta2 * s + x, eta2 * (x * s + 1 - kappa0), eta2**2 * s)
    # The others have product s/R and mean a: a from whichever of Vieta's relations rounds less.
    product = s / R
    mean_from_sum = (s + (x - R) / eta2) / 2
    mean_from_pairs = (x * s + 1 - kappa0 - eta2 * product) / (2 * R)
    sum_error = s + (jnp.abs(x) + jnp.abs(R)) / eta2
    pairs_error = (jnp.abs(x) * s + 1 + kappa0 + eta2 * jnp.abs(product)) / jnp.abs(R)
    a = jnp.where(sum_error < pairs_error, mean_from_sum, mean_from_pairs)
    discriminant = a**2 - product
    in_band = discriminant < -8 * jnp.finfo(x.dtype).eps * product

    # Outside the bands all roots are real. Right of them the physical one is the smallest, and lies
    # in (0, s) like the one it meets at the edge; left of them and in the gap it is the middle one.
    larger = a + jnp.copysign(jnp.sqrt(jnp.maximum(discriminant, 0)), a)
    smaller = product / jnp.where(larger == 0, 1, larger)
    low, high = jnp.minimum(larger, smaller), jnp.maximum(larger, smaller)
    r = R / eta2
    lowest, middle = jnp.minimum(low, r), jnp.maximum(low, jnp.minimum(high, r))
    real_root = jnp.where((lowest > 0) & (lowest < s), lowest, middle)
    imaginary = jnp.sqrt(jnp.where(in_band, -discriminant, 0))
    return jax.lax.complex(jnp.where(in_band, a, real_root), imaginary)


@_stieltjes.defjvp
def _stieltjes_jvp(primals, tangents):
    """dG = (dx − ∂_η x dη − ∂_κ0 x dκ0) / x'(G)."""
    x, eta, kappa0 = primals
    x_dot, eta_dot, kappa0_dot = tangents
    G = _stieltjes(x, eta, kappa0)
    _, shift = jax.jvp(
        lambda eta, kappa0: inverse_stieltjes(G, eta, kappa0), (eta, kappa0), (eta_dot, kappa0_dot)
    )
    slope = -1 / G**2 + kappa0 / (jnp.sqrt(kappa0) - G) ** 2 + eta**2
    # Infinite on an edge, to rounding: 0 there keeps NaN out of branches that are not taken.
    regular = jnp.abs(slope) * jnp.abs(G) ** 2 > jnp.finfo(x.dtype).eps
    return G, jnp.where(regular, (x_dot - shift) / jnp.where(regular, slope, 1), 0)
