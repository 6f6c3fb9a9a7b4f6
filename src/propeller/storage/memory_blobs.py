"""The blob store's twin in memory: the same promises without a disk or a thread."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Self

from propeller import limits
from propeller.errors import NotFound
from propeller.ports import BlobWriter
from propeller.storage.blobs import CHUNK_BYTES, check_digest, check_expected, check_writable


class MemoryBlobs:
    """`ports.Blobs` in a dictionary. It survives a simulated crash: keep the object and hand it on."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._stored_s: dict[str, float] = {}
        """When each was stored last, by the loop's clock."""

    async def put(self, content: bytes) -> str:
        """Store and return the digest."""
        digest = hashlib.sha256(content).hexdigest()
        self._contents[digest] = bytes(content)
        self._stored_s[digest] = asyncio.get_running_loop().time()
        return digest

    async def get(self, digest: str) -> bytes:
        """The content; raises `NotFound`."""
        try:
            return self._contents[check_digest(digest)]
        except KeyError as error:
            raise NotFound(f"no blob {digest}") from error

    async def has(self, digest: str) -> bool:
        """Whether `get` would find it."""
        return check_digest(digest) in self._contents

    async def size(self, digest: str) -> int:
        """Its length in bytes; raises `NotFound`."""
        return len(await self.get(digest))

    async def delete(self, digest: str) -> None:
        """Forget it; absent is fine."""
        self._contents.pop(check_digest(digest), None)

    async def forget(self, digest: str, *, idle_s: float = limits.BLOB_IDLE_S) -> bool:
        """Delete it unless it was stored within `idle_s`; whether it was there and is gone."""
        at_s = self._stored_s.get(digest, -idle_s)
        if digest not in self._contents or asyncio.get_running_loop().time() - at_s < idle_s:
            return False
        del self._contents[digest]
        return True

    async def read_chunks(self, digest: str, chunk_bytes: int = CHUNK_BYTES) -> AsyncIterator[bytes]:
        """The content in pieces; raises `NotFound`."""
        content = await self.get(digest)
        for start in range(0, len(content), chunk_bytes):
            yield content[start : start + chunk_bytes]

    async def mapped(self, digest: str) -> memoryview:
        """The content; raises `NotFound`."""
        return memoryview(await self.get(digest))

    def file_of(self, digest: str) -> None:
        """No file holds it."""
        del digest

    async def digests(self) -> list[str]:
        """Everything stored, in order."""
        return sorted(self._contents)

    def open_writer(self, limit_bytes: int = limits.HTTP_BODY_BYTES_MAX) -> BlobWriter:
        """A writer for content that arrives in pieces."""
        return _MemoryWriter(self, limit_bytes)

    async def clear_unfinished(self) -> None:
        """Nothing half written outlives its writer here."""


class _MemoryWriter:
    """`BlobWriter` over a byte array."""

    def __init__(self, blobs: MemoryBlobs, limit_bytes: int) -> None:
        self._blobs = blobs
        self._limit_bytes = limit_bytes
        self._content = bytearray()
        self._ended = False

    @property
    def size(self) -> int:
        return len(self._content)

    async def write(self, chunk: bytes) -> None:
        check_writable(self.size + len(chunk), self._limit_bytes, ended=self._ended)
        self._content += chunk

    async def commit(self, expected: str | None = None) -> str:
        check_writable(self.size, self._limit_bytes, ended=self._ended)
        self._ended = True
        check_expected(hashlib.sha256(self._content).hexdigest(), expected)
        return await self._blobs.put(bytes(self._content))

    async def abort(self) -> None:
        self._ended = True
        self._content.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.abort()
