"""Manifests: how they are read, and which layer holds the Wasm module. Pure; it must not fetch anything.

Follows the OCI image specification v1.1 (manifests, indexes, descriptors), Docker's schema 2 twins of them,
and the CNCF layout of Wasm artifacts. Media types in the wild are unreliable: pushing tools label raw Wasm
as a tar layer, so a layer is chosen by type, then by its title, then because it is the only one; its bytes
decide (`propeller.images.layer`).
"""

from collections.abc import Iterable

import msgspec

from propeller import limits
from propeller.errors import DecodeError, PeerRefused
from propeller.images.digest import is_digest
from propeller.wire import codec

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (IMAGE_MANIFEST, IMAGE_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
"""What a client accepts, in order of preference."""

WASM_CONFIG = "application/vnd.wasm.config.v0+json"
WASM_LAYER = "application/wasm"
WASM_LAYERS = frozenset(
    {
        WASM_LAYER,
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.module.wasm.content.layer.v1+wasm",
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    }
)
"""Layer media types that say Wasm: the CNCF layout, wasm-to-oci, Krustlet/Istio, Bytecode Alliance."""
PACKED_LAYERS = frozenset(
    {
        "application/octet-stream",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    }
)
"""Layer media types that may hold a module without saying so."""

TITLE = "org.opencontainers.image.title"
"""The annotation with a layer's file name."""

_SHOWN_TYPES = 8


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest of an index is built for."""

    architecture: str = ""
    os: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A pointer to content: its type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    urls: list[str] | None = None

    @property
    def title(self) -> str:
        """The file name the pusher gave this content, or nothing."""
        return (self.annotations or {}).get(TITLE, "")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An image manifest (has `layers`), an image index (`manifests`), or another artifact (neither)."""

    schema_version: int
    media_type: str | None = None
    artifact_type: str | None = None
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None
    blobs: list[Descriptor] | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None

    @property
    def is_index(self) -> bool:
        """Whether this lists manifests rather than layers."""
        return self.manifests is not None

    @property
    def referrer_type(self) -> str | None:
        """The artifact type a referrers list shows for this (distribution specification)."""
        if self.artifact_type:
            return self.artifact_type
        return self.config.media_type if self.config is not None else None

    def contents(self) -> list[Descriptor]:
        """Every blob this is made of: config, layers, blobs of an artifact; foreign layers excepted."""
        config = [self.config] if self.config is not None else []
        return config + [one for one in [*(self.layers or ()), *(self.blobs or ())] if not one.urls]


SCHEMA_VERSION = 2


def read_manifest(content: bytes, what: str) -> Manifest:
    """Decode a manifest; `what` names it in errors.

    Raises `DecodeError` if it is no manifest of schema 2, if it is both image and index (two readers would
    see two images), or if a descriptor's digest or size is unlawful.
    """
    found = codec.decode(Manifest, content, what=what, limit_bytes=limits.OCI_MANIFEST_BYTES_MAX)
    if found.schema_version != SCHEMA_VERSION:
        raise DecodeError(f"{what} has schemaVersion {found.schema_version}; only {SCHEMA_VERSION} is read")
    if found.manifests is not None and (found.layers is not None or found.config is not None):
        raise DecodeError(f"{what} is ambiguous: it has both 'manifests' and 'layers' or 'config'")
    subject = [found.subject] if found.subject is not None else []
    for one in [*found.contents(), *(found.layers or ()), *(found.manifests or ()), *subject]:
        if not is_digest(one.digest) or one.size < 0:
            raise DecodeError(
                f"{what} points to digest {one.digest[:160]!r} of size {one.size}, which cannot be"
            )
    return found


def choose_layer(manifest: Manifest, what: str) -> Descriptor:
    """The layer that holds the module of an image manifest.

    A layer whose type says Wasm, else one titled `*.wasm`, else the only layer of a type that may pack one.
    Raises `PeerRefused` saying which media types were there.
    """
    layers = manifest.layers or []
    for one in layers:
        if _bare(one.media_type) in WASM_LAYERS:
            return one
    for one in layers:
        if one.title.endswith(".wasm"):
            return one
    if len(layers) == 1 and _bare(layers[0].media_type) in PACKED_LAYERS:
        return layers[0]
    raise no_wasm(what, (one.media_type for one in layers))


def order_children(manifest: Manifest) -> list[Descriptor]:
    """The manifests of an index in the order to look for Wasm: wasm/wasip1, other wasm platforms, the rest.

    Attestations (platform `unknown`) are left out, and no more than `OCI_INDEX_CHILDREN_MAX` are looked at.
    """
    children = [one for one in manifest.manifests or () if _preference(one) is not None]
    return sorted(children, key=lambda one: _preference(one) or 0)[: limits.OCI_INDEX_CHILDREN_MAX]


def no_wasm(what: str, media_types: Iterable[str]) -> PeerRefused:
    """The error for an image without a Wasm layer, naming what it has instead."""
    found = sorted({one[:120] for one in media_types})
    shown = ", ".join(found[:_SHOWN_TYPES]) + (", …" if len(found) > _SHOWN_TYPES else "")
    return PeerRefused(
        f"{what} has no Wasm layer; its media types are: {shown or 'none'}. Push the module as {WASM_LAYER}",
        code="no_wasm_layer",
    )


def _preference(child: Descriptor) -> int | None:
    platform = child.platform or Platform()
    if platform.os == "unknown":
        return None
    if not platform.architecture.startswith("wasm"):
        return 2
    return 0 if platform.os == "wasip1" else 1


def _bare(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()
