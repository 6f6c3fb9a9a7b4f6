"""How a reference becomes a module: resolve, read the manifest, choose the layer, verify, unpack.

The algorithm is written once over `ImageSource`, so that the client and the cache before it take the same
decisions. It must not know where manifests and blobs come from.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from propeller import limits
from propeller.errors import DecodeError, PeerRefused, TooLarge
from propeller.images.digest import digest_of, hex_of, matches
from propeller.images.layer import is_wasm, module_of
from propeller.images.manifest import (
    Descriptor,
    Manifest,
    choose_layer,
    no_wasm,
    order_children,
    read_manifest,
)
from propeller.images.reference import Reference
from propeller.ports import ImageModule

Offload = Callable[..., Awaitable[Any]]
"""`await offload(function, *args)` runs CPU-heavy work off the loop: `asyncio.to_thread`, or at once."""

_OFFLOAD_BYTES = 1024 * 1024
"""Hashing or unpacking less than this takes a millisecond or two and stays on the loop."""
_DEPTH_MAX = 3
"""Indexes within indexes that are followed."""


class StoredManifest(NamedTuple):
    """A manifest as a registry holds it; `content` has been verified against `digest`."""

    digest: str
    content: bytes
    media_type: str


class ImageSource(Protocol):
    """Where manifests and blobs come from. Both are verified before they are returned."""

    async def manifest(self, reference: Reference) -> StoredManifest:
        """The manifest that `reference.target` selects."""
        ...

    async def blob(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A blob of the reference's repository."""
        ...


async def take_module(source: ImageSource, reference: Reference, offload: Offload) -> ImageModule:
    """Fetch the module that `reference` names; `manifest_digest` is what the reference itself resolves to.

    Raises as `ports.Images.fetch` does.
    """
    top = await source.manifest(reference)
    layer = await _find_layer(source, reference, top, _DEPTH_MAX)
    what = f"layer {layer.digest} of image {reference}"
    if layer.size > limits.GUEST_MODULE_BYTES_MAX:
        raise TooLarge(f"{what} is {layer.size} bytes; the limit is {limits.GUEST_MODULE_BYTES_MAX}")
    content = await source.blob(reference, layer)
    module, digest = await _unpack(content, layer.digest, what, offload)
    return ImageModule(reference=str(reference), manifest_digest=top.digest, digest=digest, content=module)


async def verify(content: bytes, digest: str, what: str, offload: Offload) -> bytes:
    """Return `content` if it has `digest`, else raise `PeerRefused`."""
    if await _maybe_offload(offload, content, matches, digest, content):
        return content
    raise PeerRefused(
        f"{what} does not have its digest {digest}: it was changed on the way or in the registry",
        code="digest_mismatch",
    )


async def sha256_hex(content: bytes, offload: Offload) -> str:
    """The SHA-256 of `content` in hex."""
    digest: str = await _maybe_offload(offload, content, digest_of, content)
    return digest.removeprefix("sha256:")


def parse_manifest(stored: StoredManifest, what: str) -> Manifest:
    """Read a stored manifest; a malformed one is the registry's fault (`PeerRefused`)."""
    try:
        return read_manifest(stored.content, what)
    except DecodeError as error:
        raise PeerRefused(error.message, code="bad_manifest") from error


async def _unpack(content: bytes, layer_digest: str, what: str, offload: Offload) -> tuple[bytes, str]:
    known = hex_of(layer_digest)
    if is_wasm(content) and known is not None:
        return module_of(content, what), known
    # A small layer can still unpack to a large module, so unpacking always leaves the loop.
    module: bytes = await offload(module_of, content, what)
    return module, await sha256_hex(module, offload)


async def _maybe_offload(offload: Offload, content: bytes, work: Callable[..., Any], *args: object) -> Any:
    return work(*args) if len(content) < _OFFLOAD_BYTES else await offload(work, *args)


async def _find_layer(
    source: ImageSource, reference: Reference, stored: StoredManifest, depth: int
) -> Descriptor:
    what = f"image {reference.with_digest(stored.digest)}"
    manifest = parse_manifest(stored, what)
    if not manifest.is_index:
        return choose_layer(manifest, what)
    if depth == 0:
        raise PeerRefused(f"{what} is an index nested more than {_DEPTH_MAX} deep", code="bad_manifest")
    for child in order_children(manifest):
        held = await source.manifest(reference.with_digest(child.digest))
        try:
            return await _find_layer(source, reference, held, depth - 1)
        except PeerRefused as error:
            if error.reason != "no_wasm_layer":
                raise
    raise no_wasm(what, (_kind(one) for one in manifest.manifests or ()))


def _kind(child: Descriptor) -> str:
    platform = child.platform
    return f"{child.media_type} for {platform.os}/{platform.architecture}" if platform else child.media_type
