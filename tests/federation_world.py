"""The federation's services over memory, for the tests of their routes: no sockets, threads or disk."""

import json

from propeller.federation.aggregator import app as aggregator
from propeller.federation.data_store import app as data_store
from propeller.federation.model_registry import app as model_registry
from propeller.federation.offload import inline
from propeller.http.memory import MemoryHttp
from propeller.ports import Instant
from propeller.storage.dataset_store import MemoryDatasetStore
from propeller.storage.model_memory import MemoryModelStore


class StoppedClock:
    """Always the same moment."""

    def now(self):
        """2026-01-02T03:04:05Z."""
        return Instant(0.0, 1767323045.0)


class Services:
    """The three services; `ask` is one request with a JSON body."""

    def __init__(self, *, credentials=None, offload=inline):
        self.models, self.datasets, self.http = MemoryModelStore(), MemoryDatasetStore(), MemoryHttp()
        self.offload = offload
        self.http.register("http://aggregator", aggregator.build(offload=offload))
        self.start_registry()
        self.http.register(
            "http://data",
            data_store.build(store=self.datasets, offload=offload, credentials=credentials),
        )

    def start_registry(self):
        """Have a model registry answer, over the models that are there."""
        registry = model_registry.build(store=self.models, clock=StoppedClock(), offload=self.offload)
        self.http.register("http://registry", registry)

    async def seed(self):
        """What a first start makes."""
        await model_registry.seed(self.models, StoppedClock())

    async def raw(self, method, url, body=b"", **headers):
        """The answer to a request of bytes."""
        return await self.http.request(method, url, body=body, headers=headers)

    async def ask(self, method, url, body=None, **headers):
        """Status and decoded body; `body` is sent as JSON."""
        sent = b"" if body is None else json.dumps(body).encode()
        answer = await self.raw(method, url, sent, **headers)
        return answer.status, json.loads(answer.body)
