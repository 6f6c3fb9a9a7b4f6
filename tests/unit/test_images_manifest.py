import msgspec
import pytest

from propeller import limits
from propeller.errors import DecodeError, PeerRefused, TooLarge
from propeller.images.artifact import encode_config, encode_manifest
from propeller.images.digest import digest_of
from propeller.images.manifest import (
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    TITLE,
    WASM_LAYER,
    WASM_LAYERS,
    Descriptor,
    choose_layer,
    order_children,
    read_manifest,
)

D = "sha256:" + "0" * 64
TAR = "application/vnd.oci.image.layer.v1.tar"


def layer(media_type, title="", digest=D, **more):
    """A descriptor as it stands in a manifest."""
    annotations = {"annotations": {TITLE: title}} if title else {}
    return {"mediaType": media_type, "digest": digest, "size": 8, **annotations, **more}


def image(*layers, **more):
    """The bytes of an image manifest."""
    return msgspec.json.encode(
        {"schemaVersion": 2, "config": layer("application/x"), "layers": layers, **more}
    )


def index(*children, **more):
    """The bytes of an image index."""
    return msgspec.json.encode({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": children, **more})


@pytest.mark.parametrize("media_type", sorted(WASM_LAYERS))
def test_layer_of_a_wasm_type_is_chosen(media_type):
    """Each media type that says Wasm is taken before anything else, wherever it stands (defect 4.20)."""
    manifest = read_manifest(image(layer(TAR, "x.wasm"), layer(media_type, digest=D[:-1] + "1")), "it")
    assert choose_layer(manifest, "it").digest == D[:-1] + "1"


def test_titled_layer_comes_before_untyped():
    """Without a Wasm type, the layer whose title ends in .wasm is the module."""
    manifest = read_manifest(image(layer(TAR), layer(TAR, "m.wasm", digest=D[:-1] + "2")), "it")
    assert choose_layer(manifest, "it").digest == D[:-1] + "2"


@pytest.mark.parametrize("media_type", [TAR, TAR + "+gzip", "application/octet-stream"])
def test_only_layer_is_tried(media_type):
    """A single layer of a type that may pack a module is tried; its bytes will decide."""
    assert choose_layer(read_manifest(image(layer(media_type)), "it"), "it").media_type == media_type


def test_no_wasm_layer_names_what_is_there():
    """An image of something else is refused, and the error lists its media types."""
    with pytest.raises(PeerRefused, match=r"no Wasm layer.*\+gzip, text/x") as caught:
        choose_layer(read_manifest(image(layer(TAR + "+gzip"), layer("text/x")), "it"), "it")
    assert caught.value.reason == "no_wasm_layer"


def test_an_image_without_layers_is_refused():
    """No layers at all is refused as well."""
    with pytest.raises(PeerRefused, match="media types are: none"):
        choose_layer(read_manifest(image(), "it"), "it")


def test_children_of_an_index_in_order_of_platform():
    """wasm/wasip1 comes first, then other wasm platforms, then the rest; attestations never."""
    names = [
        ("linux", "amd64"),
        ("wasip2", "wasm"),
        ("unknown", "unknown"),
        ("wasip1", "wasm"),
        ("wasi", "wasm32"),
    ]
    children = [layer(IMAGE_MANIFEST, platform={"os": os, "architecture": arch}) for os, arch in names]
    ordered = order_children(read_manifest(index(*children), "it"))
    assert [one.platform.os for one in ordered] == ["wasip1", "wasip2", "wasi", "linux"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schemaVersion":1,"layers":[]}',
        b'{"schemaVersion":"2"}',
        image(layer(TAR, digest="sha256:../../etc/passwd")),
        image({"mediaType": TAR, "digest": D, "size": -1}),
        image({"mediaType": TAR, "digest": D}),
        image(layer(TAR), manifests=[]),
        index(layer(IMAGE_MANIFEST, digest="x")),
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_malformed_manifests_are_decode_errors(content):
    """Whatever bytes a peer calls a manifest, reading them gives a manifest or `DecodeError`."""
    with pytest.raises(DecodeError):
        read_manifest(content, "it")


def test_a_manifest_over_the_limit_is_too_large():
    """Manifests are bounded before they are parsed."""
    with pytest.raises(TooLarge):
        read_manifest(b" " * (limits.OCI_MANIFEST_BYTES_MAX + 1), "it")


def test_nulls_of_other_encoders_are_read():
    """Go programs write null for an empty list or map."""
    content = b'{"schemaVersion":2,"layers":null,"annotations":null,"manifests":null}'
    assert read_manifest(content, "it").contents() == []


def test_what_we_push_is_the_cncf_layout():
    """Config and manifest are those of the CNCF layout of Wasm artifacts, byte for byte the same."""
    wasm = b"\0asm\x01\0\0\0"
    config = encode_config(wasm, digest_of(wasm), "2024-01-01T00:00:00Z")
    assert msgspec.json.decode(config) == {
        "created": "2024-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip1",
        "layerDigests": [digest_of(wasm)],
    }
    one = Descriptor(media_type=WASM_LAYER, digest=digest_of(wasm), size=8, annotations={TITLE: "m.wasm"})
    manifest = encode_manifest(layer=one, config=config, annotations={"b": "2", "a": "1"})
    assert manifest == encode_manifest(layer=one, config=config, annotations={"a": "1", "b": "2"})
    assert msgspec.json.decode(manifest) == {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": {
            "mediaType": "application/vnd.wasm.config.v0+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": "application/wasm",
                "digest": digest_of(wasm),
                "size": 8,
                "annotations": {TITLE: "m.wasm"},
            }
        ],
        "annotations": {"a": "1", "b": "2"},
    }


def test_a_component_is_for_wasip2():
    """The component model's version byte decides the platform of the config."""
    component = b"\0asm\x0d\0\x01\0"
    assert msgspec.json.decode(encode_config(component, D, "x"))["os"] == "wasip2"
