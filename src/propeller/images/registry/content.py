"""What the registry asks of a blob store beyond `ports.Blobs`: writing in pieces and reading in ranges.

Structural: any store with these methods serves. Digests here are 64 hex digits of SHA-256, as in
`ports.Blobs`.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from propeller.ports import Blobs


class ContentWriter(Protocol):
    """One blob being written, in pieces. `commit` or `abort` ends it; `abort` after an end is harmless."""

    @property
    def size(self) -> int:
        """How many bytes have been written."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Append; raises `TooLarge` over the writer's limit, `StorageFull`."""
        ...

    async def commit(self, expected: str | None = None) -> str:
        """Store durably and return the digest; if it is not `expected`, `Conflict`, and nothing is kept."""
        ...

    async def abort(self) -> None:
        """Drop what was written."""
        ...


class ContentStore(Blobs, Protocol):
    """A blob store that need not hold a blob in memory."""

    def open_writer(self, limit_bytes: int) -> ContentWriter:
        """Begin a blob of at most `limit_bytes`."""
        ...

    def read_chunks(self, digest: str) -> AsyncIterator[bytes]:
        """The content in pieces; raises `NotFound`, and `StorageBroken` at the end if the disk lied."""
        ...

    async def digests(self) -> list[str]:
        """Everything stored."""
        ...
