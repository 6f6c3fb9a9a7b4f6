"""An aggregation whose updates lie in files: they are mapped, folded into one new file, and never copied.

`Sources` turns references into paths: files on a disk that both sides see, if they lie where this aggregator
may look, else downloads into a folder of its own, verified as they come. `fold_files` is the work; it is pure
but for reading those files and making the answer's. Neither knows rounds or participants' rights.
"""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from propeller import limits
from propeller.errors import BadInput, Denied, EnvironmentError_, NotFound, PeerRefused
from propeller.fl.aggregation import aggregate, state_like
from propeller.fl.strategies.base import Contribution, check_samples
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensor_files import layout_of, room, view
from propeller.fl.tensors import EMPTY, Tensors
from propeller.ports import HttpStreams
from propeller.wire.models import SAFETENSORS, AggregateFiles, Source

_FOUND: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where an aggregator may take files from, and how."""

    roots: tuple[Path, ...] = ()
    """Folders on this disk whose files it may map."""
    origins: tuple[str, ...] = ()
    """`scheme://host:port` of the services that it may download from."""
    http: HttpStreams | None = None
    scratch: Path | None = None
    """Where downloads wait for their fold; the system's own place if not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The references of one request as paths, in the order of its updates."""

    updates: tuple[Path, ...]
    base: Path | None = None
    state: Path | None = None


class Sources:
    """Finds what a request refers to. Use as a context: its downloads are gone at the end."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    async def find(self, asked: AggregateFiles) -> Files:
        """The files of `asked`. Raises `Denied`, `NotFound`, `BadInput`, `PeerRefused`, `PeerUnavailable`."""
        return Files(
            updates=tuple(
                [await self._one(one, f"the update of {one.participant!r}") for one in asked.updates]
            ),
            base=None if asked.base is None else await self._one(asked.base, "the base"),
            state=None if asked.state is None else await self._one(asked.state, "the state"),
        )

    async def _one(self, source: Source, what: str) -> Path:
        if source.bytes > limits.MODEL_FILE_BYTES_MAX:
            raise BadInput(
                f"{what} is {source.bytes} bytes; the limit is {limits.MODEL_FILE_BYTES_MAX}",
                code="too_large",
            )
        parts = urlsplit(source.url)
        if parts.scheme == "file" and not parts.netloc:
            return self._local(Path(unquote(parts.path)), source, what)
        return await self._download(f"{parts.scheme}://{parts.netloc}", source, what)

    def _local(self, path: Path, source: Source, what: str) -> Path:
        # Resolved first: a link or `..` must not lead out of the folders that are allowed.
        path = path.resolve()
        if not any(path.is_relative_to(root.resolve()) for root in self._reach.roots):
            raise Denied(f"{what} is at {source.url[:200]}, where this aggregator may not read")
        try:
            size = path.stat().st_size
        except OSError as error:
            raise NotFound(f"{what} is not at {source.url[:200]}", code="missing_file") from error
        if size != source.bytes:
            raise BadInput(f"{what} has {size} bytes, not {source.bytes}", code="wrong_file")
        return path

    async def _download(self, origin: str, source: Source, what: str) -> Path:
        if self._reach.http is None or origin not in self._reach.origins:
            raise Denied(
                f"{what} is at {origin[:100]}, where this aggregator may not go; start it with the URLs of "
                "the coordinator and the model registry"
            )
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="propeller-fold-", dir=self._reach.scratch)
        descriptor, name = tempfile.mkstemp(dir=self._folder.name)
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "wb") as file:

            async def keep(piece: bytes) -> None:
                digest.update(piece)
                file.write(piece)

            answer = await self._reach.http.stream(
                "GET", source.url, headers={"accept": SAFETENSORS}, sink=keep, limit_bytes=source.bytes
            )
        if answer.status != _FOUND:
            raise PeerRefused(f"{what}: {origin} answered {answer.status}", status=answer.status)
        if source.sha256 and digest.hexdigest() != source.sha256:
            raise PeerRefused(f"{what} came with sha256 {digest.hexdigest()}, not {source.sha256}")
        return Path(name)


@dataclass(frozen=True, slots=True)
class FoldedFiles:
    """The answer: the model's file and then the state's, in one mapping that goes with its last view."""

    content: memoryview
    model_bytes: int


def fold_files(asked: AggregateFiles, files: Files, threads: int) -> FoldedFiles:
    """Fold the files of `asked` into a new one. The bits do not depend on `threads`, or on their order.

    The answer is memory that the kernel gives by page, so nothing is held twice. Raises `BadInput` as
    `fl.aggregation.aggregate` does.
    """
    chosen = strategy(asked.strategy)
    contributions = _contributions(asked, files)
    base = None if files.base is None else _tensors(files.base, "the base")
    state = EMPTY if files.state is None else _tensors(files.state, "the state")
    like = chosen.expects(contributions[0].tensors if base is None else base)
    model_layout, kept = layout_of(like), state_like(chosen, like)
    state_layout = layout_of(kept)
    size = model_layout.bytes + (state_layout.bytes if kept else 0)
    buffer = _anonymous(size)
    aggregate(
        chosen,
        contributions,
        base=base,
        state=state,
        options=asked.options,
        threads=threads,
        into=room(model_layout, buffer[: model_layout.bytes]),
        state_into=room(state_layout, buffer[model_layout.bytes :]) if kept else {},
    )
    return FoldedFiles(buffer.toreadonly(), model_layout.bytes)


def _contributions(asked: AggregateFiles, files: Files) -> Sequence[Contribution]:
    if not asked.updates:
        raise BadInput("updates is an empty list; send at least one update", code="no_updates")
    names = [one.participant for one in asked.updates]
    if len(set(names)) != len(names) or not all(names):
        raise BadInput("every update by reference needs a participant of its own", code="bad_participants")
    return [
        Contribution(
            participant=one.participant,
            samples=check_samples(one.samples, f"the update of {one.participant!r}"),
            staleness=max(0, one.staleness),
            tensors=_tensors(path, f"the update of {one.participant!r}"),
        )
        for one, path in zip(asked.updates, files.updates, strict=True)
    ]


def _tensors(path: Path, what: str) -> Tensors:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise BadInput(f"{what} is empty", code="bad_tensor")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Updates are read from end to end, so that the kernel should read ahead.
    mapped.madvise(mmap.MADV_SEQUENTIAL)
    return view(memoryview(mapped), what)


def _anonymous(size: int) -> memoryview:
    try:
        # Private: shared memory comes by pages of four kilobytes, whatever is advised.
        mapped: Any = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError, ValueError) as error:
        raise EnvironmentError_(f"no memory for a model of {size} bytes: {error}") from error
    # Two megabytes a page, where the kernel offers that: a tenth of the time of a fold is page faults else.
    mapped.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapped)
