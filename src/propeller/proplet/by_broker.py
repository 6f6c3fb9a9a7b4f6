"""Models for a proplet that reaches nothing but the broker: it listens, wishes, and collects.

Pieces come in any order, more than once, and for anybody who wished for them. What they make together is
checked against the manifest's hash before it is used. It runs nothing, and knows no tasks.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from propeller import limits
from propeller.errors import BadInput, PeerRefused
from propeller.fl.model_ref import parse_model_ref
from propeller.ports import Bus, Clock, Message, Response
from propeller.proplet.arrays import hash_safetensors
from propeller.proplet.ear import Ear
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.model import MODEL
from propeller.proplet.offload import Offload
from propeller.proplet.services import Patience
from propeller.wire import codec
from propeller.wire.rounds import ModelManifest, ModelWish
from propeller.wire.topics import Topics

WISH_S = 2.0
"""A wish that brought nothing for so long is said again."""
QUIET_S = 10.0
"""A model that is coming has at least so long, however little patience is left."""
WINDOW = 4
"""Pieces of a model that are wished for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByBroker:
    """Fetches models by the broker alone."""

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
                await self.offload(partial(_write, path, begin, message.payload))
                del missing[int(number)]
                give_up_s = max(give_up_s, self.clock.now().mono_s + limits.FETCH_S)
            if self.clock.now().mono_s >= give_up_s:
                raise AttemptFailed(
                    "model", f"{len(missing)} of {manifest.chunks} pieces of {manifest.model_uri} never came"
                )

    async def _wish(self, wish: ModelWish) -> None:
        await self.bus.publish(Message(self.topics.model_wishes(), codec.encode(wish)))


class NoHttp:
    """`ports.HttpStreams` of a proplet that has none: whoever asks has made a mistake of ours."""

    async def request(self, method: str, url: str, **_: object) -> Response:
        """Raises `PeerRefused`."""
        raise PeerRefused(f"{method} {url}: this proplet reaches nothing but the broker")

    stream = request


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


def _write(path: Path, begin: int, piece: bytes) -> None:
    """Put a piece of a file into its place."""
    try:
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(piece)
    except OSError as error:
        raise AttemptFailed("model", f"cannot write {path}: {error}") from error
