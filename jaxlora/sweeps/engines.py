"""Where units of work are done: in this process, or by the workers of a Dask cluster."""

import contextlib
import dataclasses
import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from .layout import Layout
from .plan import Plan, Unit
from .work import Arrays, do

KINDS = ("serial", "dask")
SETTINGS = (
    "jax_enable_x64",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)
DEVICE = "jax_default_device"
Done = Iterator[tuple[Unit, Arrays]]


class LostWorkersError(RuntimeError):
    """Every worker that tried a unit died; what the others did is kept."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where to do the units of a sweep.

    - `kind`: "serial", in this process, or "dask", by processes of their own; by default "dask"
      where one of the others is given.
    - `workers`: for Dask, their number, by default as many as this machine has cores, or 1 of a
      `cluster`.
    - `address`: of a Dask scheduler that runs already, in place of workers of one's own.
    - `cluster`: a class that starts one, by its full name, such as "dask_jobqueue.SLURMCluster",
      with `cluster_options` as keywords, scaled to `workers`.
    - `client`: a `dask.distributed.Client` of one's own.

    One of the four is given, or `workers` with `cluster`. Raises ValueError for others together,
    and where Dask is not installed.
    """

    kind: str = None  # type: ignore[assignment]
    workers: int | None = None
    address: str | None = None
    cluster: str | None = None
    cluster_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    client: Any = None

    def __post_init__(self):
        names = ("workers", "address", "cluster", "client")
        given = [name for name in names if getattr(self, name) is not None]
        if self.kind is None:
            object.__setattr__(self, "kind", "dask" if given else "serial")
        if self.kind == "serial" and given:
            raise ValueError("kind = 'serial': takes no workers, address, cluster or client")
        if not isinstance(self.cluster_options, dict):
            raise ValueError(f"cluster_options = {self.cluster_options!r}: must be a table")
        if len(given) > 1 and given != ["workers", "cluster"]:
            raise ValueError(f"{' and '.join(given)}: must be one of them only")
        if self.cluster_options and self.cluster is None:
            raise ValueError("cluster_options: must be with a cluster")
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r}: must be one of {', '.join(KINDS)}")
        if self.workers is not None and (
            isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 1
        ):
            raise ValueError(f"workers = {self.workers!r}: must be an integer of at least 1")
        if self.kind == "dask" and importlib.util.find_spec("distributed") is None:
            raise ValueError("kind = 'dask': Dask is not installed; pip install 'jaxlora[dask]'")

    def run(self, plan: Plan, units: Iterable[Unit], layout: Layout | None) -> Done:
        """Every unit with its arrays, as they get done; a serial engine takes them one by one.

        Raises LostWorkersError where a unit kills every worker that tries it, ValueError for a
        cluster that cannot be had.
        """
        if self.kind == "serial":
            return ((unit, do(plan, unit, layout)) for unit in units)
        return self._run_with_dask(plan, units, layout)

    def _run_with_dask(self, plan: Plan, units: Iterable[Unit], layout: Layout | None) -> Done:
        from distributed import KilledWorker, as_completed

        units = list(units)
        if not units:
            return
        with contextlib.ExitStack() as stack:
            client = self.client or stack.enter_context(self._own_client(stack))
            shared = settings()
            # As a task, which is done again where all that have its result die.
            there = client.submit(_identity, plan, pure=False)
            futures = {
                client.submit(_on_worker, there, unit, layout, shared, pure=False): unit
                for unit in units
            }
            for future in as_completed(list(futures)):
                try:
                    yield futures[future], future.result()
                except KilledWorker as error:
                    raise LostWorkersError(
                        f"{futures[future].name}: {error.allowed_failures + 1} workers died of it; "
                        "less memory is needed with a smaller chunk or fewer samples"
                    ) from error

    def _own_client(self, stack: contextlib.ExitStack) -> Any:
        from distributed import Client, LocalCluster

        if self.address is not None:
            try:
                return Client(self.address)
            except (OSError, ValueError) as error:
                raise ValueError(f"address = {self.address!r}: no scheduler answers") from error
        if self.cluster is not None:
            module, _, name = self.cluster.rpartition(".")
            try:
                cluster = getattr(importlib.import_module(module), name)(**self.cluster_options)
            except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
                raise ValueError(f"cluster = {self.cluster!r}: cannot be had: {error}") from error
            stack.enter_context(cluster)
            cluster.scale(self.workers or 1)
            return Client(cluster)
        # One task at a time: JAX uses several threads by itself. No port for a dashboard.
        cluster = LocalCluster(n_workers=self.workers, threads_per_worker=1, dashboard_address=":0")
        return Client(stack.enter_context(cluster))


def settings() -> dict[str, Any]:
    """JAX's settings that workers are to have too; a device by its platform and number."""
    found = {name: getattr(jax.config, name) for name in SETTINGS}
    device = getattr(jax.config, DEVICE)
    if device is not None:
        device = jax.devices(device)[0] if isinstance(device, str) else device
        found[DEVICE] = (device.platform, device.id)
    return found


def _identity(plan: Plan) -> Plan:
    return plan


def _on_worker(plan: Plan, unit: Unit, layout: Layout | None, shared: dict[str, Any]) -> Arrays:
    for name, value in shared.items():
        jax.config.update(name, _own_device(*value) if name == DEVICE else value)
    return do(plan, unit, layout)


def _own_device(platform: str, number: int) -> Any:
    """The device of this process that has the number, or the first of the platform."""
    try:
        devices = jax.local_devices(backend=platform)
    except RuntimeError as error:
        raise ValueError(f"device = {platform!r}: a worker of Dask does not have it") from error
    return next((device for device in devices if device.id == number), devices[0])
