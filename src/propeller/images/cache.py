"""The image cache: manifests and layers kept by digest, so that what was fetched once needs no network again.

A tag is resolved anew at every fetch, because it may have moved; if its registry cannot be reached that is
`PeerUnavailable`, never a guess at what the tag was. It must not know tasks, and deletes nothing but
damaged content: how much is kept is the blob store's business.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Generic, TypeVar

from propeller import limits
from propeller.core.recent import Recent
from propeller.errors import NotFound, StorageBroken
from propeller.images.client import OciImages
from propeller.images.digest import hex_of
from propeller.images.manifest import Descriptor
from propeller.images.reference import ModuleUrl, Reference
from propeller.images.source import Offload, StoredManifest, take_module
from propeller.ports import Blobs, ImageModule

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Concurrent calls for one key share one piece of work; it is cancelled when the last caller gives up."""

    def __init__(self) -> None:
        self._flights: dict[str, tuple[asyncio.Task[T], int]] = {}

    async def run(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work()`, or of the same key's work that is under way."""
        task, callers = self._flights.get(key) or (asyncio.ensure_future(_await(work)), 0)
        self._flights[key] = (task, callers + 1)
        try:
            return await asyncio.shield(task)
        finally:
            self._leave(key, task)

    def _leave(self, key: str, task: "asyncio.Task[T]") -> None:
        held, callers = self._flights[key]
        if callers > 1:
            self._flights[key] = (held, callers - 1)
            return
        del self._flights[key]
        task.cancel()


async def _await(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


class CachedImages:
    """`ports.Images` over an `OciImages` and a blob store of its own."""

    def __init__(self, inner: OciImages, blobs: Blobs, *, offload: Offload = asyncio.to_thread) -> None:
        self._inner = inner
        self._blobs = blobs
        self._offload = offload
        self._flights: SingleFlight[ImageModule] = SingleFlight()
        # By the digest of what names them: what runs again is read and checked no more.
        self._recent: Recent[ImageModule] = Recent(limits.MODULES_RECENT_BYTES)

    async def fetch(self, reference: str) -> ImageModule:
        """Resolve and fetch; concurrent fetches of one reference are one. Plain URLs are not kept."""
        image = self._inner.parse(reference)
        return await self._flights.run(str(image), lambda: self._fetch(image))

    async def pin(self, reference: str) -> str:
        """The digest that a reference means now (`ports.ImageTags`): always the registry's word."""
        return await self._inner.pin(reference)

    async def resolve(self, reference: Reference) -> str:
        """The digest that a reference means now."""
        return await self._inner.resolve(reference)

    async def manifest(self, reference: Reference) -> StoredManifest:
        """A manifest (`ImageSource`): by tag, the registry says which; its bytes from the cache if there."""
        digest = await self._inner.resolve(reference)
        held = await self._held(digest)
        if held is not None:
            return StoredManifest(digest, held, "")
        found = await self._inner.manifest(reference.with_digest(digest))
        await self._keep(digest, found.content)
        return found

    async def blob(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A blob (`ImageSource`), from the cache if it has it."""
        held = await self._held(descriptor.digest)
        if held is not None:
            return held
        content = await self._inner.blob(reference, descriptor)
        await self._keep(descriptor.digest, content)
        return content

    async def _fetch(self, image: Reference | ModuleUrl) -> ImageModule:
        if isinstance(image, ModuleUrl):
            return await self._inner.download(image)
        digest = await self._inner.resolve(image)
        known = self._recent.get(digest)
        if known is None:
            known = await take_module(self, image.with_digest(digest), self._offload)
            self._recent.put(digest, known, len(known.content))
        return replace(known, reference=str(image))

    async def _held(self, digest: str) -> bytes | None:
        key = hex_of(digest)
        if key is None:
            return None
        try:
            return await self._blobs.get(key)
        except NotFound:
            return None
        except StorageBroken:
            # A cache may always be thrown away: the registry still has what this disk has damaged.
            await self._blobs.delete(key)
            return None

    async def _keep(self, digest: str, content: bytes) -> None:
        if hex_of(digest) is not None:
            await self._blobs.put(content)
