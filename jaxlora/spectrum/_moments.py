"""J(η, ε) and its first derivatives, as contour integrals in the plane of G.

By the change of variable x = x(v), v = G(x − i0), and an integration by parts,

    ∫_{x>ε} (x − ε)ⁿ μ_η(dx) = 1/(2πi) ∫_{ū}^{u} (x(v) − ε)ⁿ⁺¹/(n + 1) dv,    u = G(ε − i0),

along any path that crosses the real axis between the poles 0 and s of x(v), where G is when x is
right of the bands. As x(v) = ε at both ends, derivatives pass under the integral:

    J  = 1/(2πi) ∫ (x − ε)³/3 dv
    J1 = 1/(2πi) ∫ (x − ε)² 2ηv dv     the complex Burgers form 2η ∫ 2(x − ε)₊ Re G μ_η(dx)
    J2 = 1/(2πi) ∫ −(x − ε)² dv        −2 ∫ (x − ε)₊ μ_η(dx)

The integrands are rational: no edge, neck or density is left to resolve. Nothing cancels near the
right edge either, where u − ū and x(v) − ε vanish together.
"""

import functools as ft
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ._curve import as_floats, inverse_stieltjes, stieltjes

# Half of a Gauss–Legendre rule, the other half being its conjugate. On the paths of _arc the error
# of the whole rule falls like 1.7^(−4·_NUM_NODES) or faster.
_NUM_NODES = 20


class TruncatedMoments(NamedTuple):
    """J, J1 = ∂_η J and J2 = ∂_ε J, scalars."""

    J: jax.Array
    J1: jax.Array
    J2: jax.Array


def truncated_moments(eta: ArrayLike, eps: ArrayLike, kappa0: ArrayLike) -> TruncatedMoments:
    """J(η, ε) = ∫_{x>ε} (x − ε)² μ_η(dx), J1 = ∂_η J and J2 = ∂_ε J (theory.md, section 4).

    The spectral functions of arXiv:2606.05899, Result 4, eq. (46)-(55). Scalars in (`jax.vmap` for
    batches) and out; J in units of x², η > 0, κ0 > 0, any ε. Zero right of the bands, polynomials
    in ε and η² left of them and in the gap, to rounding.

    Derivatives are right at any order, in forward and reverse mode. Merging bands cost no accuracy:
    J, J1, J2 and their first derivatives are right to 1e-12 of their scale everywhere. Next to
    the right edge x₊ relative errors are what the rounding of ε makes them, x₊/(x₊ − ε) roundings.
    In float32 errors are 1e-7 typically, and 5e-5 of the scale at the worst (ε at the left edge).
    """
    eta, eps, kappa0 = as_floats(eta, eps, kappa0)
    s = jnp.sqrt(kappa0)
    G = stieltjes(eps, eta, kappa0)
    in_band = G.imag > 0
    u = jnp.where(in_band, G, jax.lax.complex(s / 2, s / 2))
    v, dv, beyond = _arc(u, s)
    arc = _arc_integral(_integrands, v, dv, u, eta, eps, kappa0)

    # The integrals around the poles: 0 gives all of μ_η, s the upper band if there is a gap.
    around_0 = jnp.stack([1 + kappa0 + eta**2 - 2 * eps * s + eps**2, 2 * eta, 2 * (eps - s)])
    f = 1 / s + eta**2 * s - eps
    around_s = kappa0 * jnp.stack(
        [f**2 + 1 - kappa0 * eta**2, 2 * eta * (2 * s * f - kappa0), -2 * f]
    )
    inside = arc + jnp.where(beyond, around_s, 0)
    outside = jnp.where(G.real < 0, around_0, jnp.where(G.real > s, around_s, 0))
    J, J1, J2 = jnp.where(in_band, inside, outside)
    return TruncatedMoments(J, J1, J2)


def _integrands(v: jax.Array, eta: jax.Array, eps: jax.Array, kappa0: jax.Array) -> jax.Array:
    """The integrands of J, J1 and J2 at one v."""
    y = inverse_stieltjes(v, eta, kappa0) - eps
    return jnp.stack([y**3 / 3, 2 * eta * v * y**2, -(y**2)])


def _arc(u: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Nodes v and dv, 1/(2πi) ∫_{ū}^{u} f dv = Re sum(f(v)·dv), and whether they pass beyond s.

    Straight in log(v/(s − v)) the path crosses between the poles, which are at infinity; only
    v = ∞, hence a large u, is close to it. Then, straight in log v but for a bulge away from s, it
    crosses beyond s, and what lies around s has to be added.
    """
    t, w = np.polynomial.legendre.leggauss(2 * _NUM_NODES)
    t, w = jnp.asarray(t[_NUM_NODES:], s.dtype), jnp.asarray(w[_NUM_NODES:], s.dtype)
    radius = jnp.abs(u)
    beyond = jnp.abs(u - s / 2) > 1.25 * s
    angle = jnp.where(beyond, jnp.angle(u), jnp.angle(u / (s - u)))
    bulge = jnp.where(beyond, angle / 2 * jnp.minimum(1, s / radius), 0)
    modulus = jnp.where(beyond, radius, radius / jnp.abs(s - u))
    size = modulus * jnp.exp(bulge * (1 - t**2))
    z = jax.lax.complex(size * jnp.cos(angle * t), size * jnp.sin(angle * t))
    v = jnp.where(beyond, z, s * z / (1 + z))
    dv_dlog = jnp.where(beyond, v, v * (s - v) / s)
    dlog = jax.lax.complex(jnp.full_like(t, angle), 2 * bulge * t) * w / jnp.pi
    return jax.lax.stop_gradient((v, dv_dlog * dlog, beyond))


@ft.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _arc_integral(
    f: Callable, v: jax.Array, dv: jax.Array, u: jax.Array, *parameters: jax.Array
) -> jax.Array:
    """1/(2πi) ∫_{ū}^{u} f(v, *parameters) dv, of the shape of f, on the nodes of `_arc`."""
    values = jax.vmap(f, (0, *(None for _ in parameters)))(v, *parameters)
    return jnp.sum(jax.vmap(jnp.multiply)(values, dv).real, axis=0)


@_arc_integral.defjvp
def _arc_integral_jvp(f, primals, tangents):
    """Leibniz' rule: the path does not matter, its ends do.

    Tangents only multiply integrals of the same kind, so that differentiating again, in either
    mode, finds this rule again.
    """
    v, dv, u, *parameters = primals
    _, _, u_dot, *parameters_dot = tangents

    def partials(v, *parameters):
        return jnp.stack(jax.jacfwd(f, tuple(range(1, 1 + len(parameters))))(v, *parameters))

    slopes = _arc_integral(partials, v, dv, u, *parameters)
    interior = sum(slope * dot for slope, dot in zip(slopes, parameters_dot, strict=True))
    end = (f(u, *parameters) * u_dot).imag / jnp.pi
    return _arc_integral(f, v, dv, u, *parameters), interior + end
