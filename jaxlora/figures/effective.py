"""Effective pre-trainings by their noise Δ_eff, as figures 2, 4 and 5 have them."""

import numpy as np
import xarray

LARGEST = 3.0  # Δ_eff
GIVEN = (1.0, 1.0, 1.0)  # (Q0, Q, M) of a layer of which the size alone matters


def noises(count: int, least: float = 0.0) -> np.ndarray:
    """Values of Δ_eff from `least` on, the same for every Δ where they overlap."""
    third = max(1, (count - 1) // 3)
    every = np.linspace(0, LARGEST, 3 * third + 1)
    return every[every >= least]


def triples(noise, delta: float) -> list[tuple[float, float, float]]:
    """(Q0, Q, M) with M = 1 and Q0 = Q, so that Δ/2 + Q0 − 2M + Q = Δ_eff (25)."""
    norms = 1 + (np.asarray(noise) - delta / 2) / 2
    return [(norm, norm, 1.0) for norm in norms.tolist()]


def at_same_points(theory: xarray.Dataset, layers: xarray.Dataset, places) -> xarray.Dataset:
    """The theory at the given pre-trainings `places`, those of `layers`, and its other axes."""
    chosen = theory.isel(given=places).assign_coords(given=layers.given.values)
    others = {name: layers[name].values for name in ("alpha_ft", "lam_ft") if name in layers.dims}
    return chosen.sel(others)
