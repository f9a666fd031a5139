import atexit
import os
import shutil
import tempfile

import pytest

# All processes of a run, those of the command line's tests too, share what they compile.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="jaxlora-tests-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax  # reads them when it is imported

from jaxlora.programs import forget_programs as forget_compiled

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs take memory maps, of which a process may have only so many."""
    yield
    jax.clear_caches()
    forget_compiled()


@pytest.fixture
def keep_settings():
    """The command line sets the precision and the device of its own process."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)
    jax.config.update("jax_default_device", None)
