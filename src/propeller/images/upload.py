"""The push half of the distribution specification: blobs in one piece or as a stream, then manifests.

It must not know what it sends. What the registry has already is not sent again.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from propeller import limits
from propeller.errors import PeerRefused
from propeller.images.auth import PUSH, Calls
from propeller.images.manifest import IMAGE_MANIFEST
from propeller.images.reference import Reference
from propeller.images.web import Answer, Web, join
from propeller.ports import HttpStreams, Response

_OK, _NOT_FOUND = 200, 404
_STORED = {201, 204}
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """Content that lies somewhere and is sent from there in pieces, over `http`."""

    content: memoryview
    http: HttpStreams

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, from the beginning."""
        for start in range(0, len(self.content), _PIECE_BYTES):
            yield bytes(self.content[start : start + _PIECE_BYTES])


class Upload:
    """Stores content in registries on behalf of references."""

    def __init__(self, web: Web, calls: Calls) -> None:
        self._web = web
        self._calls = calls

    async def blob(self, reference: Reference, digest: str, content: bytes | Streamed) -> None:
        """Store a blob of `digest`. Raises as `Calls.send`."""
        what = f"blob {digest} for {reference}"
        held = await self._calls.call(
            reference, PUSH, "HEAD", f"blobs/{digest}", limit_bytes=limits.OCI_BLOB_BYTES_MAX
        )
        if self._web.expect(held, {_OK, _NOT_FOUND}, what).status == _OK:
            return
        opened = await self._calls.call(reference, PUSH, "POST", "blobs/uploads/")
        location = self._web.expect(opened, {202}, what).headers.get("location", "")
        url = join(opened.url, location)
        if not location:
            raise PeerRefused(f"{what}: {reference.registry} opened an upload without a location", status=202)
        self._web.check_next(opened.url, url)
        url += ("&" if urlsplit(url).query else "?") + urlencode({"digest": digest})
        if isinstance(content, Streamed):
            stored = await self._stream(reference, url, content)
        else:
            stored = await self._calls.send(
                reference,
                PUSH,
                "PUT",
                url,
                headers=_OCTETS,
                body=content,
                timeout_s=limits.OCI_BLOB_TIMEOUT_S,
            )
        self._web.expect(stored, _STORED, what)

    async def _stream(self, reference: Reference, url: str, content: Streamed) -> Answer:
        headers = {**_OCTETS, "content-length": str(len(content.content))}

        async def each(to: str, sent: Mapping[str, str]) -> Response:
            return await content.http.stream("PUT", to, headers=sent, body=content.pieces(), sink=_nothing)

        return await self._calls.authorized(
            reference, PUSH, url, headers, lambda sent: self._web.followed("PUT", url, sent, each)
        )

    async def manifest(self, reference: Reference, digest: str, manifest: bytes) -> None:
        """Store a manifest of `digest` under the reference's tag, if it has one."""
        target = reference.tag or digest
        headers = {"content-type": IMAGE_MANIFEST}
        stored = await self._calls.call(
            reference, PUSH, "PUT", f"manifests/{target}", headers=headers, body=manifest
        )
        response = self._web.expect(stored, {201}, str(reference))
        said = response.headers.get("docker-content-digest", digest)
        if said != digest:
            raise PeerRefused(
                f"{reference.registry} stored {reference} as {said[:160]}, not as {digest}",
                code="digest_mismatch",
            )


_OCTETS = {"content-type": "application/octet-stream"}


async def _nothing(_piece: bytes) -> None:
    """An upload's answer has no body that matters."""
