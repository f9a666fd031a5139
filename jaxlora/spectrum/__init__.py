"""Spectral side of pre-training: μ_η = μ0 ⊞ semicircle of radius 2η (theory.md, section 4).

μ0 is the law of y/√κ0, y Marchenko–Pastur of W*W*ᵀ/D with W* of shape (D, κ0 D); for κ0 < 1 it has
an atom 1 − κ0 at 0. Everything follows from the curve

    x(G) = 1/G + s/(1 − G/s) + η² G,        s = √κ0,

which inverts the Stieltjes transform G(x) = ∫ μ_η(dt)/(x − t).
"""

from ._curve import density, inverse_stieltjes, stieltjes
from ._edges import edges, gap_open, merging_eta, right_edge
from ._moments import TruncatedMoments, truncated_moments
from ._quadrature import Quadrature, quadrature
from ._spread import truncation_spread

__all__ = [
    "Quadrature",
    "TruncatedMoments",
    "density",
    "edges",
    "gap_open",
    "inverse_stieltjes",
    "merging_eta",
    "quadrature",
    "right_edge",
    "stieltjes",
    "truncated_moments",
    "truncation_spread",
]
