import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs take memory maps, of which a process may have only so many."""
    yield
    jax.clear_caches()


@pytest.fixture
def keep_settings():
    """The command line sets the precision and the device of its own process."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)
    jax.config.update("jax_default_device", None)
