import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlora
from jaxlora.simulation import Checkpoint, Setting, Training, run_seed, simulate, train_pair
from jaxlora.simulation import starts as starts_module
from jaxlora.simulation.comparison import compare
from jaxlora.simulation.draws import Stream, draw_inputs, draw_noise, stream_key
from jaxlora.simulation.hypergradient import hyperparameter_gradient
from jaxlora.simulation.layers import GaussianLayers
from jaxlora.simulation.measurements import measure_test_errors
from jaxlora.simulation.setting import bytes_needed, sizes_of

FIGURE_1 = {"tokens": 3, "kappa0": 1, "kappa": 1, "alpha": 0.1, "delta": 0.5, "alpha_ft": 3}
FIGURE_3 = {"tokens": 2, "kappa0": 0.5, "kappa": 1, "alpha": 0.2, "delta": 0.5, "alpha_ft": 3}
GIVEN = {"tokens": 3, "delta": 0.5, "given": (1.5, 1.5, 1.0), "alpha_ft": 3}


def figure_1(lam=0.05, lam_ft=0.2, **fields):
    return jaxlora.Task(**(FIGURE_1 | {"lam": lam, "lam_ft": lam_ft} | fields))


def figure_3(lam=0.1, lam_ft=0.2, **fields):
    return jaxlora.Task(**(FIGURE_3 | {"lam": lam, "lam_ft": lam_ft} | fields))


def given(lam_ft=0.5, **fields):
    return jaxlora.Task(**(GIVEN | {"lam_ft": lam_ft} | fields))


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
    task, setting = figure_3(reuse=True), Setting(30, starts=1)
    pair = train_pair(task, setting, 0)
    before, after = pair.pretraining.data, pair.finetuning.data
    count = after.count
    assert count == 90
    np.testing.assert_array_equal(after.inputs, before.inputs[:count])
    # Without the teacher's update, the labels would be those of the pre-training.
    sigma = task.activation
    spike = jnp.einsum("nad,d->an", after.inputs, pair.teacher_w) / np.sqrt(30)
    field = jnp.log(before.target[..., :count])  # up to a constant in every row
    shift = float(pair.teacher_w @ pair.teacher_w) / 30 * jnp.eye(2)[..., None]
    expected = sigma(field + spike[:, None] * spike[None] - shift)
    np.testing.assert_allclose(after.target, expected, rtol=1e-10)


def test_active_fine_tuning_labels_the_least_certain():
    setting = Setting(40, test_samples=10, starts=1)
    task = given(active_ratio=0.25)
    data = train_pair(task, setting, 0).finetuning.data
    assert data.count == 120
    keys = jax.random.split(stream_key(0, Stream.FINETUNING), 3)
    layers = GaussianLayers(*task.given, task.beta)
    _, frozen = layers.draw(keys[1], 480, 3, jnp.dtype(float))
    distance = np.asarray(task.activation.loss(frozen, jnp.full((3, 3, 1), 1 / 3)))
    chosen = np.asarray(task.activation.loss(data.frozen, jnp.full((3, 3, 1), 1 / 3)))
    np.testing.assert_allclose(np.sort(chosen), np.sort(distance)[:120])


def test_active_fine_tuning_of_a_trained_layer_chooses_sequences():
    setting = Setting(20, test_samples=10, starts=1)
    data = train_pair(figure_1(active_ratio=0.5), setting, 0).finetuning.data
    everything = train_pair(figure_1(alpha_ft=6), setting, 0).finetuning.data
    rows = {x.tobytes() for x in np.asarray(everything.inputs)}
    assert data.count == 60
    assert all(x.tobytes() in rows for x in np.asarray(data.inputs))
    assert np.var(data.frozen) < np.var(everything.frozen)


def test_empirical_centring_takes_the_mean_off_the_training_set():
    setting = Setting(30, test_samples=10, starts=1, centring="empirical")
    pair = train_pair(given(activation="identity"), setting, 0)
    # σ = x/T: the labels differ from centred ones by the mean of the noise alone, which is drawn
    # with the same key.
    keys = jax.random.split(stream_key(0, Stream.FINETUNING), 3)
    noise = draw_noise(keys[2], 0.5, 90, 3, jnp.dtype(float))
    mean = jnp.mean(3 * pair.finetuning.data.target, axis=2)
    np.testing.assert_allclose(mean, jnp.mean(noise, axis=2), atol=1e-12)


def test_recalibration_scales_what_was_trained():
    setting = Setting(30, test_samples=500, starts=1)
    one, scaled = same_draws(setting, figure_1(), figure_1(beta=0.7))
    assert one.pretraining.Q == scaled.pretraining.Q
    Q, M = one.pretraining.Q, one.pretraining.M
    difference = (0.7**2 - 1) * Q - 2 * (0.7 - 1) * M
    np.testing.assert_allclose(
        scaled.pretraining.effective_noise - one.pretraining.effective_noise, difference
    )
    pair = train_pair(figure_1(beta=0.7), setting, 0)
    np.testing.assert_allclose(pair.layers.student.W, np.sqrt(0.7) * pair.W)


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
    setting = Setting(30, test_samples=200, starts=1)
    outcome = run_seed(figure_1(lam=np.inf, lam_ft=np.inf), setting, 0)
    assert outcome.pretraining_status is None
    assert outcome.finetuning_status is None
    assert (outcome.pretraining.Q, outcome.finetuning.q) == (0, 0)
    assert np.isnan(outcome.finetuning.overlap)
    assert outcome.finetuning.test_error == outcome.finetuning.frozen_test_error


@pytest.mark.parametrize(
    ("task", "sizes"),
    [(figure_1(lam=0.01), (40, 80)), (figure_3(reuse=True), (40, 80)), (given(), (100, 300))],
    ids=["figure 1", "figure 3, reused", "given"],
)
def test_theory_is_the_limit(task, sizes):
    """Within four standard errors of both and a bias of 5/D of each number."""
    prediction = jaxlora.predict(task, samples=2**14)
    simulations = [
        simulate(task, Setting(D, normalise_teacher=True, starts=2, test_samples=4000), seeds=6)
        for D in sizes
    ]
    assert all(simulation.failure() is None for simulation in simulations)
    observables = compare(prediction, simulations)
    assert len(observables) >= 9
    for observable in observables:
        for size in observable.sizes:
            both = np.hypot(size.stderr, observable.theory_stderr)
            allowed = 4 * both + 5 * abs(observable.theory) / size.dimension
            assert abs(size.value - observable.theory) <= allowed, (observable, size)


def test_trend_is_the_weighted_fit():
    from jaxlora.simulation.comparison import _trend

    sizes, errors = np.array([50.0, 100.0, 400.0]), np.array([0.02, 0.01, 0.03])
    values = 0.7 + 3 / sizes
    trend = _trend(list(zip(sizes, values, errors, strict=True)), 0.6, 0.05)
    np.testing.assert_allclose((trend.limit, trend.slope), (0.7, 3))
    _, covariance = np.polyfit(1 / sizes, values, 1, w=1 / errors, cov="unscaled")
    np.testing.assert_allclose(trend.slope_stderr, np.sqrt(covariance[0, 0]))
    np.testing.assert_allclose(trend.limit_stderr, np.sqrt(covariance[1, 1]))
    np.testing.assert_allclose(trend.z, 0.1 / np.hypot(trend.limit_stderr, 0.05))


@pytest.mark.slow
def test_empirical_centring_is_another_problem():
    """Paired seeds against the measured difference of theory section 9, item 8."""
    setting = Setting(300, test_samples=4000, starts=2)
    empirical = dataclasses.replace(setting, centring="empirical")
    pairs = [[run_seed(given(), s, seed) for s in (empirical, setting)] for seed in range(40)]
    expected = {"m": (-0.0046, 0.0005), "q": (-0.0067, 0.0008), "test_error": (0.0013, 0.0002)}
    for name, (value, error) in expected.items():
        differences = np.array(
            [getattr(a.finetuning, name) - getattr(b.finetuning, name) for a, b in pairs]
        )
        spread = differences.std(ddof=1) / np.sqrt(len(differences))
        assert abs(differences.mean() - value) < 4 * np.hypot(spread, error), name
        assert abs(differences.mean()) > 3 * spread, name


def test_resumed_seeds_give_the_same_numbers(tmp_path, monkeypatch):
    setting = Setting(24, test_samples=50, starts=2)
    task = figure_3(reuse=True)
    expected = simulate(task, setting, seeds=1)
    monkeypatch.setattr(starts_module, "SAVE_SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path)

    class Stop(Exception):
        pass

    def interrupted(limit):
        calls = []

        def watch(stage, report):
            calls.append(stage)
            if len(calls) > limit:
                raise Stop

        return watch

    stops = 0
    for _ in range(3):
        try:
            simulate(task, setting, seeds=1, checkpoint=checkpoint, watch=interrupted(2))
        except Stop:
            stops += 1
    assert stops >= 2
    resumed = simulate(task, setting, seeds=1, checkpoint=checkpoint)
    assert resumed.pretraining == expected.pretraining
    assert resumed.finetuning == expected.finetuning
    assert resumed.outcomes[0].pretraining_status == expected.outcomes[0].pretraining_status


def test_checkpoint_of_another_experiment_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.claim({"dim": 10, "delta": 0.5})
    checkpoint.claim({"dim": 10, "delta": 0.5})
    with pytest.raises(ValueError, match="dim = 10 there, 20 here"):
        checkpoint.claim({"dim": 20, "delta": 0.5})


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_checkpoint_counts_as_none(tmp_path, keep):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save("place", {"x": np.arange(1000.0)})
    np.testing.assert_array_equal(checkpoint.load("place")["x"], np.arange(1000.0))
    path = tmp_path / "place.npz"
    path.write_bytes(path.read_bytes()[:keep])
    assert checkpoint.load("place") is None


def test_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    from jaxlora.simulation import CheckpointError, checkpoints

    checkpoint = Checkpoint(tmp_path)
    checkpoint.save("place", {"x": np.arange(3)})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save("place", {"x": np.arange(4)})
    np.testing.assert_array_equal(checkpoint.load("place")["x"], np.arange(3))
    assert [path.name for path in tmp_path.iterdir()] == ["place.npz"]


@pytest.mark.parametrize("reuse", [False, True])
def test_hyperparameter_gradient_is_that_of_retraining(reuse):
    setting = Setting(24, test_samples=500, starts=1, training=Training(tol=1e-10))
    task = figure_3(lam=0.1, lam_ft=0.4, reuse=reuse, beta=0.9)
    gradient = hyperparameter_gradient(task, setting, train_pair(task, setting, 0), 0)
    assert max(map(float, gradient.residuals)) < 1e-7
    parameters = {"lam": 0.1, "lam_ft": 0.4, "reuse": reuse, "beta": 0.9}
    for name, found in (("lam", gradient.by_lam), ("lam_ft", gradient.by_lam_ft)):
        ends = [
            run_seed(figure_3(**(parameters | {name: parameters[name] + d})), setting, 0)
            for d in (1e-4, -1e-4)
        ]
        slope = (ends[0].finetuning.test_error - ends[1].finetuning.test_error) / 2e-4
        np.testing.assert_allclose(found, slope, rtol=1e-4)


def test_hyperparameter_gradient_of_a_given_pretraining():
    setting = Setting(24, test_samples=500, starts=1, training=Training(tol=1e-10))
    gradient = hyperparameter_gradient(given(), setting, train_pair(given(), setting, 0), 0)
    ends = [run_seed(given(0.5 + d), setting, 0).finetuning.test_error for d in (1e-4, -1e-4)]
    np.testing.assert_allclose(gradient.by_lam_ft, (ends[0] - ends[1]) / 2e-4, rtol=1e-5)
    assert np.isnan(gradient.by_lam)


def test_float32_agrees_with_float64():
    task = figure_3()
    double = train_pair(task, Setting(40, starts=1), 0)
    single = train_pair(task, Setting(40, starts=1, precision="float32"), 0)
    assert single.statuses[0].converged
    assert single.statuses[1].converged
    assert single.W.dtype == jnp.float32
    # Other random numbers: the same to the scatter over seeds.
    assert abs(float(jnp.sum(single.W**2) / jnp.sum(double.W**2)) - 1) < 0.2


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
