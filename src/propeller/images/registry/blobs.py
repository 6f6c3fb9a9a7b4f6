"""Blobs over HTTP: reading whole or in part, deleting, and uploading in one, two or many requests.

Follows the distribution specification v1.1, "Pulling blobs", "Pushing blobs" and "Deleting blobs", and RFC
9110 §14 for ranges. It must not know manifests.
"""

import re
from collections.abc import AsyncGenerator

from propeller.errors import Conflict
from propeller.images.registry.catalogue import Catalogue
from propeller.images.registry.exchange import Reply, Request
from propeller.images.registry.faults import FaultCode, RegistryFault
from propeller.images.registry.routes import Route, check_repository, check_sha256
from propeller.images.registry.uploads import Upload, Uploads

_BYTES = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class BlobRoutes:
    """The handlers of `/v2/<name>/blobs/…`."""

    def __init__(self, catalogue: Catalogue, uploads: Uploads) -> None:
        self._catalogue = catalogue
        self._uploads = uploads

    async def read(self, route: Route, request: Request) -> Reply:
        """`GET` and `HEAD` of a blob (end-2), with one byte range if asked."""
        size = self._size(route)
        # Who is told that a blob is here does not send it again before the manifest.
        self._catalogue.asked(route.target)
        headers = {
            "docker-content-digest": route.target,
            "etag": f'"{route.target}"',
            "accept-ranges": "bytes",
            "content-type": "application/octet-stream",
        }
        span = _read_range(request.headers.get("range"), size)
        if span is None:
            return Reply(status=200, headers=headers, stream=self._stream(route.target, 0, size), length=size)
        first, last = span
        count = last - first + 1
        headers["content-range"] = f"bytes {first}-{last}/{size}"
        return Reply(
            status=206, headers=headers, stream=self._stream(route.target, first, count), length=count
        )

    async def delete(self, route: Route, _request: Request) -> Reply:
        """`DELETE` of a blob in this repository (end-10)."""
        await self._catalogue.remove(route.repository, lambda held: held.without_blob(route.target))
        return Reply(status=202)

    async def begin(self, route: Route, request: Request) -> Reply:
        """`POST` of an upload: a mount (end-11), a whole blob (end-4b), or a session (end-4a)."""
        if (mounted := request.query.get("mount")) is not None and await self._mount(route, request, mounted):
            return _created(route.repository, mounted)
        digest = request.query.get("digest")
        if digest is not None:
            check_sha256(digest, "digest")
        upload = await self._uploads.begin(route.repository)
        if digest is None:
            return Reply(status=202, headers=upload.progress())
        async with upload.busy:
            try:
                await self._uploads.append(
                    upload, request.chunks(), content_range=None, length=request.length
                )
                return await self._finish(upload, digest)
            finally:
                await self._uploads.end(upload)

    async def append(self, route: Route, request: Request) -> Reply:
        """`PATCH` of a session (end-5): the next chunk, or a stream of unknown length."""
        upload = self._uploads.find(route.repository, route.target)
        async with upload.busy:
            await self._receive(upload, request)
            return Reply(status=202, headers=upload.progress())

    async def finish(self, route: Route, request: Request) -> Reply:
        """`PUT` of a session (end-6): the last chunk if any, and the digest of the whole."""
        upload = self._uploads.find(route.repository, route.target)
        digest = check_sha256(request.query.get("digest", ""), "query parameter digest")
        async with upload.busy:
            if request.length != 0:
                await self._receive(upload, request)
            try:
                return await self._finish(upload, digest)
            finally:
                await self._uploads.end(upload)

    async def progress(self, route: Route, _request: Request) -> Reply:
        """`GET` of a session (end-13): where it continues."""
        return Reply(status=204, headers=self._uploads.find(route.repository, route.target).progress())

    async def cancel(self, route: Route, _request: Request) -> Reply:
        """`DELETE` of a session (end-14)."""
        upload = self._uploads.find(route.repository, route.target)
        async with upload.busy:
            await self._uploads.end(upload)
        return Reply(status=204)

    async def _receive(self, upload: Upload, request: Request) -> None:
        # It may have ended while this request waited for its turn.
        self._uploads.find(upload.repository, upload.id)
        await self._uploads.append(
            upload,
            request.chunks(),
            content_range=request.headers.get("content-range"),
            length=request.length,
        )

    async def _finish(self, upload: Upload, digest: str) -> Reply:
        try:
            await self._catalogue.add_blob(upload.repository, upload.writer, digest)
        except Conflict as error:
            raise RegistryFault(FaultCode.DIGEST_INVALID, error.message, detail={"digest": digest}) from error
        return _created(upload.repository, digest)

    async def _mount(self, route: Route, request: Request, digest: str) -> bool:
        check_sha256(digest, "query parameter mount")
        source = request.query.get("from")
        if source is not None:
            check_repository(source)
        return await self._catalogue.mount(route.repository, digest, source)

    def _size(self, route: Route) -> int:
        size = self._catalogue.find(route.repository).blobs.get(route.target)
        if size is None:
            raise RegistryFault(
                FaultCode.BLOB_UNKNOWN, f"repository {route.repository} has no blob {route.target}"
            )
        return size

    async def _stream(self, digest: str, first: int, count: int) -> AsyncGenerator[bytes]:
        """`count` bytes from `first`; what comes before is read and passed over: the store verifies all."""
        last = first + count
        at = 0
        pieces = self._catalogue.read_blob(digest)
        try:
            async for piece in pieces:
                wanted = piece[max(first - at, 0) : max(last - at, 0)]
                at += len(piece)
                if wanted:
                    yield wanted
                if at > last:
                    return
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()


def _created(repository: str, digest: str) -> Reply:
    return Reply(
        status=201, headers={"location": f"/v2/{repository}/blobs/{digest}", "docker-content-digest": digest}
    )


def _read_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range; None for no range, or for one of a form we do not serve."""
    found = _BYTES.fullmatch(header) if header is not None else None
    if found is None or found[0] == "bytes=-":
        return None
    if not found[1]:
        first, last = size - min(int(found[2]), size), size - 1
    else:
        first, last = int(found[1]), min(int(found[2] or size - 1), size - 1)
    if first <= last:
        return first, last
    raise RegistryFault(
        FaultCode.SIZE_INVALID,
        f"range {header} is not within the {size} bytes",
        status=416,
        headers={"content-range": f"bytes */{size}"},
    )
