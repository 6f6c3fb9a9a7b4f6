"""Model versions in memory: the twin of `model_store`, without a disk. It must not read a model."""

from collections.abc import Callable
from dataclasses import replace

from propeller import limits
from propeller.fl.versions import Artifact, Measured, ModelVersion, Proposal, place
from propeller.ports import BlobWriter
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.storage.model_store import unknown, version_of


class MemoryModelStore:
    """`stores.ModelStore` without a disk, for simulated worlds; one instance is one durable store."""

    def __init__(self) -> None:
        self._stored: dict[tuple[str, int], tuple[ModelVersion, bytes]] = {}
        self._states: dict[tuple[str, int], bytes] = {}
        self._artifacts: dict[tuple[str, int], dict[tuple[str, str], Artifact]] = {}
        self._blobs = MemoryBlobs()

    async def add(
        self, proposal: Proposal, content: bytes, *, state: bytes = b"", created_at_s: float
    ) -> tuple[ModelVersion, bool]:
        """See `stores.ModelStore`."""
        name = proposal.name
        found = place(
            proposal,
            of_round=self._first(lambda one: one.name == name and one.round_id == proposal.round_id)
            if proposal.round_id is not None
            else None,
            at_version=await self.find(name, proposal.version) if proposal.version is not None else None,
            latest=max((number for owner, number in self._stored if owner == name), default=None),
            parent_known=(name, proposal.parent) in self._stored,
        )
        if isinstance(found, ModelVersion):
            return found, False
        stored = version_of(proposal, found, len(content), created_at_s)
        self._stored[name, found] = (stored, bytes(content))
        self._states[name, found] = bytes(state)
        return stored, True

    def open_writer(self) -> BlobWriter:
        """See `stores.ModelStore`."""
        return self._blobs.open_writer(limits.MODEL_FILE_BYTES_MAX)

    async def file(self, digest: str) -> memoryview:
        """See `stores.ModelStore`."""
        return await self._blobs.mapped(digest)

    async def adopt(
        self,
        proposal: Proposal,
        content: str,
        *,
        state: str | None = None,
        created_at_s: float,
        pulled: Artifact | None = None,
    ) -> tuple[ModelVersion, bool]:
        """See `stores.ModelStore`."""
        held = b"" if state is None else await self._blobs.get(state)
        whole = await self._blobs.get(content)
        stored, new = await self.add(proposal, whole, state=held, created_at_s=created_at_s)
        if new and pulled is not None:
            await self.note(stored.name, stored.version, pulled)
        return stored, new

    async def mapped(self, name: str, version: int) -> memoryview:
        """See `stores.ModelStore`."""
        return memoryview(await self.content(name, version))

    async def state_mapped(self, name: str, version: int) -> memoryview:
        """See `stores.ModelStore`."""
        return memoryview(await self.state(name, version))

    async def find(self, name: str, version: int) -> ModelVersion | None:
        """See `stores.ModelStore`."""
        entry = self._stored.get((name, version))
        return None if entry is None else entry[0]

    async def content(self, name: str, version: int) -> bytes:
        """See `stores.ModelStore`."""
        entry = self._stored.get((name, version))
        if entry is None or entry[0].deleted_at_s is not None:
            raise unknown(name, version)
        return entry[1]

    async def state(self, name: str, version: int) -> bytes:
        """See `stores.ModelStore`."""
        return self._states.get((name, version), b"")

    async def versions(self, name: str) -> tuple[int, ...]:
        """See `stores.ModelStore`."""
        return tuple(one.version for one in self._kept() if one.name == name)

    async def names(self) -> tuple[str, ...]:
        """See `stores.ModelStore`."""
        return tuple(sorted({one.name for one in self._kept()}))

    async def records(self) -> list[ModelVersion]:
        """See `stores.ModelStore`."""
        return [self._stored[key][0] for key in sorted(self._stored)]

    async def delete(self, name: str, version: int, *, at_s: float) -> bool:
        """See `stores.ModelStore`."""
        entry = self._stored.get((name, version))
        if entry is None or entry[0].deleted_at_s is not None:
            return False
        self._stored[name, version] = (replace(entry[0], deleted_at_s=at_s), b"")
        self._states.pop((name, version), None)
        return True

    async def sweep(self) -> int:
        """See `stores.ModelStore`; what writers committed is copied here, so all of it may go."""
        return sum([await self._blobs.forget(blob) for blob in await self._blobs.digests()])

    async def evaluated(self, name: str, version: int, measured: Measured) -> ModelVersion:
        """See `stores.ModelStore`."""
        if (name, version) not in self._stored:
            raise unknown(name, version)
        known, content = self._stored[name, version]
        judged = known.evaluated(measured)
        self._stored[name, version] = (judged, content)
        return judged

    async def note(self, name: str, version: int, artifact: Artifact) -> None:
        """See `stores.ModelStore`."""
        if (name, version) not in self._stored:
            raise unknown(name, version)
        known = self._artifacts.setdefault((name, version), {})
        known[artifact.kind, artifact.reference] = artifact

    async def artifacts(self, name: str, version: int) -> tuple[Artifact, ...]:
        """See `stores.ModelStore`."""
        known = self._artifacts.get((name, version), {}).values()
        return tuple(sorted(known, key=lambda one: (one.at_s, one.kind, one.reference)))

    async def of_artifact(self, name: str, digest: str) -> ModelVersion | None:
        """See `stores.ModelStore`."""
        for one in reversed(self._kept()):
            known = self._artifacts.get((one.name, one.version), {}).values()
            if one.name == name and any(artifact.digest == digest for artifact in known):
                return one
        return None

    async def unpublished(self, target: str) -> list[tuple[str, int]]:
        """See `stores.ModelStore`."""
        waiting = [
            one
            for one in self._kept()
            if all(artifact.target != target for artifact in await self.artifacts(one.name, one.version))
        ]
        return [
            (one.name, one.version)
            for one in sorted(waiting, key=lambda one: (one.created_at_s, one.name, one.version))
        ]

    def _kept(self) -> list[ModelVersion]:
        found = (self._stored[key][0] for key in sorted(self._stored))
        return [one for one in found if one.deleted_at_s is None]

    def _first(self, wanted: Callable[[ModelVersion], bool]) -> ModelVersion | None:
        return next((version for version, _ in self._stored.values() if wanted(version)), None)
