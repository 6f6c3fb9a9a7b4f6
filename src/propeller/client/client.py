"""The asynchronous client: one object per noun over one pool of connections. It holds no state of its own."""

from dataclasses import dataclass
from typing import Any, Self

from propeller import limits
from propeller.client.calls import Role
from propeller.client.data import Datasets, Models
from propeller.client.flows import Jobs, Workflows
from propeller.client.proplets import Proplets
from propeller.client.rounds import Rounds
from propeller.client.tasks import Tasks
from propeller.http.client import AiohttpHttp
from propeller.ports import HttpStreams
from propeller.wire.retention import RetentionView, Swept


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the roles answer; the defaults are those of `propeller up`."""

    manager: str = "http://localhost:7070"
    coordinator: str = "http://localhost:8086"
    aggregator: str = "http://localhost:8085"
    model_registry: str = "http://localhost:8084"
    data_store: str = "http://localhost:8083"
    registry: str = "http://localhost:5000"


class AsyncClient:
    """A running system. Use it as an async context manager, or `close()` it.

    `http` may be any `ports.HttpStreams`, in memory too; it is closed only if this client made it.
    """

    def __init__(self, endpoints: Endpoints | None = None, *, http: HttpStreams | None = None) -> None:
        where = endpoints or Endpoints()
        self._own = AiohttpHttp() if http is None else None
        used = http or self._own
        assert used is not None  # noqa: S101 - one of the two lines above made it
        self._roles = {
            "manager": Role(used, "manager", where.manager, "--manager-url"),
            "coordinator": Role(used, "coordinator", where.coordinator, "--coordinator-url"),
            "aggregator": Role(used, "aggregator", where.aggregator, "--aggregator-url"),
            "model-registry": Role(used, "model registry", where.model_registry, "--model-registry-url"),
            "data-store": Role(used, "data store", where.data_store, "--data-store-url"),
            "registry": Role(used, "OCI registry", where.registry, "--registry-url"),
        }
        self.tasks = Tasks(self._roles["manager"])
        self.proplets = Proplets(self._roles["manager"])
        self.jobs = Jobs(self._roles["manager"])
        self.workflows = Workflows(self._roles["manager"])
        self.fl = Rounds(self._roles["manager"], self._roles["coordinator"])
        self.models = Models(self._roles["model-registry"])
        self.datasets = Datasets(self._roles["data-store"])

    async def health(self, role: str = "manager") -> dict[str, Any]:
        """What the role's `GET /health` shows; an unwell role raises `PeerUnavailable`."""
        return await self._roles[role].get(dict[str, Any], "/health")

    async def retention(self, role: str) -> RetentionView:
        """What a role keeps, how long, and what it would delete now."""
        return await self._roles[role].get(RetentionView, "/retention")

    async def sweep(self, role: str) -> Swept:
        """Have a role delete now what its policy does not keep."""
        return await self._roles[role].post(Swept, "/retention/sweep", timeout_s=limits.HTTP_STREAM_S)

    async def aggregate(self, updates: list[dict[str, Any]]) -> dict[str, Any]:
        """The weighted mean of `updates`, each with `num_samples` and `update`, by the aggregator alone."""
        return await self._roles["aggregator"].post(dict[str, Any], "/aggregate", {"updates": updates})

    async def close(self) -> None:
        """Close the connections."""
        if self._own is not None:
            await self._own.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()
