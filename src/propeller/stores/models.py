"""What the model registry and the data store remember, as Protocols of their stores. No I/O here."""

from typing import Protocol

from propeller.fl.versions import ModelVersion, Proposal
from propeller.ports import BlobWriter


class ModelStore(Protocol):
    """The versions of named models and their content (safetensors bytes). Versions are immutable."""

    async def add(
        self, proposal: Proposal, content: bytes, *, state: bytes = b"", created_at_s: float
    ) -> tuple[ModelVersion, bool]:
        """Store durably where `fl.versions.place` says; False if the version was there already.

        `state` is kept with a new version: what its strategy wants back next time, empty if nothing.

        The first answer describes the version as stored. Raises what `place` raises.
        """
        ...

    def open_writer(self) -> BlobWriter:
        """A writer for content or state that arrives in pieces; what it commits, `adopt` takes."""
        ...

    async def file(self, digest: str) -> memoryview:
        """What a writer committed, as it lies there."""
        ...

    async def adopt(
        self, proposal: Proposal, content: str, *, state: str | None = None, created_at_s: float
    ) -> tuple[ModelVersion, bool]:
        """As `add`, of content and state that writers committed: their digests.

        A version that is refused leaves its files behind, which nothing refers to.
        """
        ...

    async def mapped(self, name: str, version: int) -> memoryview:
        """Its safetensors bytes where they lie, not verified; raises `NotFound`, `StorageBroken`."""
        ...

    async def find(self, name: str, version: int) -> ModelVersion | None:
        """The version, or None."""
        ...

    async def content(self, name: str, version: int) -> bytes:
        """Its safetensors bytes; raises `NotFound`, or `StorageBroken` if the disk lies."""
        ...

    async def state(self, name: str, version: int) -> bytes:
        """The strategy's state that was stored with it, empty if none was; raises `StorageBroken`."""
        ...

    async def state_mapped(self, name: str, version: int) -> memoryview:
        """The same, where it lies."""
        ...

    async def versions(self, name: str) -> tuple[int, ...]:
        """All version numbers of the model, ascending; empty for an unknown name."""
        ...

    async def names(self) -> tuple[str, ...]:
        """All models that have a version, in name order."""
        ...


class DatasetStore(Protocol):
    """One document per proplet: its own data set, as JSON bytes that the store does not read."""

    async def put(self, proplet_id: str, document: bytes) -> None:
        """Store durably, replacing what was there; a reader sees the old or the new document, whole."""
        ...

    async def put_if_absent(self, proplet_id: str, document: bytes) -> bool:
        """Store durably unless the proplet has a data set; False if it has."""
        ...

    async def get(self, proplet_id: str) -> bytes | None:
        """The document, or None; raises `StorageBroken` if the disk lies."""
        ...

    async def ids(self) -> tuple[str, ...]:
        """The proplets that have a data set, in id order."""
        ...
