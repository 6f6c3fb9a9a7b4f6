"""Upload sessions: a blob that arrives in one or many requests, in order, into a writer of the content store.

Sessions live in memory: one that a restart or its idleness ended is `BLOB_UPLOAD_UNKNOWN`, and the client
begins anew, as the specification provides. Their number is bounded. It must not know repositories or links.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random

from propeller import limits
from propeller.core.ids import new_id
from propeller.errors import TooLarge
from propeller.images.registry.content import ContentStore, ContentWriter
from propeller.images.registry.faults import FaultCode, RegistryFault
from propeller.ports import Clock

_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


@dataclass(slots=True, kw_only=True)
class Upload:
    """One session. Whoever works on it holds `busy`, so that two requests never interleave their bytes."""

    id: str
    repository: str
    writer: ContentWriter
    touched_s: float
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def location(self) -> str:
        """The path at which the session continues."""
        return f"/v2/{self.repository}/blobs/uploads/{self.id}"

    def progress(self) -> dict[str, str]:
        """The headers that tell a client where it stands; without bytes, by custom, `0-0`."""
        return {
            "location": self.location,
            "range": f"0-{max(self.writer.size - 1, 0)}",
            "docker-upload-uuid": self.id,
        }


class Uploads:
    """The open sessions. Ids are drawn from `random` (unguessable if it is); idleness is read off `clock`."""

    def __init__(self, content: ContentStore, clock: Clock, random: Random) -> None:
        self._content = content
        self._clock = clock
        self._random = random
        self._open: dict[str, Upload] = {}

    async def begin(self, repository: str) -> Upload:
        """Open a session. Raises `TOOMANYREQUESTS` when as many are open as may be."""
        await self.sweep()
        if len(self._open) >= limits.OCI_UPLOADS_MAX:
            raise RegistryFault(
                FaultCode.TOOMANYREQUESTS,
                f"{limits.OCI_UPLOADS_MAX} uploads are open; finish or cancel one",
                headers={"retry-after": "5"},
            )
        upload = Upload(
            id=new_id(self._random),
            repository=repository,
            writer=self._content.open_writer(limits.OCI_BLOB_BYTES_MAX),
            touched_s=self._now(),
        )
        self._open[upload.id] = upload
        return upload

    def find(self, repository: str, upload_id: str) -> Upload:
        """An open session of this repository; raises `BLOB_UPLOAD_UNKNOWN`."""
        upload = self._open.get(upload_id)
        if upload is None or upload.repository != repository:
            raise RegistryFault(
                FaultCode.BLOB_UPLOAD_UNKNOWN,
                f"no upload {upload_id[:100]} of {repository} is open: it ended, was idle for "
                f"{limits.OCI_UPLOAD_IDLE_S:.0f} s, or the registry was started again; begin anew",
            )
        return upload

    async def append(
        self, upload: Upload, chunks: AsyncIterator[bytes], *, content_range: str | None, length: int | None
    ) -> None:
        """Write a request's body at the end of the session, whose lock the caller holds.

        Raises 416 for a range that does not begin where the session ends; 413 over the size of a blob.
        """
        expected = _expected_bytes(upload, content_range, length)
        start = upload.writer.size
        async for chunk in chunks:
            await self._write(upload, chunk)
        written = upload.writer.size - start
        if expected is not None and written != expected:
            # Its bytes are in the file already and cannot be taken out of it: only a new session is sure.
            await self.end(upload)
            raise RegistryFault(
                FaultCode.SIZE_INVALID,
                f"the chunk has {written} bytes and says {expected}; the upload is cancelled",
            )

    async def _write(self, upload: Upload, chunk: bytes) -> None:
        try:
            await upload.writer.write(chunk)
        except TooLarge as error:
            await self.end(upload)
            raise RegistryFault(FaultCode.SIZE_INVALID, error.message, status=413) from error
        upload.touched_s = self._now()

    async def end(self, upload: Upload) -> None:
        """Close a session and drop what was not committed."""
        self._open.pop(upload.id, None)
        await upload.writer.abort()

    async def close(self) -> None:
        """Close every session."""
        for upload in list(self._open.values()):
            await self.end(upload)

    async def sweep(self) -> int:
        """Close the sessions that were idle for too long; how many."""
        oldest_s = self._now() - limits.OCI_UPLOAD_IDLE_S
        idle = [one for one in self._open.values() if one.touched_s < oldest_s and not one.busy.locked()]
        for upload in idle:
            await self.end(upload)
        return len(idle)

    def _now(self) -> float:
        return self._clock.now().mono_s


def _expected_bytes(upload: Upload, content_range: str | None, length: int | None) -> int | None:
    """How many bytes a chunk must have, checked against where the session stands."""
    if content_range is None:
        return length
    found = _RANGE.fullmatch(content_range)
    if found is None:
        raise RegistryFault(
            FaultCode.BLOB_UPLOAD_INVALID,
            f"Content-Range {content_range[:100]!r} is not first-last",
            status=416,
        )
    first, last = int(found[1]), int(found[2])
    if first != upload.writer.size or last < first:
        raise RegistryFault(
            FaultCode.BLOB_UPLOAD_INVALID,
            f"the chunk begins at byte {first}; the upload continues at byte {upload.writer.size}",
            status=416,
            headers=upload.progress(),
        )
    if length is not None and length != last - first + 1:
        raise RegistryFault(
            FaultCode.SIZE_INVALID, f"Content-Range says {last - first + 1} bytes, Content-Length {length}"
        )
    return last - first + 1
