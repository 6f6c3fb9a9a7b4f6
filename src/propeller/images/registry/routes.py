"""The paths of the distribution specification v1.1, "Endpoints", as values. Pure.

Repository names have any number of segments, so a path is matched from its end. It must not know what is
behind a path.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from propeller.images.digest import is_digest
from propeller.images.reference import is_repository, is_tag
from propeller.images.registry.faults import FaultCode, RegistryFault


class Resource(StrEnum):
    """What a path is about."""

    ROOT = "root"
    CATALOG = "catalog"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    BLOB = "blob"
    MANIFEST = "manifest"
    TAGS = "tags"
    REFERRERS = "referrers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A parsed path. `target` is a digest, a tag or an upload's id, as the resource has it."""

    resource: Resource
    repository: str = ""
    target: str = ""


_PATTERNS = (
    (re.compile(r"/v2/?"), Resource.ROOT),
    (re.compile(r"/v2/_catalog"), Resource.CATALOG),
    (re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?"), Resource.UPLOADS),
    (re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<target>[^/]+)"), Resource.UPLOAD),
    (re.compile(r"/v2/(?P<name>.+)/blobs/(?P<target>[^/]+)"), Resource.BLOB),
    (re.compile(r"/v2/(?P<name>.+)/manifests/(?P<target>[^/]+)"), Resource.MANIFEST),
    (re.compile(r"/v2/(?P<name>.+)/tags/list"), Resource.TAGS),
    (re.compile(r"/v2/(?P<name>.+)/referrers/(?P<target>[^/]+)"), Resource.REFERRERS),
)


def match(path: str) -> Route:
    """Parse a percent-decoded path. Raises `RegistryFault`: no such path, unlawful name or reference."""
    for pattern, resource in _PATTERNS:
        if (found := pattern.fullmatch(path)) is not None:
            parts = found.groupdict()
            route = Route(resource=resource, repository=parts.get("name", ""), target=parts.get("target", ""))
            _check(route)
            return route
    raise RegistryFault(FaultCode.UNSUPPORTED, f"no such path: {path[:200]}", status=404)


def check_repository(name: str) -> None:
    """Raise `NAME_INVALID` unless `name` may be a repository."""
    if not is_repository(name):
        raise RegistryFault(
            FaultCode.NAME_INVALID,
            f"{name[:200]!r} is no repository name: parts of lower-case letters, digits and single . _ - "
            "between them, joined by '/'",
        )


def check_sha256(text: str, what: str) -> str:
    """Return a digest that this registry can store, else raise `DIGEST_INVALID`."""
    if is_digest(text) and text.startswith("sha256:"):
        return text
    raise RegistryFault(
        FaultCode.DIGEST_INVALID, f"{what} {text[:200]!r} is not sha256: and 64 lower-case hex digits"
    )


def _check(route: Route) -> None:
    if route.resource in {Resource.ROOT, Resource.CATALOG}:
        return
    check_repository(route.repository)
    if route.resource in {Resource.BLOB, Resource.REFERRERS}:
        check_sha256(route.target, "digest")
    if route.resource is Resource.MANIFEST and not is_tag(route.target):
        if ":" in route.target:
            check_sha256(route.target, "manifest digest")
        else:
            raise RegistryFault(
                FaultCode.MANIFEST_INVALID, f"{route.target[:200]!r} is neither a tag nor a digest"
            )
