"""The image client: pulls modules by tag, digest or URL, and pushes them as OCI 1.1 Wasm artifacts.

Follows the OCI distribution specification v1.1 and the CNCF layout of Wasm artifacts (config of type
`application/vnd.wasm.config.v0+json`, one layer `application/wasm`). It must not cache, retry or wait: an
unreachable registry is `PeerUnavailable`, and what to do then is the caller's business.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from propeller import limits
from propeller.errors import BadInput, DecodeError, PeerRefused, TooLarge, Unsupported
from propeller.images.artifact import EPOCH, MODULE_TITLE, encode_config, encode_manifest
from propeller.images.auth import CATALOGUE, DELETE, PULL, Calls, Credential
from propeller.images.digest import digest_of, is_digest
from propeller.images.layer import is_wasm
from propeller.images.manifest import MANIFEST_TYPES, TITLE, WASM_LAYER, Descriptor
from propeller.images.reference import ModuleUrl, Reference, parse_image
from propeller.images.source import Offload, StoredManifest, sha256_hex, take_module, verify
from propeller.images.upload import Upload
from propeller.images.web import Web, join
from propeller.ports import Http, ImageModule
from propeller.wire import codec

T = TypeVar("T")

_OK, _NOT_FOUND, _NOT_ALLOWED = 200, 404, 405
_MODULE_CONTENT_TYPES = ("application/wasm", "application/octet-stream")


class _TagList(msgspec.Struct, frozen=True, kw_only=True):
    tags: list[str] | None = None


class _Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    repositories: list[str] | None = None


class OciImages:
    """`ports.Images` over the network; also pushes, lists and resolves.

    `insecure` holds `host` or `host:port` allowed over plain HTTP (loopback always is); `credentials` are by
    registry as written in references.
    """

    def __init__(
        self,
        http: Http,
        *,
        insecure: Collection[str] = (),
        credentials: Mapping[str, Credential] | None = None,
        default_registry: str | None = None,
        offload: Offload = asyncio.to_thread,
    ) -> None:
        self._web = Web(http, insecure)
        self._calls = Calls(self._web, credentials or {})
        self._upload = Upload(self._web, self._calls)
        self._default_registry = default_registry
        self._offload = offload

    def parse(self, text: str) -> Reference | ModuleUrl:
        """Read an image's name as `fetch` does."""
        return parse_image(text, default_registry=self._default_registry)

    async def fetch(self, reference: str) -> ImageModule:
        """Resolve and fetch (`ports.Images`). A plain URL has no manifest: its `manifest_digest` is empty."""
        image = self.parse(reference)
        if isinstance(image, ModuleUrl):
            return await self.download(image)
        return await take_module(self, image, self._offload)

    async def pin(self, reference: str) -> str:
        """The digest that a reference means now (`ports.ImageTags`)."""
        image = self.parse(reference)
        if isinstance(image, ModuleUrl):
            raise BadInput(f"{reference!r} is a URL, which no registry pins", code="bad_reference")
        return await self.resolve(image)

    async def resolve(self, reference: Reference) -> str:
        """The digest a reference means now: one HEAD, and a GET if the registry leaves the digest out."""
        if reference.digest is not None:
            return reference.digest
        path = f"manifests/{reference.target}"
        answer = await self._calls.call(reference, PULL, "HEAD", path, headers=_ACCEPT)
        response = self._web.expect(answer, {_OK, _NOT_ALLOWED}, f"image {reference}")
        digest = response.headers.get("docker-content-digest", "")
        if response.status == _OK and is_digest(digest):
            return digest
        return (await self.manifest(reference)).digest

    async def manifest(self, reference: Reference) -> StoredManifest:
        """The manifest (or index) a reference selects; verified if pinned, else `digest` is its SHA-256."""
        answer = await self._calls.call(
            reference,
            PULL,
            "GET",
            f"manifests/{reference.target}",
            headers=_ACCEPT,
            limit_bytes=limits.OCI_MANIFEST_BYTES_MAX,
        )
        response = self._web.expect(answer, {200}, f"image {reference}")
        digest = reference.digest or digest_of(response.body)
        await verify(response.body, digest, f"the manifest of image {reference}", self._offload)
        return StoredManifest(digest, response.body, response.headers.get("content-type", ""))

    async def blob(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A blob, verified against its descriptor."""
        what = f"blob {descriptor.digest} of image {reference}"
        answer = await self._calls.call(
            reference,
            PULL,
            "GET",
            f"blobs/{descriptor.digest}",
            timeout_s=limits.OCI_BLOB_TIMEOUT_S,
            limit_bytes=max(descriptor.size, _ERROR_BYTES_MAX),
        )
        content = self._web.expect(answer, {200}, what).body
        if len(content) != descriptor.size:
            raise PeerRefused(
                f"{what} has {len(content)} bytes; its manifest says {descriptor.size}", code="size_mismatch"
            )
        return await verify(content, descriptor.digest, what, self._offload)

    async def tags(self, reference: Reference) -> list[str]:
        """Every tag of the reference's repository, in the registry's order."""
        found: list[str] = []
        path = "tags/list"
        for _ in range(limits.OCI_TAG_PAGES_MAX):
            answer = await self._calls.call(reference, PULL, "GET", path)
            what = f"tags of {reference.registry}/{reference.repository}"
            response = self._web.expect(answer, {200}, what)
            found += _decoded(_TagList, response.body, what).tags or []
            following = _next_page(answer.url, response.headers.get("link", ""))
            if following is None:
                return found
            path = f"tags/list?{urlsplit(following).query}"
        raise PeerRefused(f"{reference.registry} lists tags without end", code="bad_pages")

    async def repositories(self, registry: str) -> list[str]:
        """Every repository of the registry `host[:port]`. Raises `Unsupported` if it lists none."""
        found: list[str] = []
        url = f"{self._web.base(registry)}/v2/_catalog"
        whole = Reference(registry=registry, repository="_catalog")
        for _ in range(limits.OCI_TAG_PAGES_MAX):
            answer = await self._calls.send(whole, CATALOGUE, "GET", url)
            if answer.response.status in {_NOT_FOUND, _NOT_ALLOWED}:
                raise Unsupported(f"registry {registry} lists no repositories; name one: {registry}/NAME")
            what = f"the repositories of {registry}"
            response = self._web.expect(answer, {_OK}, what)
            found += _decoded(_Catalogue, response.body, what).repositories or []
            following = _next_page(answer.url, response.headers.get("link", ""))
            if following is None:
                return found
            self._web.check_next(url, following)
            url = following
        raise PeerRefused(f"{registry} lists repositories without end", code="bad_pages")

    async def delete(self, reference: Reference) -> str:
        """Remove an image with all of its tags, and return its digest.

        A registry frees the space in its own time. Raises `Unsupported` where it is set not to delete.
        """
        digest = await self.resolve(reference)
        answer = await self._calls.call(reference, DELETE, "DELETE", f"manifests/{digest}")
        if answer.response.status == _NOT_ALLOWED:
            raise Unsupported(f"registry {reference.registry} is set not to delete images")
        self._web.expect(answer, {200, 202, 204}, f"image {reference}")
        return digest

    async def download(self, url: ModuleUrl) -> ImageModule:
        """A module from a plain URL: content type empty, Wasm or octets; 100 MiB at most."""
        answer = await self._web.request(
            "GET",
            url.url,
            headers={},
            timeout_s=limits.OCI_BLOB_TIMEOUT_S,
            limit_bytes=limits.GUEST_MODULE_BYTES_MAX,
        )
        response = self._web.expect(answer, frozenset(range(200, 300)), f"module {url}")
        kind = response.headers.get("content-type", "")
        if kind and not any(one in kind.lower() for one in _MODULE_CONTENT_TYPES):
            raise PeerRefused(
                f"{url} has content type {kind[:120]!r}; a module has {' or '.join(_MODULE_CONTENT_TYPES)}",
                code="bad_content_type",
            )
        if not is_wasm(response.body):
            raise PeerRefused(f"{url} does not begin with the Wasm magic", code="no_wasm_layer")
        digest = await sha256_hex(response.body, self._offload)
        return ImageModule(reference=url.url, manifest_digest="", digest=digest, content=response.body)

    async def push(
        self,
        reference: Reference,
        wasm: bytes,
        annotations: Mapping[str, str] | None = None,
        *,
        title: str = MODULE_TITLE,
        created: str = EPOCH,
    ) -> str:
        """Store `wasm` as the image `reference` and return its manifest digest.

        `title` is the layer's file name, `created` an RFC 3339 time. The same arguments give the same digest.
        Raises `BadInput` if the bytes are no Wasm or the reference is pinned to another digest.
        """
        digest = await self._layer_digest(wasm)
        config = encode_config(wasm, digest, created)
        manifest = encode_manifest(
            layer=Descriptor(
                media_type=WASM_LAYER,
                digest=digest,
                size=len(wasm),
                annotations={TITLE: title},
            ),
            config=config,
            annotations=annotations or {},
        )
        pushed = digest_of(manifest)
        if reference.digest not in {None, pushed}:
            raise BadInput(f"{reference} is pinned to another image than the one to push, which is {pushed}")
        await self._upload.blob(reference, digest, wasm)
        await self._upload.blob(reference, digest_of(config), config)
        await self._upload.manifest(reference, pushed, manifest)
        return pushed

    async def _layer_digest(self, wasm: bytes) -> str:
        if not is_wasm(wasm):
            raise BadInput("the bytes to push are not Wasm: they do not begin with \\0asm", code="not_wasm")
        if len(wasm) > limits.GUEST_MODULE_BYTES_MAX:
            raise TooLarge(f"the module is {len(wasm)} bytes; the limit is {limits.GUEST_MODULE_BYTES_MAX}")
        return f"sha256:{await sha256_hex(wasm, self._offload)}"


_ACCEPT = {"accept": ", ".join(MANIFEST_TYPES)}
_ERROR_BYTES_MAX = 64 * 1024
"""Room for an error's body where the blob asked for is smaller than that."""


def _decoded(kind: type[T], body: bytes, what: str) -> T:
    try:
        return codec.decode(kind, body, what=what, limit_bytes=limits.HTTP_BODY_BYTES_MAX)
    except DecodeError as error:
        raise PeerRefused(error.message, code="bad_list") from error


def _next_page(url: str, link: str) -> str | None:
    """The target of a `Link: <…>; rel="next"` header (RFC 8288), if there is one."""
    target, _, relation = link.partition(">")
    if not target.startswith("<") or "next" not in relation:
        return None
    return join(url, quote(target[1:], safe="/:?&=%~.-_+@"))
