"""Inline modules: a task's `file`, base64 of Wasm, up to 100 MiB of it in one request. It stores nothing.

One call that reads a hundred megabytes holds the interpreter's lock for all of its time, in whatever thread.
So the long texts are cut out of a body before JSON is read, and base64 is read a piece at a time.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final, TypeVar, cast

import msgspec

from propeller import limits
from propeller.errors import BadInput, TooLarge
from propeller.wire import codec
from propeller.wire.flows import JobBody, WorkflowBody
from propeller.wire.tasks import TaskBody

Body = TypeVar("Body", bound=TaskBody | WorkflowBody | JobBody)

_WASM_MAGIC = b"\0asm"
_REDACT_OVER_CHARS = 20
_PIECE_CHARS = 256 * 1024
"""Read at once; a multiple of four, as base64 is read in groups of four."""
_KEY: Final = b'"file"'
_OPENING: Final = re.compile(rb'"file"[ \t\r\n]*:[ \t\r\n]*"')


def decode_body(kind: type[Body], data: bytes, what: str) -> Body:
    """A body with tasks from its JSON; a long one takes a while, so read it beside the loop.

    Raises what `codec.decode` raises.
    """
    short, texts = _cut(data)
    if not texts:
        return _decode(kind, data, what)
    body = _decode(kind, short, what)
    tasks = [body] if isinstance(body, TaskBody) else body.tasks or []
    if {task.file for task in tasks} >= set(texts):
        tasks = [_restored(task, texts) for task in tasks]
        whole = tasks[0] if isinstance(body, TaskBody) else msgspec.structs.replace(body, tasks=tasks)
        return cast("Body", whole)
    # A long `file` somewhere else, in metadata perhaps: it is nothing of ours, and stays where it is.
    return _decode(kind, data, what)


def _decode(kind: type[Body], data: bytes, what: str) -> Body:
    return codec.decode(kind, data, what=what, limit_bytes=limits.HTTP_BODY_BYTES_MAX, strict=True)


class LongText(str):
    """Base64 too long to be copied: stands in a body for the part of the request that holds it."""

    __slots__ = ("view",)
    view: memoryview


def _cut(data: bytes) -> tuple[bytes, dict[str, LongText]]:
    """The JSON with a mark for each long text under `file`, and those texts by their marks."""
    view, kept, copied = memoryview(data), bytearray(), 0
    texts: dict[str, LongText] = {}
    at = data.find(_KEY)
    while at >= 0:
        opening = _OPENING.match(data, at)
        end = data.find(b'"', opening.end()) if opening else -1
        if opening is None or end < 0:
            at = data.find(_KEY, at + 1)
            continue
        start = opening.end()
        # Text with an escape in it is left to the JSON reader.
        if end - start > limits.HTTP_JSON_OFFLOAD_BYTES and data.find(b"\\", start, end) < 0:
            text = LongText(f"<cut {len(texts)}>")
            text.view = view[start:end]
            texts[text] = text
            kept += view[copied:start]
            kept += text.encode()
            copied = end
        at = data.find(_KEY, end)
    return bytes(kept + view[copied:]) if texts else data, texts


def _restored(task: TaskBody, texts: Mapping[str, LongText]) -> TaskBody:
    """The task with its text where its mark is."""
    text = texts.get(task.file or "")
    return task if text is None else msgspec.structs.replace(task, file=text)


def is_long(file: str) -> bool:
    """Whether `decode_module` takes longer than a loop may be held."""
    return isinstance(file, LongText) or len(file) > limits.HTTP_JSON_OFFLOAD_BYTES


def decode_module(file: str) -> bytes:
    """The Wasm bytes of a base64 `file` field.

    Raises `TooLarge` over the limit, else `BadInput` for text that is not base64 or bytes without the Wasm
    magic: a mistake found here costs less than one found on a device.
    """
    text = file.view if isinstance(file, LongText) else file
    if len(text) > limits.TASK_FILE_BYTES_MAX * 4 // 3 + 4:
        raise TooLarge(f"file is over the limit of {limits.TASK_FILE_BYTES_MAX} bytes")
    pieces: list[bytes] = []
    try:
        for start in range(0, len(text), _PIECE_CHARS):
            if pieces and len(pieces[-1]) != _PIECE_CHARS // 4 * 3:
                raise BadInput("file is not standard base64: data after its padding", code="bad_file")
            pieces.append(binascii.a2b_base64(text[start : start + _PIECE_CHARS], strict_mode=True))
    except ValueError as error:
        raise BadInput(f"file is not standard base64: {error}", code="bad_file") from error
    return check_module(b"".join(pieces))


def check_module(content: bytes) -> bytes:
    """Return `content` if it begins as Wasm does, else raise `BadInput`."""
    if not content.startswith(_WASM_MAGIC):
        raise BadInput(
            "invalid WASM file: missing magic bytes (a module begins with 00 61 73 6d)", code="not_wasm"
        )
    return content


def redacted(content: bytes) -> str:
    """What a view shows of a module: its base64, of which a long one keeps ten characters at either end."""
    if len(content) <= _REDACT_OVER_CHARS * 3 // 4:
        return base64.b64encode(content).decode()
    aligned = 9 + (
        len(content) % 3 or 3
    )  # the last group of three bytes begins on a boundary of four characters
    begin, end = base64.b64encode(content[:9]), base64.b64encode(content[-aligned:])
    return f"{begin.decode()[:10]}<REDACTED>{end.decode()[-10:]}"
