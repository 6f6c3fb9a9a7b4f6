"""Modules through the broker, in pieces, for a device that reaches nothing else.

It is a bus around the real one, from which it keeps the pieces back, and `ports.Images` to whoever needs a
module: wishes go to `B/registry/proplet`, and the manager, which alone may speak there, answers all who asked
on `B/registry/server`. A device takes its modules so because it was told to (`modules_by = "mqtt"`), never
because HTTP failed. It must not know what a module is for.
"""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from msgspec import UNSET

from propeller import limits
from propeller.errors import DecodeError, NotFound, PeerRefused, PeerUnavailable, StorageBroken, TooLarge
from propeller.ports import Blobs, Bus, BusSession, ImageModule, Message
from propeller.proplet.place import Log
from propeller.wire import codec
from propeller.wire.messages import ImageChunk, ImageWish
from propeller.wire.topics import Topics

LATER = frozenset({"peer_unavailable", "no_broker", "storage_io", "registry_unavailable"})
"""Reasons of the manager that may pass."""
_PIECES_MAX = 10_000
"""Pieces of one module: ten kilobytes each of the largest."""
_NAMES_MAX = 256


@dataclass(slots=True)
class _Coming:
    """A module on its way: what has come, and who waits for it."""

    total: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    failure: PeerUnavailable | PeerRefused | TooLarge | None = None

    @property
    def whole(self) -> bool:
        """Whether all pieces are there."""
        return self.total > 0 and len(self.pieces) == self.total

    def take(self, chunk: ImageChunk) -> None:
        """One more piece, in any order, perhaps again. Raises `DecodeError`."""
        index, total, data = chunk.chunk_idx, chunk.total_chunks, chunk.data
        if index is UNSET or total is UNSET or data is UNSET or not index < total <= _PIECES_MAX:
            raise DecodeError(f"piece {index} of {total} of module {chunk.app_name[:200]!r} cannot be")
        if total != self.total:
            # Another cut than before: what is there does not fit any more.
            self.total, self.size = total, 0
            self.pieces.clear()
        if index not in self.pieces:
            try:
                self.pieces[index] = base64.b64decode(data, validate=True)
            except (binascii.Error, ValueError) as error:
                raise DecodeError(f"a piece of module {chunk.app_name[:200]!r} is not base64") from error
            self.size += len(self.pieces[index])
        if self.size > limits.GUEST_MODULE_BYTES_MAX:
            self.failure = TooLarge(
                f"module {chunk.app_name[:200]!r} is over {limits.GUEST_MODULE_BYTES_MAX} bytes"
            )
        self.moved.set()

    def content(self) -> bytes:
        """The pieces in order."""
        return b"".join(self.pieces[index] for index in range(self.total))


class ByBroker:
    """`ports.Bus` over another one, and `ports.Images` by it. `kept` holds modules by their SHA-256."""

    def __init__(self, bus: Bus, topics: Topics, kept: Blobs, log: Log) -> None:
        self._bus = bus
        self._topics = topics
        self._kept = kept
        self._log = log
        self._coming: dict[str, _Coming] = {}
        self._flights: dict[str, tuple[asyncio.Task[bytes], int]] = {}
        """Modules that are being taken, and for how many callers: who asks for the same shares it."""
        self._known: dict[str, str] = {}
        """SHA-256 of modules whose names have a digest, and so mean the same for ever."""

    async def run(
        self,
        session: BusSession,
        on_message: Callable[[Message], Awaitable[None]],
        on_connect: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """See `ports.Bus`."""
        pieces = self._topics.image_chunks()

        async def heard(message: Message) -> None:
            if message.topic == pieces:
                self._heard(message.payload)
            else:
                await on_message(message)

        self._log.info("modules come by the broker", topic=pieces)
        wider = replace(session, subscriptions=(*session.subscriptions, pieces))
        await self._bus.run(wider, heard, on_connect)

    async def publish(self, message: Message) -> bool:
        """See `ports.Bus`."""
        return await self._bus.publish(message)

    async def subscribe(self, *filters: str) -> None:
        """See `ports.Bus`."""
        await self._bus.subscribe(*filters)

    async def unsubscribe(self, *filters: str) -> None:
        """See `ports.Bus`."""
        await self._bus.unsubscribe(*filters)

    async def fetch(self, reference: str) -> ImageModule:
        """See `ports.Images`: what the manager sends for the name that a start message gave the module.

        The manager has checked an image against its digest. Raises `PeerUnavailable` when nothing comes.
        """
        content = await self._held(reference)
        if content is None:
            content = await self._shared(reference)
        digest = hashlib.sha256(content).hexdigest()
        return ImageModule(reference=reference, manifest_digest="", digest=digest, content=content)

    async def _held(self, name: str) -> bytes | None:
        digest = self._known.get(name)
        try:
            return await self._kept.get(digest) if digest else None
        except (NotFound, StorageBroken):
            return None

    async def _shared(self, name: str) -> bytes:
        flight, callers = self._flights.get(name) or (asyncio.ensure_future(self._wished(name)), 0)
        self._flights[name] = flight, callers + 1
        try:
            return await asyncio.shield(flight)
        finally:
            held, callers = self._flights.pop(name)
            if callers > 1:
                self._flights[name] = held, callers - 1
            else:
                held.cancel()

    async def _wished(self, name: str) -> bytes:
        coming = self._coming[name] = _Coming()
        try:
            await self._come(name, coming)
        finally:
            self._coming.pop(name, None)
        content = coming.content()
        self._log.info("module taken by the broker", image=name, bytes=len(content), pieces=coming.total)
        if "@sha256:" in name:
            while len(self._known) >= _NAMES_MAX:
                del self._known[next(iter(self._known))]
            self._known[name] = await self._kept.put(content)
        return content

    async def _come(self, name: str, coming: _Coming) -> None:
        """Wish until all is there. Raises what the manager says, `PeerUnavailable` when it says nothing."""
        quiet = 0
        wish = Message(self._topics.image_wishes(), codec.encode(ImageWish(app_name=name)))
        while not coming.whole:
            coming.moved.clear()
            if not coming.pieces or quiet:
                await self._bus.publish(wish)
            try:
                async with asyncio.timeout(limits.IMAGE_QUIET_S):
                    await coming.moved.wait()
                quiet = 0
            except TimeoutError:
                quiet += 1
            if coming.failure is not None:
                raise coming.failure
            if quiet >= limits.IMAGE_WISHES_MAX:
                raise PeerUnavailable(
                    f"the manager sends no module {name[:200]!r} by the broker: {len(coming.pieces)} of "
                    f"{coming.total or 'unknown'} pieces came in {quiet} wishes",
                    code="no_pieces",
                )

    def _heard(self, payload: bytes) -> None:
        """A piece, or why there is none; of modules that nobody here waits for neither matters."""
        try:
            chunk = codec.decode(ImageChunk, payload, what="a piece of a module")
            coming = self._coming.get(chunk.app_name)
            if coming is None:
                return
            if chunk.error is not UNSET:
                kind = PeerUnavailable if chunk.failure in LATER else PeerRefused
                coming.failure = kind(f"the manager says: {chunk.error}"[:500])
                coming.moved.set()
            else:
                coming.take(chunk)
        except DecodeError as error:
            self._log.warning("message ignored", topic=self._topics.image_chunks(), reason=error.message)
