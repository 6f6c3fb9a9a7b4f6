"""Models and modules for a proplet that reaches nothing but the broker: it listens, wishes, and collects.

Pieces come in any order, more than once, and for anybody who wished for them. What they make together is
checked against the manifest's hash before it is used. It runs nothing, and knows no tasks.
"""

import asyncio
import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from propeller import limits
from propeller.errors import BadInput, NotFound, PeerRefused, PeerUnavailable, PropellerError
from propeller.fl.model_ref import parse_model_ref
from propeller.ports import Blobs, Bus, Clock, ImageModule, Message, Response
from propeller.proplet.arrays import hash_safetensors
from propeller.proplet.ear import Ear
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.model import MODEL
from propeller.proplet.offload import Offload
from propeller.proplet.services import Patience
from propeller.wire import codec
from propeller.wire.messages import ImageChunk, ImageWish
from propeller.wire.rounds import ModelManifest, ModelWish
from propeller.wire.topics import Topics

WISH_S = 2.0
"""A wish that brought nothing for so long is said again."""
QUIET_S = 10.0
"""A module of which nothing comes for so long is not to be had now."""
WINDOW = 4
"""Pieces of a model that are wished for at once."""
_PASSING = frozenset({PeerUnavailable.code, "no_broker", "environment", "storage_full"})
"""Failures of a manager that may be over when it is asked again."""
_PINNED = re.compile("@sha256:[0-9a-f]{64}$")
_PINS_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ByBroker:
    """Fetches by the broker alone."""

    bus: Bus
    topics: Topics
    ear: Ear
    offload: Offload
    clock: Clock

    async def model(
        self, uri: str, patience: Patience, folder: Callable[[], Path] | None, *, as_file: bool = False
    ) -> str | Path:
        """The model's JSON as it is retained, or its safetensors file in what `folder` makes.

        The coordinator chooses by size, unless it is wanted `as_file`. Raises `AttemptFailed`.
        """
        try:
            ref = parse_model_ref(uri, "MODEL_URI")
        except BadInput as error:
            raise AttemptFailed("model", error.message) from error
        topic = self.topics.model_manifest(ref.uri) if as_file else self.topics.model(ref.uri)
        async with self.ear.hearing(topic, self.topics.model_chunk(ref.uri, "+")) as heard:
            found = await self._described(ref.uri, heard, patience, as_file=as_file)
            if isinstance(found, str):
                return found
            if folder is None:
                raise AttemptFailed("model", "this proplet has no directory for a model that comes as a file")
            path = folder() / MODEL
            await self._collect(found, heard, patience, path)
        if await self.offload(lambda: hash_safetensors(path)) != found.sha256:
            raise AttemptFailed("model", f"{ref.uri} came whole by the broker, and is not what it should be")
        return path

    async def _described(
        self, uri: str, heard: "asyncio.Queue[Message]", patience: Patience, *, as_file: bool
    ) -> str | ModelManifest:
        """The model itself if it is small, else its manifest; wished for if it is not retained."""
        topic = self.topics.model_manifest(uri) if as_file else self.topics.model(uri)
        tries = 0
        while True:
            if tries or as_file:
                await self._wish(ModelWish(model_uri=uri, as_file=as_file))
            tries += 1
            message = await _next(heard, WISH_S)
            if message is not None and message.topic == topic:
                return _model_or_manifest(message.payload, uri)
            if patience.left_s <= 0:
                raise AttemptFailed(
                    "model", f"nobody shows {uri} on {topic}, nor answers {tries} wishes for it"
                )

    async def _collect(
        self, manifest: ModelManifest, heard: "asyncio.Queue[Message]", patience: Patience, path: Path
    ) -> None:
        """Write the file's pieces as they come; patience begins anew with each."""
        _check(manifest)
        prefix = self.topics.model_chunk(manifest.model_uri, "")
        missing = dict.fromkeys(range(manifest.chunks))
        await self.offload(lambda: _make_room(path, manifest.bytes))
        give_up_s = self.clock.now().mono_s + max(patience.left_s, QUIET_S)
        while missing:
            window = set(list(missing)[:WINDOW])
            for chunk in sorted(window):
                await self._wish(ModelWish(model_uri=manifest.model_uri, chunk=chunk))
            while window & missing.keys() and (message := await _next(heard, WISH_S)) is not None:
                number = message.topic.removeprefix(prefix)
                if not number.isdecimal() or int(number) not in missing:
                    continue
                begin = int(number) * manifest.chunk_bytes
                if len(message.payload) != min(manifest.chunk_bytes, manifest.bytes - begin):
                    raise AttemptFailed("model", f"piece {number} of {manifest.model_uri} is not whole")
                await self.offload(_Piece(path, begin, message.payload))
                del missing[int(number)]
                give_up_s = max(give_up_s, self.clock.now().mono_s + limits.FETCH_S)
            if self.clock.now().mono_s >= give_up_s:
                raise AttemptFailed(
                    "model", f"{len(missing)} of {manifest.chunks} pieces of {manifest.model_uri} never came"
                )

    async def _wish(self, wish: ModelWish) -> None:
        await self.bus.publish(Message(self.topics.model_wishes(), codec.encode(wish)))

    async def module(self, name: str) -> bytes:
        """The module that a start message calls so, once.

        Raises `PeerUnavailable` if nobody sends it now, `PeerRefused` with the manager's reason.
        """
        parts: dict[int, bytes] = {}
        total, held, give_up_s = -1, 0, self.clock.now().mono_s + QUIET_S
        async with self.ear.hearing(self.topics.image_chunks()) as heard:
            wish = Message(self.topics.image_wishes(), codec.encode(ImageWish(app_name=name)))
            await self.bus.publish(wish)
            while len(parts) != total:
                message = await _next(heard, WISH_S)
                if message is None:
                    if self.clock.now().mono_s >= give_up_s:
                        raise PeerUnavailable(f"nobody sends {name[:200]!r} by the broker")
                    await self.bus.publish(wish)
                    continue
                chunk = codec.decode(ImageChunk, message.payload, what="a piece of a module")
                if chunk.app_name != name:
                    continue
                number, of, data = _image_piece(chunk)
                if of != total:
                    parts, total, held = {}, of, 0  # whoever sent before was another, and cut otherwise
                held += len(data) if number not in parts else 0
                if held > limits.GUEST_MODULE_BYTES_MAX:
                    raise PeerRefused(f"{name[:200]!r} is over {limits.GUEST_MODULE_BYTES_MAX} bytes")
                parts[number] = data
                give_up_s = self.clock.now().mono_s + QUIET_S
        return b"".join(parts[number] for number in range(total))


class BrokerImages:
    """`ports.Images` by the broker. What a pinned reference meant is remembered, its bytes in `modules`."""

    def __init__(self, by_broker: ByBroker, modules: Blobs | None) -> None:
        self._by_broker = by_broker
        self._modules = modules
        self._pinned: OrderedDict[str, str] = OrderedDict()

    async def fetch(self, reference: str) -> ImageModule:
        """The module. Raises `PeerUnavailable`, `PeerRefused`."""
        content = await self._kept(reference)
        if content is None:
            content = await self._by_broker.module(reference)
        digest = hashlib.sha256(content).hexdigest()
        if self._modules is not None and _PINNED.search(reference):
            await self._modules.put(content)
            self._pinned[reference] = digest
            while len(self._pinned) > _PINS_MAX:
                self._pinned.popitem(last=False)
        return ImageModule(reference=reference, manifest_digest="", digest=digest, content=content)

    async def _kept(self, reference: str) -> bytes | None:
        if self._modules is None or reference not in self._pinned:
            return None
        try:
            return await self._modules.get(self._pinned[reference])
        except (NotFound, PropellerError):
            return None


class NoHttp:
    """`ports.HttpStreams` of a proplet that has none: whoever asks has made a mistake of ours."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = limits.HTTP_TIMEOUT_S,
        limit_bytes: int = limits.HTTP_BODY_BYTES_MAX,
    ) -> Response:
        """Raises `PeerRefused`."""
        del headers, body, timeout_s, limit_bytes
        raise PeerRefused(f"{method} {url}: this proplet reaches nothing but the broker")

    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: AsyncIterator[bytes] | bytes = b"",
        sink: Callable[[bytes], Awaitable[object]],
        timeout_s: float = limits.HTTP_STREAM_S,
        limit_bytes: int = limits.MODEL_FILE_BYTES_MAX,
    ) -> Response:
        """Raises `PeerRefused`."""
        del headers, body, sink, timeout_s, limit_bytes
        raise PeerRefused(f"{method} {url}: this proplet reaches nothing but the broker")


async def _next(heard: "asyncio.Queue[Message]", wait_s: float) -> Message | None:
    """The next message, or None after a while without one."""
    try:
        async with asyncio.timeout(wait_s):
            return await heard.get()
    except TimeoutError:
        return None


def _model_or_manifest(payload: bytes, uri: str) -> str | ModelManifest:
    """A model has no text in it, so nothing is both."""
    try:
        return codec.decode(ModelManifest, payload, what=f"the manifest of {uri}", strict=True)
    except BadInput:
        try:
            return payload.decode()
        except UnicodeDecodeError as error:
            raise AttemptFailed("model", f"what is retained for {uri} is no UTF-8 text: {error}") from error


def _check(manifest: ModelManifest) -> None:
    size, piece = manifest.bytes, manifest.chunk_bytes
    if not (
        0 < size <= limits.MODEL_FILE_BYTES_MAX
        and 0 < piece <= limits.MQTT_MESSAGE_BYTES_MAX
        and manifest.chunks == -(-size // piece)
    ):
        raise AttemptFailed(
            "model", f"the manifest of {manifest.model_uri} is none: {size} bytes, pieces of {piece}"
        )


def _make_room(path: Path, size: int) -> None:
    try:
        with path.open("wb") as file:
            file.truncate(size)
    except OSError as error:
        raise AttemptFailed("model", f"no room for a model of {size} bytes: {error}") from error


@dataclass(frozen=True, slots=True)
class _Piece:
    """Puts a piece of a file into its place."""

    path: Path
    begin: int
    content: bytes

    def __call__(self) -> None:
        try:
            with self.path.open("r+b") as file:
                file.seek(self.begin)
                file.write(self.content)
        except OSError as error:
            raise AttemptFailed("model", f"cannot write {self.path}: {error}") from error


def _image_piece(chunk: ImageChunk) -> tuple[int, int, bytes]:
    """Which piece of how many this is, and its bytes. Raises the manager's reason why there is none."""
    if isinstance(chunk.error, str) and chunk.error:
        failed = PeerUnavailable if chunk.failure in _PASSING else PeerRefused
        raise failed(f"the manager cannot send {chunk.app_name[:200]!r}: {chunk.error}")
    number, of, data = chunk.chunk_idx, chunk.total_chunks, chunk.data
    if not (isinstance(number, int) and isinstance(of, int) and isinstance(data, str) and number < of):
        raise PeerRefused(f"a piece of {chunk.app_name[:200]!r} says neither which it is nor why not")
    try:
        return number, of, base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise PeerRefused(f"a piece of {chunk.app_name[:200]!r} is not base64: {error}") from error
