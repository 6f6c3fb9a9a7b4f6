"""What names an image: `registry/repository[:tag][@digest]`. Pure; it must not know how anything is fetched.

The grammar is that of the OCI distribution specification v1.1 for repository names and tags, and of the
`distribution/reference` library for the registry part: the first path component is a registry only if it
has a dot, a port, upper case, or is `localhost`. There is no default registry: a name that leaves it out is
refused, because the same text must mean the same image on every machine.
"""

import re
from dataclasses import dataclass, replace

from propeller import limits
from propeller.errors import BadInput
from propeller.images.digest import check_digest

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_PORT_MAX = 65_535
_SHOWN_CHARS = 160

OCI_SCHEME = "oci://"
LATEST = "latest"
"""The tag that a reference without tag and digest means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One image. At least one of `tag` and `digest` is set; with both, the digest decides."""

    registry: str
    """`host` or `host:port`."""
    repository: str
    tag: str | None = None
    digest: str | None = None
    """`sha256:…`, if the reference is pinned."""

    @classmethod
    def parse(cls, text: str, *, default_registry: str | None = None) -> "Reference":
        """Read a reference, with or without `oci://`; no tag and no digest means `latest`.

        Raises `BadInput` for anything else, also for a name without a registry unless `default_registry` is
        given.
        """
        rest, _, digest = text.strip().removeprefix(OCI_SCHEME).partition("@")
        if "://" in rest:
            raise _bad(text, "it has a scheme that is not oci://")
        if digest:
            check_digest(digest, f"the part after '@' of image reference {text[:_SHOWN_CHARS]!r}:")
        elif "@" in text:
            raise _bad(text, "nothing follows '@'")
        path, tag = _split_tag(rest)
        registry, repository = _split_registry(text, path, default_registry)
        return cls(
            registry=_check(text, registry, repository, tag),
            repository=repository,
            tag=tag if tag or digest else LATEST,
            digest=digest or None,
        )

    @property
    def target(self) -> str:
        """What selects the manifest within the repository: the digest if there is one, else the tag."""
        return self.digest or self.tag or LATEST

    def with_registry(self, registry: str) -> "Reference":
        """The same image at another `host[:port]`, which is how aliases are applied."""
        _check(str(self), registry, self.repository, self.tag)
        return replace(self, registry=registry)

    def with_digest(self, digest: str) -> "Reference":
        """The same image pinned to `digest`; the tag stays for people to read."""
        return replace(self, digest=check_digest(digest, "manifest digest"))

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleUrl:
    """A plain `http://` or `https://` URL of a Wasm module, outside any registry."""

    url: str

    def __str__(self) -> str:
        return self.url


def parse_image(text: str, *, default_registry: str | None = None) -> Reference | ModuleUrl:
    """Read what a task's `image_url` may hold: a plain URL, or an OCI reference. Raises `BadInput`."""
    if is_url(text):
        return ModuleUrl(url=text.strip())
    return Reference.parse(text, default_registry=default_registry)


def is_url(text: str) -> bool:
    """Whether `text` is a plain URL rather than an OCI reference."""
    return text.strip().lower().startswith(("http://", "https://"))


def is_repository(name: str) -> bool:
    """Whether `name` is a lawful repository name of the distribution specification, within our length."""
    return len(name) <= limits.OCI_REPOSITORY_CHARS_MAX and _REPOSITORY.fullmatch(name) is not None


def is_tag(text: str) -> bool:
    """Whether `text` is a lawful tag."""
    return _TAG.fullmatch(text) is not None


def _split_tag(rest: str) -> tuple[str, str | None]:
    """Cut the tag off: a colon after the last slash can only begin a tag, unless there is no slash at all."""
    head, colon, tail = rest.rpartition(":")
    if not colon or "/" in tail:
        return rest, None
    return head, tail


def _split_registry(text: str, path: str, default: str | None) -> tuple[str, str]:
    first, slash, rest = path.partition("/")
    if slash and (first == "localhost" or set(first) & {".", ":"} or first != first.lower()):
        return first, rest
    if default is None:
        raise _bad(
            text, "it names no registry: write host[:port]/name[:tag], for example localhost:5000/name:latest"
        )
    return default, path


def _check(text: str, registry: str, repository: str, tag: str | None) -> str:
    found = _REGISTRY.fullmatch(registry)
    if found is None or int(found["port"] or 0) > _PORT_MAX:
        raise _bad(text, f"registry {registry[:_SHOWN_CHARS]!r} is not host or host:port")
    if not is_repository(repository):
        raise _bad(
            text,
            f"repository {repository[:_SHOWN_CHARS]!r} is not lower-case letters and digits with single "
            f"separators . _ - between them, parts joined by '/', "
            f"{limits.OCI_REPOSITORY_CHARS_MAX} characters at most",
        )
    if tag is not None and not is_tag(tag):
        raise _bad(text, f"tag {tag[:_SHOWN_CHARS]!r} is not 1 to 128 letters, digits, '.', '_' or '-'")
    return registry


def _bad(text: str, why: str) -> BadInput:
    return BadInput(f"image reference {text[:_SHOWN_CHARS]!r} is not valid: {why}", code="bad_reference")
