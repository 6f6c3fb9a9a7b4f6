"""Manifests, tags, referrers and the catalog over HTTP.

Follows the distribution specification v1.1: "Pulling manifests", "Pushing manifests", "Content Discovery" and
"Content Management"; `_catalog` follows the Docker registry API, which clients still use. It must not know
how blobs arrive.
"""

from urllib.parse import urlencode

from propeller import limits
from propeller.errors import DecodeError
from propeller.images.digest import digest_of, is_digest
from propeller.images.manifest import IMAGE_INDEX, SCHEMA_VERSION, Descriptor, Manifest, read_manifest
from propeller.images.registry.catalogue import Catalogue
from propeller.images.registry.exchange import Reply, Request
from propeller.images.registry.faults import FaultCode, RegistryFault
from propeller.images.registry.repository import HeldManifest, Repository, page
from propeller.images.registry.routes import Route
from propeller.wire import codec

_TYPE_CHARS_MAX = 255


class ManifestRoutes:
    """The handlers of manifests, tags, referrers and the catalog."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def read(self, route: Route, _request: Request) -> Reply:
        """`GET` and `HEAD` of a manifest by tag or digest (end-3): the bytes as they were pushed."""
        digest, held = self._catalogue.find(route.repository).find(route.target)
        return Reply(
            status=200,
            headers={
                "content-type": held.media_type,
                "docker-content-digest": digest,
                "etag": f'"{digest}"',
            },
            body=await self._catalogue.read_manifest(digest),
        )

    async def write(self, route: Route, request: Request) -> Reply:
        """`PUT` of a manifest by tag or digest (end-7)."""
        content = await request.body(limits.OCI_MANIFEST_BYTES_MAX)
        digest = digest_of(content)
        by_digest = is_digest(route.target)
        if by_digest and route.target != digest:
            raise RegistryFault(
                FaultCode.DIGEST_INVALID, f"the manifest has digest {digest}, not {route.target}"
            )
        manifest = _read(content)
        held = _record(manifest, len(content), request.headers.get("content-type", ""))
        tag = None if by_digest else route.target
        claims = [(one.digest, one.size) for one in _parts(manifest)]
        await self._catalogue.add_manifest(
            route.repository, content, lambda repository: repository.with_manifest(digest, held, tag, claims)
        )
        headers = {
            "location": f"/v2/{route.repository}/manifests/{digest}",
            "docker-content-digest": digest,
        }
        if held.subject is not None:
            headers["oci-subject"] = held.subject
        return Reply(status=201, headers=headers)

    async def delete(self, route: Route, _request: Request) -> Reply:
        """`DELETE` of a tag, or of a manifest with its tags (end-9)."""
        target = route.target
        await self._catalogue.remove(
            route.repository,
            lambda held: held.without_manifest(target) if is_digest(target) else held.without_tag(target),
        )
        return Reply(status=202)

    async def list_tags(self, route: Route, request: Request) -> Reply:
        """`GET` of a repository's tags (end-8), in byte order, paged by `n` and `last`."""
        tags = self._catalogue.find(route.repository).tags
        count, last = request.number("n", limits.OCI_PAGE_DEFAULT), request.query.get("last", "")
        shown, more = page(tags, count, last)
        body = codec.encode({"name": route.repository, "tags": shown})
        link = _link(f"/v2/{route.repository}/tags/list", n=str(count), last=shown[-1]) if more else {}
        return Reply(status=200, headers={"content-type": "application/json", **link}, body=body)

    async def list_repositories(self, _route: Route, request: Request) -> Reply:
        """`GET` of every repository's name, paged like tags."""
        count, last = request.number("n", limits.OCI_PAGE_DEFAULT), request.query.get("last", "")
        shown, more = page(self._catalogue.names(), count, last)
        link = _link("/v2/_catalog", n=str(count), last=shown[-1]) if more else {}
        body = codec.encode({"repositories": shown})
        return Reply(status=200, headers={"content-type": "application/json", **link}, body=body)

    async def list_referrers(self, route: Route, request: Request) -> Reply:
        """`GET` of the manifests whose subject is a digest (end-12), paged to the size of a manifest."""
        repository = self._catalogue.get(route.repository) or Repository(name=route.repository)
        wanted = request.query.get("artifactType")
        after = request.query.get("last", "")
        found = [one for one in repository.referrers(route.target, wanted) if one > after]
        shown, rest = await self._describe(repository, found)
        headers = {"content-type": IMAGE_INDEX}
        if wanted is not None:
            headers["oci-filters-applied"] = "artifactType"
        if rest:
            filtered = {"artifactType": wanted} if wanted is not None else {}
            path = f"/v2/{route.repository}/referrers/{route.target}"
            headers |= _link(path, **filtered, last=shown[-1].digest)
        index = Manifest(schema_version=SCHEMA_VERSION, media_type=IMAGE_INDEX, manifests=shown)
        return Reply(status=200, headers=headers, body=codec.encode(index))

    async def _describe(self, repository: Repository, digests: list[str]) -> tuple[list[Descriptor], bool]:
        """Descriptors of manifests, as many as fit one answer (at least one), and whether some are left."""
        shown: list[Descriptor] = []
        total = 0
        for digest in digests:
            content = await self._catalogue.read_manifest(digest)
            total += len(content)
            if shown and total > limits.OCI_MANIFEST_BYTES_MAX:
                return shown, True
            held = repository.manifests[digest]
            shown.append(
                Descriptor(
                    media_type=held.media_type,
                    digest=digest,
                    size=held.size,
                    artifact_type=held.artifact_type,
                    annotations=read_manifest(content, f"manifest {digest}").annotations,
                )
            )
        return shown, False


def _read(content: bytes) -> Manifest:
    try:
        return read_manifest(content, "the manifest")
    except DecodeError as error:
        raise RegistryFault(FaultCode.MANIFEST_INVALID, error.message) from error


def _record(manifest: Manifest, size: int, content_type: str) -> HeldManifest:
    """What to remember of a pushed manifest of so many bytes; raises `MANIFEST_INVALID`."""
    sent = content_type.partition(";")[0].strip()
    media_type = sent or manifest.media_type or ""
    if manifest.media_type not in {None, media_type}:
        raise RegistryFault(
            FaultCode.MANIFEST_INVALID,
            f"Content-Type is {sent[:200]!r}, but the manifest says {(manifest.media_type or '')[:200]!r}",
        )
    if "/" not in media_type or not media_type.isascii() or not media_type.isprintable():
        raise RegistryFault(
            FaultCode.MANIFEST_INVALID,
            "send the manifest's media type as Content-Type, or put it into the manifest",
        )
    return HeldManifest(
        media_type=media_type[:_TYPE_CHARS_MAX],
        size=size,
        contents=tuple(dict.fromkeys(one.digest for one in _parts(manifest))),
        subject=manifest.subject.digest if manifest.subject is not None else None,
        artifact_type=manifest.referrer_type,
    )


def _parts(manifest: Manifest) -> list[Descriptor]:
    """The blobs and manifests that it is made of."""
    return [*manifest.contents(), *(manifest.manifests or ())]


def _link(path: str, **query: str) -> dict[str, str]:
    return {"link": f'<{path}?{urlencode(query)}>; rel="next"'}
