"""Retained messages on disk, so that they outlive the embedded broker. Knows no connections and no rights.

One file per topic, named by the topic's SHA-256 and replaced whole: a line of JSON (topic, quality of
service), then the payload. Changes are written in a worker thread, in order; several of one topic that wait
become one. A message counts as kept when its file is there, which may be a moment after its delivery.
"""

import asyncio
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from propeller.errors import StorageBroken
from propeller.wire.filters import is_topic

_NEW = ".new"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """One retained message."""

    topic: str
    payload: bytes
    qos: int


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    topic: str
    qos: int


class RetainedStore:
    """The retained messages below one directory, which one broker at a time may use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: dict[str, Retained | None] = {}
        self._writer: asyncio.Task[None] | None = None

    def load(self) -> list[Retained]:
        """Every message kept. Raises `StorageBroken` naming a file that holds none."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for unfinished in self._directory.glob(f"*{_NEW}"):
            unfinished.unlink()
        return [_read(path) for path in sorted(self._directory.iterdir())]

    def keep(self, message: Retained) -> None:
        """Keep `message` in place of its topic's former one."""
        self._change(message.topic, message)

    def forget(self, topic: str) -> None:
        """Keep nothing for `topic`."""
        self._change(topic, None)

    async def close(self) -> None:
        """Return once every change is on disk."""
        if self._writer:
            await self._writer
            self._writer = None

    def _change(self, topic: str, message: Retained | None) -> None:
        self._waiting[topic] = message
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_waiting())

    async def _write_waiting(self) -> None:
        while self._waiting:
            changes, self._waiting = self._waiting, {}
            try:
                await asyncio.to_thread(_write, self._directory, changes)
            except OSError as error:
                log.error("retained messages of %d topics are not kept on disk: %s", len(changes), error)  # noqa: TRY400


def _read(path: Path) -> Retained:
    head, _, payload = path.read_bytes().partition(b"\n")
    try:
        decoded = msgspec.json.decode(head, type=_Head)
    except msgspec.MsgspecError as error:
        raise StorageBroken(
            f"{path} is not a retained message ({error}): remove it to go on without"
        ) from error
    if not is_topic(decoded.topic) or _name(decoded.topic) != path.name:
        raise StorageBroken(f"{path} holds another topic's retained message: remove it to go on without")
    return Retained(topic=decoded.topic, payload=payload, qos=decoded.qos)


def _write(directory: Path, changes: dict[str, Retained | None]) -> None:
    for topic, message in changes.items():
        path = directory / _name(topic)
        if message is None:
            path.unlink(missing_ok=True)
            continue
        temporary = path.with_name(path.name + _NEW)
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(_Head(topic=topic, qos=message.qos)) + b"\n" + message.payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _name(topic: str) -> str:
    return hashlib.sha256(topic.encode()).hexdigest()
