"""The one place that imports jaxopt."""

import warnings


def stock_solver(name: str):
    """jaxopt's solver class of that name."""
    with warnings.catch_warnings():
        # jaxopt announces on import that it is no longer developed; the version is pinned.
        warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
        import jaxopt
    return getattr(jaxopt, name)
