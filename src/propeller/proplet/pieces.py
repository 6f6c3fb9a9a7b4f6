"""Modules through the broker, in pieces, for a device that takes them so, or reaches nothing else.

It is `ports.Images`: wishes go to `B/registry/proplet`, and the manager, which alone may speak there, answers
all who asked on `B/registry/server`. A device takes its modules so because it was told to (`modules_by =
"mqtt"`, `mqtt_only`), never because HTTP failed. It must not know what a module is for.
"""

import asyncio
import base64
import binascii
import re
from collections import OrderedDict
from dataclasses import dataclass, field

from msgspec import UNSET

from propeller import limits
from propeller.errors import (
    DecodeError,
    EnvironmentError_,
    NotFound,
    PeerRefused,
    PeerUnavailable,
    TooLarge,
)
from propeller.ports import Blobs, Bus, ImageModule, Message
from propeller.proplet.ear import Ear
from propeller.proplet.offload import Offload, at_once, sha256_of
from propeller.proplet.place import Log
from propeller.wire import codec
from propeller.wire.messages import ImageChunk, ImageWish
from propeller.wire.topics import Topics

_LATER = frozenset(
    {"peer_unavailable", "no_broker", "registry_unavailable", "environment", "storage_io", "storage_full"}
)
"""Reasons of the manager that may pass."""
_PIECES_MAX = 10_000
"""Pieces of one module: ten kilobytes each of the largest."""
_PINNED = re.compile("@sha256:[0-9a-f]{64}$")
_PINS_MAX = 1024


@dataclass(slots=True)
class _Coming:
    """A module on its way: what has come of it."""

    total: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)
    size: int = 0

    @property
    def whole(self) -> bool:
        """Whether all pieces are there."""
        return self.total > 0 and len(self.pieces) == self.total

    def take(self, chunk: ImageChunk) -> None:
        """One more piece, in any order, perhaps again. Raises `DecodeError`, `TooLarge`."""
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
            raise TooLarge(f"module {chunk.app_name[:200]!r} is over {limits.GUEST_MODULE_BYTES_MAX} bytes")

    def content(self) -> bytes:
        """The pieces in order."""
        return b"".join(self.pieces[index] for index in range(self.total))


class BrokerImages:
    """`ports.Images` by the broker. What a pinned name meant is remembered, its bytes are in `kept`."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        ear: Ear,
        kept: Blobs | None,
        log: Log,
        offload: Offload = at_once,
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._ear = ear
        self._kept = kept
        self._log = log
        self._offload = offload
        self._flights: dict[str, tuple[asyncio.Task[bytes], int]] = {}
        """Modules that are being taken, and for how many callers: who asks for the same shares it."""
        self._pinned: OrderedDict[str, str] = OrderedDict()
        """SHA-256 of modules whose names have a digest, and so mean the same for ever."""

    async def fetch(self, reference: str) -> ImageModule:
        """See `ports.Images`: what the manager sends for the name that a start message gave the module.

        The manager has checked an image against its digest. Raises `PeerUnavailable` when nothing comes,
        `PeerRefused` with the manager's reason, `TooLarge`.
        """
        content = await self._held(reference)
        if content is None:
            content = await self._shared(reference)
        digest = self._pinned.get(reference) or await sha256_of(content, self._offload)
        return ImageModule(reference=reference, manifest_digest="", digest=digest, content=content)

    async def _held(self, name: str) -> bytes | None:
        if self._kept is None or name not in self._pinned:
            return None
        try:
            return await self._kept.get(self._pinned[name])
        except (NotFound, EnvironmentError_):
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
        coming = _Coming()
        async with self._ear.hearing(self._topics.image_chunks()) as heard:
            await self._come(name, coming, heard)
        content = coming.content()
        self._log.info("module taken by the broker", image=name, bytes=len(content), pieces=coming.total)
        if self._kept is not None and _PINNED.search(name):
            self._pinned[name] = await self._kept.put(content)
            while len(self._pinned) > _PINS_MAX:
                self._pinned.popitem(last=False)
        return content

    async def _come(self, name: str, coming: _Coming, heard: "asyncio.Queue[Message]") -> None:
        """Wish until all is there. Raises what the manager says, `PeerUnavailable` when it says nothing."""
        wish = Message(self._topics.image_wishes(), codec.encode(ImageWish(app_name=name)))
        await self._bus.publish(wish)
        quiet = 0
        while not coming.whole:
            try:
                async with asyncio.timeout(limits.IMAGE_QUIET_S if coming.pieces else limits.IMAGE_WISH_S):
                    while not self._took(name, coming, await heard.get()):
                        pass
                quiet = 0
            except TimeoutError:
                quiet += 1
                if quiet >= limits.IMAGE_WISHES_MAX:
                    raise PeerUnavailable(
                        f"the manager sends no module {name[:200]!r} by the broker: {len(coming.pieces)} of "
                        f"{coming.total or 'unknown'} pieces came in {quiet} wishes",
                        code="no_pieces",
                    ) from None
                await self._bus.publish(wish)

    def _took(self, name: str, coming: _Coming, message: Message) -> bool:
        """Whether this is a piece of that module; raises the manager's reason why there is none."""
        try:
            chunk = codec.decode(ImageChunk, message.payload, what="a piece of a module")
            if chunk.app_name != name:
                return False
            if chunk.error is not UNSET:
                kind = PeerUnavailable if chunk.failure in _LATER else PeerRefused
                raise kind(f"the manager cannot send {name[:200]!r}: {chunk.error}"[:500])
            coming.take(chunk)
        except DecodeError as error:
            self._log.warning("message ignored", topic=message.topic, reason=error.message)
            return False
        return True
