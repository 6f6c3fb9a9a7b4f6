"""Models and data sets: what the model registry and a site's data store keep. It reads neither."""

from collections.abc import Sequence
from typing import Any

import msgspec

from propeller import limits
from propeller.client.calls import Role, part
from propeller.fl.versions import GLOBAL_MODEL
from propeller.wire.models import (
    ArtifactView,
    EvaluationView,
    ModelPulled,
    ModelPushed,
    ModelStored,
    ObjectiveBody,
    PullModel,
    PushModel,
    StoreModel,
)


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version came from; `bytes` is its size as safetensors, `sha256` its content hash."""

    name: str
    version: int
    sha256: str
    parent: int | None = None
    round_id: str | None = None
    participants: list[str] = []
    metrics: dict[str, float] = {}
    """Those that came with the updates."""
    objective: ObjectiveBody | None = None
    """What its experiment stops by, if it names a metric."""
    evaluation: EvaluationView | None = None
    """What its last evaluation measured, if there was one."""
    created_at: str = ""
    bytes: int = 0
    artifacts: list[ArtifactView] = []
    deleted_at: str = ""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /models`: the versions of `global_model`, and every model's name."""

    versions: list[int]
    models: list[str] = []


class ModelVersions(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /models/{name}/versions`."""

    name: str
    versions: list[int]
    latest: int


class DatasetList(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /datasets`."""

    clients: list[str]
    count: int


class StoredDataset(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `POST /datasets/{id}`; `size` in rows."""

    proplet_id: str
    size: int


class Models:
    """`client.models`."""

    def __init__(self, registry: Role) -> None:
        self._registry = registry

    async def post(self, body: StoreModel) -> ModelStored:
        """Store a version; the same number with the same content again is no error."""
        return await self._registry.post(ModelStored, "/models", body)

    async def get(self, version: int, *, name: str = GLOBAL_MODEL) -> dict[str, Any]:
        """The bare model: tensor names and nested lists of numbers."""
        return await self._registry.get(dict[str, Any], _path(name, version))

    async def info(self, version: int, *, name: str = GLOBAL_MODEL) -> ModelInfo:
        """Where a version came from."""
        return await self._registry.get(ModelInfo, f"{_path(name, version)}/info")

    async def push(self, version: int | str, reference: str = "", *, name: str = GLOBAL_MODEL) -> ModelPushed:
        """Have a version pushed to an OCI registry; without a reference where all versions go."""
        body = PushModel(reference=reference)
        return await self._registry.post(
            ModelPushed, f"{_path(name, version)}/push", body, timeout_s=limits.HTTP_STREAM_S
        )

    async def pull(self, reference: str, *, name: str = "") -> ModelPulled:
        """Have an OCI registry's artefact made a version of a model, once."""
        body = PullModel(reference=reference, name=name)
        return await self._registry.post(ModelPulled, "/models/import", body, timeout_s=limits.HTTP_STREAM_S)

    async def delete(self, version: int | str, *, name: str = GLOBAL_MODEL) -> None:
        """Delete a version's content for ever; raises `Conflict` while anything needs it."""
        await self._registry.send("DELETE", _path(name, version))

    async def list(self) -> ModelList:
        """What the registry has."""
        return await self._registry.get(ModelList, "/models")

    async def versions(self, name: str = GLOBAL_MODEL) -> ModelVersions:
        """The version numbers of one model, ascending; raises `NotFound` for an unknown name."""
        return await self._registry.get(ModelVersions, f"/models/{part(name)}/versions")


class Datasets:
    """`client.datasets`."""

    def __init__(self, store: Role) -> None:
        self._store = store

    async def post(self, proplet_id: str, rows: Sequence[tuple[Sequence[float], float]]) -> StoredDataset:
        """Store `rows` of (features, label) as the proplet's data set, replacing what was there."""
        body = {"data": [{"x": list(x), "y": y} for x, y in rows]}
        return await self._store.post(StoredDataset, f"/datasets/{part(proplet_id)}", body)

    async def put(self, proplet_id: str, document: dict[str, Any]) -> StoredDataset:
        """Store a whole document, as `GET` shows one."""
        return await self._store.post(StoredDataset, f"/datasets/{part(proplet_id)}", document)

    async def get(self, proplet_id: str) -> dict[str, Any]:
        """The proplet's document: schema, ids, `data` and `size`."""
        return await self._store.get(dict[str, Any], f"/datasets/{part(proplet_id)}")

    async def list(self) -> DatasetList:
        """The proplets that have a data set."""
        return await self._store.get(DatasetList, "/datasets")


def _path(name: str, version: int | str) -> str:
    return f"/models/{part(name)}/versions/{version}"
