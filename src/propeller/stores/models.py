"""What the model registry and the data store remember, as Protocols of their stores. No I/O here."""

from typing import Protocol

from propeller.fl.versions import Artifact, Measured, ModelVersion, Proposal
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
        self,
        proposal: Proposal,
        content: str,
        *,
        state: str | None = None,
        created_at_s: float,
        pulled: Artifact | None = None,
    ) -> tuple[ModelVersion, bool]:
        """As `add`, of content and state that writers committed: their digests.

        A version that is refused leaves its files behind, which nothing refers to. That a new version was
        `pulled` is written down with it, so that it is not pulled twice.
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

    async def records(self) -> list[ModelVersion]:
        """Every version of every model by name and number, the deleted ones too."""
        ...

    async def delete(self, name: str, version: int, *, at_s: float) -> bool:
        """Delete content and state for ever; False if there is none. The record stays, with its number.

        The row goes first and files after it: a crash between leaves a file that nothing names, which
        `sweep` finds, and never a version without its file.
        """
        ...

    async def sweep(self) -> int:
        """Delete files that no version names and nobody is storing, and say how many."""
        ...

    async def evaluated(self, name: str, version: int, measured: Measured) -> ModelVersion:
        """Write down what an evaluation found, in place of the last one; the same one again changes nothing.

        Raises `NotFound`.
        """
        ...

    async def note(self, name: str, version: int, artifact: Artifact) -> None:
        """Write down that a version is in an OCI registry; again is fine. Raises `NotFound`."""
        ...

    async def artifacts(self, name: str, version: int) -> tuple[Artifact, ...]:
        """Where a version is in OCI registries, oldest first."""
        ...

    async def of_artifact(self, name: str, digest: str) -> ModelVersion | None:
        """The version of model `name` that the artefact of this digest is, or None."""
        ...

    async def unpublished(self, target: str) -> list[tuple[str, int]]:
        """Name and number of every version that was not pushed for `target`, oldest first."""
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

    async def digest(self, proplet_id: str) -> str | None:
        """The document's SHA-256 in hex, or None; a large document is not read for it."""
        ...

    async def ids(self) -> tuple[str, ...]:
        """The proplets that have a data set, in id order."""
        ...
