import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from helpers import assert_refused

import jaxlora
from jaxlora import Options, Task, load, predict, save
from jaxlora.checkpoints import CheckpointError
from jaxlora.cli import main
from jaxlora.saving import container

# The identity with a given pre-training: what is tested here does not depend on what is solved.
GIVEN = {"tokens": 2, "activation": "identity", "given": (1.5, 1.2, 0.9), "delta": 0.5}
FIELDS = GIVEN | {"alpha_ft": 3.0, "lam_ft": 0.3}
PRETRAINED = {"kappa0": 0.5, "kappa": 1.0, "alpha": 0.2, "delta": 0.1, "lam": jnp.inf}
FEW = {"samples": 2**8, "replicates": 2, "seed": 3}


def tempered(a):
    return jax.nn.softmax(0.5 * a, axis=1)


def other(temperature):
    def tempered(a):
        return jax.nn.softmax(temperature * a, axis=1)

    return tempered


@pytest.fixture(scope="module")
def prediction():
    return predict(Task(**FIELDS), **FEW)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for got, there in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(got, jax.Array)
        assert got.dtype == there.dtype
        assert got.shape == there.shape
        assert np.asarray(got).tobytes() == np.asarray(there).tobytes()


def test_a_prediction_comes_back_bit_by_bit(prediction, tmp_path):
    save(tmp_path / "point.nc", Task(**FIELDS), prediction, **FEW)
    task, found = load(tmp_path / "point.nc")
    assert_same(found, prediction)
    assert_same(task, Task(**FIELDS))
    assert [branch.start for branch in found.finetuning.branches] == ["informed", "uninformed"]
    assert np.isnan(found.pretraining.V)
    assert found.replicates.finetuning.q.shape == (2,)
    assert found.status.failure() is None


def test_a_prediction_that_was_loaded_starts_another(prediction, tmp_path):
    save(tmp_path / "point.nc", Task(**FIELDS), prediction)
    task, found = load(tmp_path / "point.nc")
    again, expected = (predict(task, known=known, **FEW) for known in (found, prediction))
    assert_same(again, expected)
    iterations = [float(p.status.finetuning.iterations) for p in (again, prediction)]
    assert iterations[0] < iterations[1]


def test_infinite_stacked_and_single_numbers_come_back(prediction, tmp_path):
    path, task = tmp_path / "point.nc", Task(**FIELDS)
    infinite = jax.tree.map(lambda x: jnp.full_like(x, -jnp.inf), prediction.finetuning.q)
    infinite = eqx.tree_at(lambda p: p.finetuning.q, prediction, infinite)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x + 1, x]), prediction)
    single = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, prediction
    )
    for some in (infinite, stacked, single):
        save(path, task, some)  # over the one before
        assert_same(load(path)[1], some)


@pytest.mark.parametrize(
    "fields",
    [
        PRETRAINED | {"tokens": 3, "alpha_ft": 2.0, "lam_ft": 0.1, "reuse": True, "beta": 0.7},
        PRETRAINED | {"tokens": 1, "activation": "identity", "alpha_ft": 2.0, "lam_ft": jnp.inf},
        GIVEN | {"alpha_ft": 0.1, "lam_ft": 1.0, "active_ratio": 0.25},
        GIVEN | {"alpha_ft": jnp.array([0.1, 0.2]), "lam_ft": 1.0},
    ],
)
def test_tasks_come_back(fields, prediction, tmp_path):
    save(tmp_path / "point.nc", Task(**fields), prediction)
    task, _ = load(tmp_path / "point.nc")
    assert_same(task, Task(**fields))


def test_a_function_is_asked_for_and_another_one_refused(prediction, tmp_path):
    path = tmp_path / "point.nc"
    task = Task(**(FIELDS | {"activation": tempered}))
    save(path, task, prediction)
    assert_same(load(path, activation=tempered)[0], task)
    with pytest.raises(ValueError, match="activation is missing: must be 'tempered', whose"):
        load(path)
    for wrong in (other(0.6), "softmax", jaxlora.Activation(tempered, "mine")):
        with pytest.raises(ValueError, match="must be that of the file, 'tempered'"):
            load(path, activation=wrong)


def test_functions_are_told_apart_by_their_values(prediction, tmp_path):
    path = tmp_path / "point.nc"
    save(path, Task(**(FIELDS | {"activation": tempered})), prediction)
    load(path, activation=other(0.5))
    with pytest.raises(ValueError, match="must be that of the file"):
        load(path, activation=other(0.5001))


def test_a_built_in_activation_is_no_other(prediction, tmp_path):
    path = tmp_path / "point.nc"
    save(path, Task(**FIELDS), prediction)
    assert load(path, activation="identity")[0].activation.name == "identity"
    named_alike = jaxlora.Activation(lambda a: a / 3, "identity")
    for wrong in ("softmax", tempered, named_alike):
        with pytest.raises(ValueError, match="must be that of the file, 'identity'"):
            load(path, activation=wrong)
    save(path, Task(**(FIELDS | {"activation": named_alike})), prediction)
    with pytest.raises(ValueError, match="activation is missing"):
        load(path)


def test_readers_of_netcdf_find_the_numbers(prediction, tmp_path):
    path = tmp_path / "point.nc"
    save(path, Task(**FIELDS), prediction, options=Options(max_iterations=99), **FEW)
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        error = tree["finetuning/test_error"]
        assert float(error) == float(prediction.finetuning.test_error)
        assert error.attrs["long_name"] == "test error of the fine-tuned layer (73)"
        assert tree["stderr/pretraining/test_error"].attrs["long_name"].startswith("standard error")
        assert tree["status/finetuning/result"].attrs["flag_meanings"].startswith("converged")
        assert float(tree["task/given/Q"]) == 1.2
        assert tree.attrs["jaxlora_version"] == jaxlora.__version__
        numerics = json.loads(tree.attrs["numerics"])
        assert {name: numerics[name] for name in FEW} == FEW
        assert numerics["options"]["max_iterations"] == 99


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_truncated_file_is_refused(keep, prediction, tmp_path):
    path = tmp_path / "point.nc"
    save(path, Task(**FIELDS), prediction)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
    with pytest.raises(ValueError, match=r"^path = .*is not a saved prediction, or is cut off$"):
        load(path)


def test_changed_bytes_are_found_or_change_nothing(prediction, tmp_path):
    path, task = tmp_path / "point.nc", Task(**FIELDS)
    save(path, task, prediction)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in rng.integers(len(content), size=50):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            found = load(path)
        except ValueError:
            refused += 1
        else:
            assert_same(found, (task, prediction))
    assert refused > 5
    number = np.asarray(prediction.finetuning.test_error).tobytes()
    path.write_bytes(content.replace(number, np.float64(0.1).tobytes()))
    with pytest.raises(ValueError, match="is not what was saved"):
        load(path)


def test_files_of_others_are_neither_read_nor_replaced(prediction, tmp_path):
    path, task = tmp_path / "point.nc", Task(**FIELDS)
    newer = container.Content({}, {"format": "jaxlora prediction", "format_version": 2}, {})
    newer.attributes["jaxlora_version"] = "9.9"
    xarray.Dataset({"q": 1.0}).to_netcdf(path, engine="h5netcdf")
    for content, words in (
        (b"mine", "is not a saved prediction, or is cut off"),
        (path.read_bytes(), "is not a saved prediction"),
        (container.pack(newer), "is of format 2, written by jaxlora 9.9; must be of format 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            load(path)
        with pytest.raises(ValueError, match="is there, and is not a saved prediction"):
            save(path, task, prediction)
        assert path.read_bytes() == content
    with pytest.raises(ValueError, match="is there, and is not"):
        save(tmp_path, task, prediction)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.nc")


def test_what_cannot_be_written_is_named(prediction, tmp_path, monkeypatch):
    path, task = tmp_path / "point.nc", Task(**FIELDS)
    with pytest.raises(ValueError, match="sample: must be one of samples, replicates, seed"):
        save(path, task, prediction, sample=3)
    invalid = eqx.tree_at(lambda t: t.lam_ft, task, jnp.asarray(-1.0))
    with pytest.raises(ValueError, match="lam_ft = -1: must be positive"):
        save(path, invalid, prediction)
    save(path, task, prediction)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(path, Task(**(FIELDS | {"lam_ft": 0.4})), prediction)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_float64_is_asked_for_where_it_is_needed(prediction, tmp_path):
    path, narrow = tmp_path / "point.nc", tmp_path / "single.nc"
    save(path, Task(**FIELDS), prediction)
    with jax.enable_x64(False):
        with pytest.raises(RuntimeError, match=r"was saved with float64: call .*jax_enable_x64"):
            load(path)
        task = Task(**FIELDS)
        single = jax.tree.map(
            lambda x: jnp.asarray(x, "i4" if x.dtype.kind == "i" else "f4"), prediction
        )
        save(narrow, task, single)
        assert_same(load(narrow), (task, single))
    assert_same(load(narrow), (task, single))


POINT = ["predict", "--tokens", "2", "--activation", "identity", "--given", "1.5", "1.2", "0.9"]
POINT += ["--delta", "0.5", "--alpha-ft", "3", "--lam-ft", "0.3", "--samples", "256"]
POINT += ["--replicates", "2", "--seed", "3", "--no-cache"]


@pytest.mark.usefixtures("keep_settings")
def test_the_command_saves_what_it_prints(prediction, tmp_path, capsys):
    path = tmp_path / "results" / "point.nc"
    assert main([*POINT, "--format", "json", "--save", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    task, found = load(path)
    assert report["finetuning"]["test_error"] == float(found.finetuning.test_error)
    assert_same(task, Task(**FIELDS))
    assert_same(found, prediction)


@pytest.mark.usefixtures("keep_settings")
def test_the_command_does_not_replace_what_is_not_its_own(tmp_path, capsys, monkeypatch):
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    words = f"path = {str(mine)!r}: is there, and is not a saved prediction"
    assert_refused([*POINT, "--save", str(mine)], words, capsys)
    assert mine.read_text() == "mine"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main([*POINT, "--save", str(tmp_path / "point.nc")]) == 4
    output = capsys.readouterr()
    assert "test_error" in output.out
    assert "not written: " in output.err
    assert output.err.count("\n") == 1
