import gc
import json
import weakref
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import figure_1, figure_3, given

from jaxlora.simulation import Setting, experiment, run_seed, simulate, train_pair
from jaxlora.simulation.draws import Stream, draw_inputs, draw_noise, stream_key
from jaxlora.simulation.layers import GaussianLayers
from jaxlora.simulation.measurements import measure_test_errors
from jaxlora.simulation.setting import bytes_needed, sizes_of


def same_draws(setting, task, other):
    """Both stages' numbers for two tasks on the same random numbers."""
    return [run_seed(x, setting, 0) for x in (task, other)]


def test_noise_has_its_law():
    noise = np.asarray(draw_noise(jax.random.key(0), 2.0, 40_000, 3, jnp.dtype(float)))
    np.testing.assert_array_equal(noise, np.swapaxes(noise, 0, 1))
    variance = noise.var(axis=2)
    expected = 2.0 / (2 - np.eye(3))
    # The variance of a sample variance is 2 σ⁴/n.
    assert np.all(np.abs(variance - expected) < 5 * expected * np.sqrt(2 / 40_000))


@pytest.mark.parametrize("count", [1, 5, 12, 13])
def test_inputs_are_drawn_in_blocks(monkeypatch, count):
    from jaxlora.simulation import draws

    monkeypatch.setattr(draws, "BLOCK_SIZE", 4 * 3 * 5)
    inputs = np.asarray(draw_inputs(jax.random.key(0), count, 3, 5, jnp.dtype(float)))
    assert inputs.shape == (count, 3, 5)
    assert len(np.unique(inputs)) == inputs.size


def test_same_seed_same_numbers_and_others_differ():
    setting = Setting(20, test_samples=50, starts=1)
    first, again, other = (run_seed(given(), setting, seed) for seed in (3, 3, 4))
    assert first.finetuning == again.finetuning
    assert first.finetuning != other.finetuning


def test_reused_sequences_come_with_their_noise():
    task, setting = figure_3(reuse=True), Setting(20, starts=1)
    pair = train_pair(task, setting, 0)
    before, after = pair.pretraining.data, pair.finetuning.data
    count = after.count
    assert count == 60
    np.testing.assert_array_equal(after.inputs, before.inputs[:count])
    # Without the teacher's update, the labels would be those of the pre-training.
    sigma = task.activation
    spike = jnp.einsum("nad,d->an", after.inputs, pair.teacher_w) / np.sqrt(20)
    field = jnp.log(before.target[..., :count])  # up to a constant in every row
    shift = float(pair.teacher_w @ pair.teacher_w) / 20 * jnp.eye(2)[..., None]
    expected = sigma(field + spike[:, None] * spike[None] - shift)
    np.testing.assert_allclose(after.target, expected, rtol=1e-10)


def test_active_fine_tuning_labels_the_least_certain():
    setting = Setting(20, test_samples=10, starts=1)
    task = given(active_ratio=0.25)
    data = train_pair(task, setting, 0).finetuning.data
    assert data.count == 60
    keys = jax.random.split(stream_key(0, Stream.FINETUNING), 3)
    layers = GaussianLayers(*task.given, task.beta)
    _, frozen = layers.draw(keys[1], 240, 3, jnp.dtype(float))
    distance = np.asarray(task.activation.loss(frozen, jnp.full((3, 3, 1), 1 / 3)))
    chosen = np.asarray(task.activation.loss(data.frozen, jnp.full((3, 3, 1), 1 / 3)))
    np.testing.assert_allclose(np.sort(chosen), np.sort(distance)[:60])


def test_active_fine_tuning_of_a_trained_layer_chooses_sequences():
    setting = Setting(20, test_samples=10, starts=1)
    data = train_pair(figure_1(active_ratio=0.5), setting, 0).finetuning.data
    everything = train_pair(figure_1(alpha_ft=6), setting, 0).finetuning.data
    rows = {x.tobytes() for x in np.asarray(everything.inputs)}
    assert data.count == 60
    assert all(x.tobytes() in rows for x in np.asarray(data.inputs))
    assert np.var(data.frozen) < np.var(everything.frozen)


def test_empirical_centring_takes_the_mean_off_the_training_set():
    setting = Setting(20, test_samples=10, starts=1, centring="empirical")
    pair = train_pair(given(activation="identity"), setting, 0)
    # σ = x/T: the labels differ from centred ones by the mean of the noise alone, which is drawn
    # with the same key.
    keys = jax.random.split(stream_key(0, Stream.FINETUNING), 3)
    noise = draw_noise(keys[2], 0.5, 60, 3, jnp.dtype(float))
    mean = jnp.mean(3 * pair.finetuning.data.target, axis=2)
    np.testing.assert_allclose(mean, jnp.mean(noise, axis=2), atol=1e-12)


def test_recalibration_scales_what_was_trained():
    setting = Setting(20, test_samples=500, starts=1)
    one, scaled = same_draws(setting, figure_1(), figure_1(beta=0.7))
    assert one.pretraining.Q == scaled.pretraining.Q
    Q, M = one.pretraining.Q, one.pretraining.M
    difference = (0.7**2 - 1) * Q - 2 * (0.7 - 1) * M
    np.testing.assert_allclose(
        scaled.pretraining.effective_noise - one.pretraining.effective_noise, difference
    )
    pair = train_pair(figure_1(beta=0.7), setting, 0)
    np.testing.assert_allclose(pair.layers.student.W, np.sqrt(0.7) * pair.W)


def test_the_data_of_a_seed_go_with_it(monkeypatch):
    weights = []

    def mean_loss(objective, W):
        weights.append(float(W[0, 0]))
        return 3.0

    monkeypatch.setattr(experiment, "mean_loss", mean_loss)
    layer = experiment._MeasuredLayer(SimpleNamespace(W=jnp.eye(2), objective=object()))
    assert [layer.train_error(beta) for beta in (0.25, 1.0, 0.25)] == [3.0] * 3
    assert weights == [0.5, 1.0]
    there = weakref.ref(layer)
    gc.disable()
    try:
        del layer
        assert there() is None
    finally:
        gc.enable()


def test_test_errors_are_those_of_the_model():
    """Against the outputs of the two Equinox layers, sequence by sequence."""
    task, setting = figure_1(delta=0.0), Setting(20, test_samples=30, starts=1)
    pair = train_pair(task, setting, 0)
    key = stream_key(0, Stream.TEST)
    errors = measure_test_errors(
        pair.layers, task.activation, pair.teacher_w, pair.w, task.delta, key, 30, 3
    )
    keys = jax.random.split(jax.random.fold_in(key, 0), 3)
    inputs = jax.random.normal(keys[0], (30, 3, 20))
    teacher, student = pair.layers.teacher, pair.layers.student
    frozen = eqx.tree_at(lambda layer: layer.w, student, jnp.zeros(20))
    before = eqx.tree_at(lambda layer: layer.w, teacher, jnp.zeros(20))

    def error(layer, other):
        apart = jax.vmap(layer)(inputs) - jax.vmap(other)(inputs)
        return np.mean(np.sum(apart**2, axis=(1, 2))) / 20

    expected = (error(frozen, before), error(student, teacher), error(student, before))
    np.testing.assert_allclose(errors, (*expected, error(frozen, teacher)), rtol=1e-10)


def test_without_pretraining_and_without_finetuning():
    setting = Setting(20, test_samples=200, starts=1)
    outcome = run_seed(figure_1(lam=np.inf, lam_ft=np.inf), setting, 0)
    assert outcome.pretraining_status is None
    assert outcome.finetuning_status is None
    assert (outcome.pretraining.Q, outcome.finetuning.q) == (0, 0)
    assert np.isnan(outcome.finetuning.overlap)
    assert outcome.finetuning.test_error == outcome.finetuning.frozen_test_error


@pytest.mark.parametrize(
    ("task", "fields", "words"),
    [
        (figure_1(alpha=1e-6), {}, "alpha = 1e-06: makes N = 0 at dim = 20"),
        (figure_1(alpha_ft=0.01), {}, "alpha_ft = 0.01: makes N' = 0 at dim = 20"),
        (figure_3(alpha=0.1, reuse=True), {}, "60 sequences are to be reused at dim = 20"),
        (given(given=(1.5, 0.6, 1.0)), {}, r"given Q = 0.6: must be at least M²/Q0 = 0.666667"),
        (figure_1(), {"dimension": 10**7}, r"dim = 10000000: needs about [\d.e+]+ GB"),
    ],
)
def test_experiments_that_cannot_be_run_are_refused(task, fields, words):
    with pytest.raises(ValueError, match=words):
        simulate(task, Setting(**({"dimension": 20} | fields)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dimension": 1}, "dimension = 1"),
        ({"test_samples": 0}, "test_samples = 0"),
        ({"starts": 0}, "starts = 0"),
        ({"centring": "none"}, "centring = 'none': must be one of population, empirical"),
        ({"precision": "float16"}, "precision = 'float16'"),
        ({"informed": 1}, "informed = 1: must be True or False"),
    ],
)
def test_bad_settings_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        Setting(**({"dimension": 20} | fields))


def test_memory_is_counted():
    """At the largest size asked for: D = 10⁴, N' = 3·10⁴, T = 3."""
    for precision, most in (("float64", 16e9), ("float32", 8e9)):
        setting = Setting(10_000, precision=precision)
        needed = bytes_needed(sizes_of(given(), setting), setting)
        inputs = 9e8 * setting.dtype.itemsize
        assert inputs < needed < most


def test_simulation_is_reported_as_json():
    from jaxlora.simulation.report import simulation_to_json, simulation_to_table

    simulation = simulate(given(), Setting(16, test_samples=50), seeds=2)
    report = simulation_to_json(simulation)
    json.dumps(report, allow_nan=False)
    assert report["status"]["pretraining"] == {"result": "given"}
    assert report["status"]["finetuning"]["result"] == "converged"
    values = [seed["finetuning"]["q"] for seed in report["seeds"]]
    np.testing.assert_allclose(report["finetuning"]["q"], np.mean(values))
    np.testing.assert_allclose(report["stderr"]["finetuning"]["q"], np.std(values, ddof=1) / 2**0.5)
    assert report["pretraining"]["train_error"] is None
    table = simulation_to_table(report | {"seconds": 1.0})
    assert "means over 2 seeds" in table
