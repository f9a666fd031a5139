"""Sweeps that are killed, cut off, run twice at a time, or run out of disk."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray

from jaxlora import sweep
from jaxlora.checkpoints import CheckpointError
from jaxlora.sweeps import Engine, Theory, engines

# Given pre-trainings, and the identity: what is tested here does not depend on what is solved.
GIVEN = {"tokens": 2, "activation": "identity", "given": (1.5, 1.5, 1.0), "delta": 0.5}
POINTS = GIVEN | {"alpha_ft": [1.0, 2.0, 3.0, 4.0], "lam_ft": [0.5, 1.0]}
FLAGS = ["--tokens", "2", "--activation", "identity", "--given", "1.5", "1.5", "1"]
FLAGS += ["--delta", "0.5", "--alpha-ft", "1,2,3,4", "--lam-ft", "0.5,1"]
FLAGS += ["--samples", "64", "--replicates", "2", "--chunk", "1", "--quiet"]
FEW = Theory(64, 2)
SLOWLY = """
import os, sys, time
from jaxlora.sweeps import engines
from jaxlora.cli import main
do = engines.do
def slowly(*arguments):
    time.sleep(0.2)
    return do(*arguments)
engines.do = slowly
sys.exit(main(["sweep", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """That of a process which finds what others have compiled."""
    return os.environ | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def expected(tmp_path_factory, environment):
    """The file of a sweep that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "sweep.nc"
    run_slowly(out, environment).wait()
    return out.read_bytes()


def run_slowly(out, environment, *flags):
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *FLAGS, "--out", str(out), *flags],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def units(out):
    return sorted(pathlib.Path(f"{out}.parts").glob("theory-*.npz"))


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the sweep has ended"
        assert time.monotonic() < end
        time.sleep(0.02)


def test_killed_sweep_goes_on_to_the_same_file(tmp_path, environment, expected):
    out = tmp_path / "sweep.nc"
    process = run_slowly(out, environment)
    wait_for(lambda: len(units(out)) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in units(out)}
    assert 3 <= len(before) < 8
    assert not out.exists()
    resumed = run_slowly(out, environment)
    assert resumed.wait() == 0
    assert out.read_bytes() == expected
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_two_processes_share_a_store(tmp_path, environment, expected):
    out = tmp_path / "sweep.nc"
    processes = [run_slowly(out, environment) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert out.read_bytes() == expected
    assert len(units(out)) == 8


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_truncated_chunk_is_done_again(tmp_path, keep):
    out = tmp_path / "sweep.nc"
    first = sweep(theory=FEW, chunk=4, out=out, **POINTS)
    one, other = units(out)
    one.write_bytes(one.read_bytes()[:keep])
    untouched = other.stat().st_mtime_ns
    steps = []
    again = sweep(theory=FEW, chunk=4, out=out, watch=steps.append, **POINTS)
    xarray.testing.assert_identical(again, first)
    assert other.stat().st_mtime_ns == untouched
    assert (steps[-1].done, steps[-1].loaded, steps[-1].total) == (8, 4, 8)


def test_changed_byte_in_a_chunk_is_found(tmp_path):
    out = tmp_path / "sweep.nc"
    first = sweep(theory=FEW, chunk=4, out=out, **POINTS)
    content = bytearray(units(out)[0].read_bytes())
    content[len(content) // 2] ^= 1
    units(out)[0].write_bytes(content)
    xarray.testing.assert_identical(sweep(theory=FEW, chunk=4, out=out, **POINTS), first)


def test_another_sweep_is_refused_with_the_difference(tmp_path):
    out = tmp_path / "sweep.nc"
    sweep(theory=FEW, chunk=4, out=out, **POINTS)
    there = out.read_bytes()
    with pytest.raises(ValueError, match=r"another sweep: theory.seed = 0 there, 1 here"):
        sweep(theory=Theory(64, 2, seed=1), chunk=4, out=out, **POINTS)
    assert out.read_bytes() == there
    out.unlink()
    with pytest.raises(ValueError, match=r"another run: theory.seed = 0 there, 1 here"):
        sweep(theory=Theory(64, 2, seed=1), chunk=4, out=out, **POINTS)


def test_full_disk_leaves_an_intact_store(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        out = disk / "sweep.nc"
        with pytest.raises(CheckpointError, match="No space left"):
            sweep(theory=FEW, chunk=1, out=out, **POINTS)
        kept = units(out)
        assert 0 < len(kept) < 8
        for path in kept:
            with np.load(path) as arrays:
                assert all(np.all(np.isfinite(arrays["q"])) for _ in arrays.files)
        assert not [path for path in out.parent.rglob(".*") if path.is_file()]
        # With room again, the same call ends what it began.
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        steps = []
        sweep(theory=FEW, chunk=1, out=out, watch=steps.append, **POINTS)
        assert steps[-1].loaded == len(kept)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_killed_dask_worker_costs_its_chunk_only(tmp_path, environment, expected, monkeypatch):
    distributed = pytest.importorskip("distributed")
    compiled = os.path.join(environment["XDG_CACHE_HOME"], "jaxlora")
    settings = {"jax_enable_x64": True, "jax_compilation_cache_dir": compiled}
    monkeypatch.setattr(engines, "settings", lambda: settings)
    out = tmp_path / "sweep.nc"
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        killed = []

        def kill_one(progress):
            # The first chunk is done, so that both workers are at another.
            if not killed:
                pid = client.run(os.getpid)
                killed.append(next(iter(pid.values())))
                os.kill(killed[0], signal.SIGKILL)

        dataset = sweep(
            theory=FEW,
            chunk=1,
            out=out,
            engine=Engine("dask", client=client),
            watch=kill_one,
            **POINTS,
        )
        assert killed[0] not in client.run(os.getpid).values()
    serial = xarray.load_dataset(expected, engine="h5netcdf")
    assert len(units(out)) == 8
    for name in serial.data_vars:
        np.testing.assert_array_equal(dataset[name], serial[name], err_msg=name)


ON_WORKER = """
import pickle
import jax, jax.numpy as jnp
from jaxlora.programs import devices
from jaxlora.sweeps import engines
assert devices() == jax.devices()
jax.config.update("jax_default_device", jax.devices()[1])
assert devices() == jax.devices()[::-1]
shared = pickle.dumps(engines.settings())
jax.config.update("jax_default_device", None)
engines.do = lambda *_: jnp.zeros(()).devices().pop().id
assert engines.do() == 0
assert engines._on_worker(None, None, None, pickle.loads(shared)) == 1
try:
    engines._on_worker(None, None, None, {"jax_default_device": ("rocm", 0)})
except ValueError as error:
    print(error)
"""


def test_workers_use_the_default_device():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ON_WORKER], env=os.environ | flags, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "device = 'rocm': a worker of Dask does not have it\n"


def test_file_of_something_else_is_not_replaced(tmp_path):
    out = tmp_path / "sweep.nc"
    out.write_text("mine")
    with pytest.raises(ValueError, match="is there, and is not the file of a sweep"):
        sweep(theory=FEW, chunk=4, out=out, **POINTS)
    assert out.read_text() == "mine"
    with pytest.raises(ValueError, match="is not the file of a sweep"):
        sweep(theory=FEW, chunk=4, out=tmp_path, **POINTS)


def test_unknown_engine_is_named():
    with pytest.raises(ValueError, match="kind = 'slurm': must be one of serial, dask"):
        Engine("slurm")
    with pytest.raises(ValueError, match="workers = 0: must be an integer of at least 1"):
        Engine("dask", workers=0)
    assert Engine(workers=2).kind == "dask"
    with pytest.raises(ValueError, match="takes no workers"):
        Engine("serial", workers=2)


def test_settings_of_an_engine_that_exclude_each_other_are_refused():
    cluster, address = "dask_jobqueue.SLURMCluster", "tcp://10.0.0.1:8786"
    Engine(cluster=cluster, workers=2, cluster_options={"cores": 4})
    for fields, words in (
        ({"address": address, "workers": 2}, "workers and address: must be one"),
        ({"address": address, "cluster": cluster}, "address and cluster"),
        ({"client": object(), "address": address}, "address and client"),
        ({"client": object(), "workers": 2}, "workers and client"),
        ({"client": object(), "cluster": cluster, "workers": 2}, "workers and cluster and client"),
        ({"workers": 2, "cluster_options": {"cores": 4}}, "cluster_options: must be with"),
    ):
        with pytest.raises(ValueError, match=words):
            Engine(**fields)


def test_store_says_what_it_is_for(tmp_path):
    out = tmp_path / "sweep.nc"
    sweep(theory=FEW, chunk=4, out=out, **POINTS)
    identity = json.loads((tmp_path / "sweep.nc.parts" / "experiment.json").read_text())
    assert identity["parameters.alpha_ft"] == [1.0, 2.0, 3.0, 4.0]
    assert identity["theory.samples"] == 64
