import functools
import subprocess

import numpy as np
import pytest
from points import figure_3

from jaxlora import Activation, Task, checkpoints
from jaxlora.checkpoints import Checkpoint, CheckpointError
from jaxlora.simulation import Setting, simulate
from jaxlora.simulation import starts as starts_module


def test_numbers_that_differ_by_rounding_are_the_same():
    there = {"lam": [0.1, 1.0, 2], "design": "grid", "seed": 0}
    rounded = there | {"lam": [np.nextafter(0.1, 1), 1.0, 2]}
    assert checkpoints.differences_of(there, rounded) == ""
    for other in ([0.1 + 1e-9, 1.0, 2], [0.1, 1.0], [0.1, 1.0, 3], 0.1):
        assert "lam" in checkpoints.differences_of(there, there | {"lam": other})
    assert "seed" in checkpoints.differences_of(there, there | {"seed": None})


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


def test_checkpoint_of_another_function_of_the_same_name_is_refused(tmp_path):
    def task_of(temperature):
        act = functools.partial(lambda t, a: t * a, temperature)
        given = {"given": (1.5, 1.5, 1.0), "delta": 0.5, "alpha_ft": 3.0, "lam_ft": 1.0}
        return Task(tokens=2, activation=Activation(act, "act"), **given)

    class Accepted(Exception):
        pass

    def begin(task):
        def stop(seed):
            raise Accepted

        simulate(task, Setting(12), checkpoint=Checkpoint(tmp_path), on_seed=stop)

    for _ in range(2):
        with pytest.raises(Accepted):
            begin(task_of(0.5))
    with pytest.raises(ValueError, match=r"activation = 'act [0-9a-f]{12}' there, 'act "):
        begin(task_of(0.25))


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_folder_whose_description_is_broken_is_refused(content, tmp_path):
    (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(ValueError, match=r"experiment.json: cannot be read"):
        Checkpoint(tmp_path).claim({"dim": 10})


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_checkpoint_counts_as_none(tmp_path, keep):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save("place", {"x": np.arange(1000.0)})
    np.testing.assert_array_equal(checkpoint.load("place")["x"], np.arange(1000.0))
    path = tmp_path / "place.npz"
    path.write_bytes(path.read_bytes()[:keep])
    assert checkpoint.load("place") is None


def test_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save("place", {"x": np.arange(3)})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save("place", {"x": np.arange(4)})
    np.testing.assert_array_equal(checkpoint.load("place")["x"], np.arange(3))
    assert [path.name for path in tmp_path.iterdir()] == ["place.npz"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_full_disk_leaves_the_last_checkpoint(small_disk):
    checkpoint = Checkpoint(small_disk)
    checkpoint.save("place", {"x": np.arange(1000.0)})
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save("place", {"x": np.arange(1e4)})
    np.testing.assert_array_equal(checkpoint.load("place")["x"], np.arange(1000.0))
    assert [path.name for path in small_disk.iterdir()] == ["place.npz"]
