import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import given

import jaxlora
from jaxlora import prediction, programs
from jaxlora.derivatives import pull_through
from jaxlora.programs import GROUPS, Compiling, Program, platform, rehearse, split
from jaxlora.simulation import setting
from jaxlora.sweeps import configuration, layout

REPLICATES = np.arange(6.0)


def running_sums(replicated, factor):
    """Sums that start anew with each group, as chains of solves do."""
    return jax.lax.scan(lambda total, x: (total + x, factor * (total + x)), 0.0, replicated)[1]


def expected(factor, size):
    return factor * np.cumsum(REPLICATES.reshape(-1, size), axis=1).ravel()


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["called", "traced"])
def test_groups_are_the_same_compiled_and_traced(transform):
    program = Program(running_sums)
    found = transform(lambda factor: program.in_groups(REPLICATES, factor))(jnp.asarray(2.0))
    np.testing.assert_allclose(found, expected(2.0, len(REPLICATES) // GROUPS), rtol=1e-15)


def test_vmap_over_a_shared_argument():
    program = Program(running_sums)
    found = jax.vmap(lambda factor: program.in_groups(REPLICATES, factor))(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(found, [expected(f, 3) for f in (1.0, 3.0)], rtol=1e-15)


def test_a_number_of_replicates_that_cannot_be_split_is_one_group():
    assert len(split(np.arange(5.0))) == 1
    found = Program(running_sums).in_groups(np.arange(5.0), jnp.asarray(1.0))
    np.testing.assert_allclose(found, np.cumsum(np.arange(5.0)), rtol=1e-15)


def test_programs_compile_once_for_each_shape():
    traces = []

    def double(replicated):
        traces.append(threading.get_ident())
        return 2 * replicated

    program = Program(double)
    for _ in range(2):
        program.in_groups(REPLICATES)
    assert len(traces) == 1
    with Compiling() as compiled:
        shapes = compiled(program, jax.ShapeDtypeStruct((3,), jnp.float64))
    assert (shapes.shape, shapes.dtype, len(traces)) == ((3,), jnp.float64, 1)


def test_a_rehearsal_compiles_what_is_run():
    traces, found = [], []
    program = Program(lambda x: traces.append(x.shape) or 2 * x)

    def run():
        found.append((program.in_groups(REPLICATES), program(REPLICATES[:2])))

    rehearse(run)
    assert traces == [(3,), (2,)]
    run()
    assert len(traces) == 2
    for values, zero in zip(found[1], found[0], strict=True):
        assert (zero.shape, zero.dtype, np.any(zero)) == (values.shape, values.dtype, False)
    np.testing.assert_array_equal(found[1][0], 2 * REPLICATES)


def test_what_a_rehearsal_raises_is_left_to_the_run():
    program = Program(lambda x: x + 1)

    def run():
        if program(jnp.asarray(1.0)) == 0:
            raise ValueError("must not be 0")
        return program(jnp.asarray(2.0))

    rehearse(run)
    assert run() == 3


def test_a_rehearsal_compiles_the_gradient():
    def error(lam_ft):
        return jaxlora.predict(given(lam_ft), samples=2**6, replicates=2).finetuning.test_error

    evaluate, compiled = jax.value_and_grad(error), pull_through._ready
    compiled.clear()
    rehearse(evaluate, 0.3)
    assert len(compiled) == 1
    value, slope = evaluate(0.3)
    assert len(compiled) == 1
    step = 1e-4
    difference = (error(0.3 + step) - error(0.3 - step)) / (2 * step)
    assert value > 0
    assert float(slope) == pytest.approx(float(difference), rel=1e-5)


def test_some_arguments_are_static():
    program = Program(lambda x, channel: x + 1 if channel == "add" else x)
    assert program(jnp.asarray(1.0), "add") == 2
    assert program(jnp.asarray(1.0), "keep") == 1


def test_weak_types_are_told_apart():
    program = Program(lambda x, y: x * y)
    x = jnp.ones(2, jnp.float32)
    assert program(x, 2.0).dtype == jnp.float32
    assert program(x, jnp.asarray(2.0, jnp.float64)).dtype == jnp.float64


def test_debugging_modes_are_jax_s_own():
    program = Program(lambda x: jnp.log(x))
    with jax.disable_jit():
        assert float(program(jnp.asarray(1.0))) == 0.0
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        program(jnp.asarray(-1.0))


def test_programs_forget_what_they_compiled_first(monkeypatch):
    monkeypatch.setattr(programs, "MOST", 2)
    traces = []
    program = Program(lambda x: traces.append(x.shape) or x)
    for size in (1, 2, 3, 3, 2, 1):
        program(jnp.ones(size))
    assert traces == [(1,), (2,), (3,), (1,)]


def test_threads_keep_the_precision_of_a_context():
    program = Program(running_sums)
    jax.config.update("jax_enable_x64", False)
    try:
        with jax.enable_x64(True):
            assert program.in_groups(REPLICATES, 1.0).dtype == jnp.float64
    finally:
        jax.config.update("jax_enable_x64", True)


def test_errors_in_a_group_are_raised():
    def refuse(replicated):
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        Program(refuse).in_groups(REPLICATES)


def test_a_gradient_compiles_the_stages_as_a_value_does(monkeypatch):
    asked = []

    def solve(task, *_):
        return SimpleNamespace(error=task.lam_ft**2, status=SimpleNamespace(failure=lambda: None))

    monkeypatch.setattr(prediction, "rehearse", lambda run, task, *_: asked.append(task))
    monkeypatch.setattr(prediction, "_compiled", set())
    monkeypatch.setattr(prediction, "_predict", solve)

    def error(lam_ft):
        return jaxlora.predict(given(lam_ft), samples=2**4, replicates=2).error

    assert float(jax.grad(error)(0.3)) == pytest.approx(0.6)
    assert [float(task.lam_ft) for task in asked] == [0.3]  # concrete, and once
    assert float(error(0.4)) == pytest.approx(0.16)
    assert len(asked) == 1


def test_programs_run_where_the_default_device_is(keep_settings):
    assert platform() == jax.default_backend()
    jax.config.update("jax_default_device", jax.devices("cpu")[0])
    assert platform() == "cpu"


def test_devices_are_those_of_the_default_platform(monkeypatch):
    there = {"gpu": ["gpu0"], "cpu": ["cpu0", "cpu1"]}
    monkeypatch.setattr(jax, "devices", lambda name="gpu": there[name])
    monkeypatch.setattr(programs, "platform", lambda: "cpu")
    assert programs.devices() == ["cpu0", "cpu1"]


def test_memory_and_number_of_devices_are_those_of_the_default_platform(monkeypatch):
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 2**30})
    monkeypatch.setattr(setting, "devices", lambda: [device] * 2)
    assert setting._available_bytes() == 2**30
    monkeypatch.setattr(layout, "devices_there", lambda: [device] * 2)
    monkeypatch.setattr(layout, "platform", lambda: "gpu")
    # Half of the memory over 150 bytes for each sample and T⁴.
    assert layout.default_layout(2**14, 3, devices=2) == (2**29 // (2**14 * 81 * 150), 2)
    with pytest.raises(ValueError, match="devices = 3: must be an integer from 1 to 2"):
        layout.default_layout(2**14, 3, devices=3)
    monkeypatch.setattr(configuration, "devices_there", lambda: [device] * 2)
    tables = {"task": {"tokens": 2, "delta": 0.5, "given": [1, 1, 0], "alpha_ft": 1, "lam_ft": 1}}
    assert configuration.configuration_of(tables | {"devices": 2}).devices == 2
    with pytest.raises(ValueError, match="devices = 3: must be from 1 to 2"):
        configuration.configuration_of(tables | {"devices": 3})
