import jax
import jax.numpy as jnp
import pytest
from points import given

from jaxlora import Activation, kept
from jaxlora.options import Options
from jaxlora.programs import Program, forget_programs

X = jnp.arange(3.0)


def cube(a):
    return a**3


class Cube(Activation):
    """One that is pickled by its name alone."""

    def __init__(self):
        self.function, self.name, self.min_tokens, self.equivariant = cube, "cube", 1, True

    def __reduce__(self):
        return "CUBE"


CUBE = Cube()


@pytest.fixture
def folder(tmp_path):
    """Where this test's programs are kept."""
    before = jax.config.values[kept.FOLDER]
    jax.config.update(kept.FOLDER, str(tmp_path))
    yield tmp_path / "programs"
    jax.config.update(kept.FOLDER, before)


@pytest.fixture
def traces():
    return []


@pytest.fixture
def triple(traces):
    """A program that tells when it is traced, and passes for one of the package."""

    def triple(x, channel):
        traces.append(channel)
        return {"value": 3 * x, "channel": (x,)}

    triple.__module__ = "jaxlora.triple"
    return Program(triple)


def names(folder):
    return sorted(file.name.split("-")[0] for file in folder.glob("*"))


def test_a_kept_program_is_not_traced_by_another_process(folder, triple, traces):
    first = triple(X, "fast")
    assert (names(folder), len(traces)) == (["triple"], 1)
    forget_programs()  # all that another process lacks
    second = triple(X, "fast")
    assert len(traces) == 1
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert jnp.array_equal(second["value"], 3 * X)


def test_programs_are_told_apart_by_shapes_static_arguments_and_sources(
    folder, triple, traces, monkeypatch
):
    triple(X, "fast")
    triple(jnp.arange(4.0), "fast")
    triple(X.astype(jnp.float32), "fast")
    triple(X, "slow")
    assert len(traces) == len(names(folder)) == 4
    monkeypatch.setattr(kept, "SOURCES", b"changed")
    forget_programs()
    triple(X, "fast")
    assert len(traces) == len(names(folder)) == 5


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\x80\x04N."], ids=["empty", "text", "none"]
)
def test_a_broken_file_is_replaced(folder, triple, traces, content):
    triple(X, "fast")
    (file,) = folder.iterdir()
    file.write_bytes(content)
    for _ in range(2):
        forget_programs()
        assert jnp.array_equal(triple(X, "fast")["value"], 3 * X)
        assert len(traces) == 2


def test_without_room_programs_run_all_the_same(folder, triple):
    folder.write_text("in the way of the folder")
    assert jnp.array_equal(triple(X, "fast")["value"], 3 * X)


@pytest.mark.parametrize(
    ("setting", "value"), [(kept.FOLDER, None), ("jax_enable_compilation_cache", False)]
)
def test_nothing_is_kept_without_a_cache(folder, triple, traces, setting, value):
    before = jax.config.values[setting]
    jax.config.update(setting, value)
    try:
        for _ in range(2):
            forget_programs()
            triple(X, "fast")
    finally:
        jax.config.update(setting, before)
    assert len(traces) == 2
    assert not folder.exists()


def test_code_of_others_is_not_kept(folder):
    for activation in (cube, lambda a: a**3, Activation(cube), CUBE, "softmax"):
        described = {"task": given(activation=activation), "options": Options()}
        own = activation == "softmax"
        assert (kept.file_of(kept.file_of, described) is not None) == own
    assert kept.file_of(cube, ()) is None


def test_programs_that_call_back_are_not_kept(folder, traces):
    def log(x):
        traces.append("traced")
        jax.debug.callback(lambda x: traces.append(float(x)), x)
        return 2 * x

    log.__module__ = "jaxlora.log"
    program = Program(log)
    for _ in range(2):
        forget_programs()
        assert float(program(jnp.asarray(1.5))) == 3.0
    jax.effects_barrier()
    assert traces.count(1.5) == 2
    assert names(folder) == []
