"""Band edges of μ_η: the real critical values of x(G)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._curve import as_floats, inverse_stieltjes


class Bands(NamedTuple):
    """Edges [a1, b1, a2, b2], whether the gap is open, and where its remains are if it is not.

    In the band [a1, b2], mid + half·sin(neck ± i·depth) are the complex critical values of x(G).
    Without meaning when the gap is open.
    """

    edges: jax.Array
    is_open: jax.Array
    neck: jax.Array
    depth: jax.Array


def merging_eta(kappa0: ArrayLike) -> jax.Array:
    """The η below which μ_η has two bands, (1 − κ0^⅓)^(3/2)/√κ0; 0 for κ0 ≥ 1.

    There two critical points of x(G) coincide (theory.md, section 4). Any shape; units of η.
    """
    (kappa0,) = as_floats(kappa0)
    two = kappa0 < 1
    return jnp.where(two, jnp.where(two, 1 - jnp.cbrt(kappa0), 1) ** 1.5 / jnp.sqrt(kappa0), 0)


def gap_open(eta: ArrayLike, kappa0: ArrayLike) -> jax.Array:
    """Whether μ_η has two bands, η < merging_eta(κ0) (theory.md, section 4). Boolean, any shape."""
    eta, kappa0 = as_floats(eta, kappa0)
    return eta < merging_eta(kappa0)


def right_edge(eta: ArrayLike, kappa0: ArrayLike) -> jax.Array:
    """Right edge x₊ of μ_η, as in λ_c = M̂ x₊/(2√κ) (theory.md, section 4).

    Scalars in and out, in units of the eigenvalues x of S*/√D.
    """
    eta, kappa0 = as_floats(eta, kappa0)
    m = _positive_root(kappa0, eta**2 * kappa0)
    return inverse_stieltjes(jnp.sqrt(kappa0) / (1 + m), eta, kappa0)


def edges(eta: ArrayLike, kappa0: ArrayLike) -> jax.Array:
    """Band edges [a1, b1, a2, b2] of μ_η: the real critical values of x(G) (theory.md, section 4).

    Scalars in, shape (4,) out, ascending, in units of x. With one band (`gap_open` is false) a1
    and b2 are its edges, and b1 = a2 is a point inside at which to split it, next to the complex
    critical values of x(G): the neck when the bands have just merged. Only the first derivatives
    of that point mean anything.
    """
    return bands(*as_floats(eta, kappa0)).edges


def bands(eta: jax.Array, kappa0: jax.Array) -> Bands:
    """The roots of x'(G) = −1/G² + κ0/(s − G)² + η²: one below 0, one in (0, s), and a pair.

    With G = −s/k and G = s/(1 + m) the first two are positive roots of one quartic. Vieta gives
    the pair from them: real and above s when the gap is open, else complex.
    """
    s = jnp.sqrt(kappa0)
    variances = jnp.stack([kappa0, eta**2 * kappa0])
    m, k = _positive_root(variances, variances[::-1])
    left, right = -s / k, s / (1 + m)
    a1, b2 = inverse_stieltjes(left, eta, kappa0), inverse_stieltjes(right, eta, kappa0)

    center = s - (left + right) / 2
    product = k * (1 + m) / eta**2
    discriminant = center**2 - product
    is_open = gap_open(eta, kappa0) & (discriminant > 0)

    # x'(G) = 0: the motion of G does not move x, to first order, and diverges at merging.
    G = jax.lax.complex(center, jnp.sqrt(jnp.maximum(-discriminant, 0)))
    x = inverse_stieltjes(jax.lax.stop_gradient(G), eta, kappa0)
    to_a1, to_b2 = jnp.abs(x - a1), jnp.abs(x - b2)
    sine = (to_a1 - to_b2) / (b2 - a1)
    cosh = jnp.maximum((to_a1 + to_b2) / (b2 - a1), 1)
    neck, depth = clipped_arcsin(sine), jnp.arccosh(jax.lax.stop_gradient(cosh))
    split = (a1 + b2) / 2 + (b2 - a1) / 2 * jnp.sin(neck)

    G_b1 = center + jnp.sqrt(jnp.where(is_open, discriminant, 1))
    G_a2 = product / G_b1
    b1 = jnp.where(is_open, inverse_stieltjes(G_b1, eta, kappa0), split)
    a2 = jnp.where(is_open, inverse_stieltjes(G_a2, eta, kappa0), split)
    return Bands(jnp.stack([a1, b1, a2, b2]), is_open, neck, depth)


def clipped_arcsin(sine: jax.Array) -> jax.Array:
    """arcsin clipped to [−π/2, π/2], constant beyond."""
    inside = jnp.abs(sine) < 1
    angle = jnp.arcsin(jnp.where(inside, sine, 0))
    return jnp.where(inside, angle, jnp.sign(sine) * (jnp.pi / 2))


@jax.jit
def _positive_root(S: jax.Array, E: jax.Array) -> jax.Array:
    """The positive root m of (1 + m)²(m² − S) = E m²: there is one (Descartes' rule of signs)."""

    def quartic(m: jax.Array) -> jax.Array:
        return (((m + 2) * m + (1 - S - E)) * m - 2 * S) * m - S

    def newton(_: int, m: jax.Array) -> jax.Array:
        return m - quartic(m) / (((4 * m + 6) * m + 2 * (1 - S - E)) * m - 2 * S)

    # The quartic is convex right of its root, so Newton descends to it from any upper bound, by a
    # factor 3/4 a step while far above. The lower of these two bounds is never very far.
    width = jnp.sqrt(S + E)
    start = jnp.minimum(width, jnp.maximum(width - 1, 0) + jnp.cbrt(2 * S))
    return jax.lax.custom_root(
        quartic,
        start,
        lambda _, m: jax.lax.fori_loop(0, 24, newton, m),
        lambda tangent, y: y / tangent(jnp.ones_like(y)),
    )
