"""The Wasm artifact that we push: config and manifest as bytes. Pure and deterministic.

Follows the CNCF layout of Wasm artifacts: an OCI 1.1 image manifest, a config of type
`application/vnd.wasm.config.v0+json`, one layer `application/wasm`. It must not know how they are sent.
"""

from collections.abc import Mapping

import msgspec

from propeller.images.digest import digest_of
from propeller.images.layer import is_component
from propeller.images.manifest import (
    IMAGE_MANIFEST,
    SCHEMA_VERSION,
    WASM_CONFIG,
    Descriptor,
    Manifest,
)
from propeller.wire import codec

EPOCH = "1970-01-01T00:00:00Z"
"""`created` of an image pushed without a time: the same module then is the same image, pushed by anyone."""
MODULE_TITLE = "module.wasm"
"""The file name of a layer pushed without one; not the repository's, so that a copy is the same image."""


class _WasmConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The config of a Wasm artifact (CNCF layout)."""

    created: str
    architecture: str
    os: str
    layer_digests: list[str]


def encode_config(wasm: bytes, layer_digest: str, created: str) -> bytes:
    """The config blob of a Wasm artifact.

    A component's imports and exports, which the layout would like to have, are left out: we do not read them.
    """
    return codec.encode(
        _WasmConfig(
            created=created,
            architecture="wasm",
            os="wasip2" if is_component(wasm) else "wasip1",
            layer_digests=[layer_digest],
        )
    )


def encode_manifest(*, layer: Descriptor, config: bytes, annotations: Mapping[str, str]) -> bytes:
    """The manifest of an image with one layer; annotations are sorted: equal images are equal bytes."""
    return codec.encode(
        Manifest(
            schema_version=SCHEMA_VERSION,
            media_type=IMAGE_MANIFEST,
            config=Descriptor(media_type=WASM_CONFIG, digest=digest_of(config), size=len(config)),
            layers=[layer],
            annotations=dict(sorted(annotations.items())) or None,
        )
    )
