"""An update as MQTT carries it: whole in one message, or if it is too large a manifest and pieces.

It sends nothing, and does not know what becomes of it.
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from propeller import limits
from propeller.ports import Message
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.records import Held
from propeller.wire.topics import Topics

_ENVELOPE_BYTES = 1024
"""What `update_b64` and its neighbours take beside the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large a message may be, and each piece of an update that does not fit into one (bytes)."""

    message: int = limits.MQTT_MESSAGE_BYTES_MAX
    piece: int = limits.UPDATE_PIECE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What is published first, and where the rest is, if there is any."""

    first: Message
    content: bytes | Path = b""
    pieces: int = 0
    pieces_topic: str = ""
    piece_bytes: int = 0

    def piece(self, place: int) -> Message:
        """One of the pieces. Blocks. Raises `AttemptFailed` if there is none at that place."""
        begin = place * self.piece_bytes
        if not 0 <= place < self.pieces:
            raise AttemptFailed(
                "update_undelivered", f"the coordinator wants piece {place} of an update of {self.pieces}"
            )
        return Message(self.pieces_topic, _read(self.content, begin, self.piece_bytes))


def parcel(
    held: Held, file: Path | None, *, round_id: str, proplet_id: str, topics: Topics, sizes: Sizes
) -> Parcel:
    """The update, whose tensors are in `file` if it has a format. Blocks.

    Raises `AttemptFailed` for one of more pieces than a manifest can name.
    """
    whole = _whole(held, file, sizes)
    if whole is not None:
        return Parcel(first=Message(topics.round_update(round_id, proplet_id), whole))
    content = held.update if file is None else file
    size = len(held.update) if file is None else file.stat().st_size
    count = -(-size // sizes.piece)
    if count > limits.UPDATE_PIECES_MAX:
        raise AttemptFailed(
            "update_undelivered",
            f"the update has {size} bytes, {count} pieces for MQTT, where {limits.UPDATE_PIECES_MAX} "
            "are the limit: choose a smaller format",
        )
    digests = [
        hashlib.sha256(_read(content, place * sizes.piece, sizes.piece)).hexdigest() for place in range(count)
    ]
    fields = {"bytes": size, "piece_bytes": sizes.piece, "sha256": digests}
    if file is not None:
        fields |= msgspec.json.decode(held.update, type=dict[str, msgspec.Raw]) | {"format": held.form}
    manifest = msgspec.json.encode(fields)
    if len(manifest) > limits.MQTT_MESSAGE_BYTES_MAX:
        raise AttemptFailed(
            "update_undelivered", f"the manifest of the update has {len(manifest)} bytes: too many metrics"
        )
    return Parcel(
        first=Message(topics.round_manifest(round_id, proplet_id), manifest),
        content=content,
        pieces=count,
        pieces_topic=topics.round_pieces(round_id, proplet_id),
        piece_bytes=sizes.piece,
    )


def _whole(held: Held, file: Path | None, sizes: Sizes) -> bytes | None:
    """The update in one message, if it fits."""
    update = held.update
    if file is not None:
        if file.stat().st_size * 4 // 3 + len(update) > sizes.message - _ENVELOPE_BYTES:
            return None
        fields = msgspec.json.decode(update, type=dict[str, msgspec.Raw])
        inside = {"format": held.form, "update_b64": base64.b64encode(file.read_bytes()).decode()}
        update = msgspec.json.encode({**fields, **inside})
    return update if len(update) <= sizes.message else None


def _read(content: bytes | Path, begin: int, size: int) -> bytes:
    if isinstance(content, bytes):
        return content[begin : begin + size]
    with content.open("rb") as file:
        file.seek(begin)
        return file.read(size)
