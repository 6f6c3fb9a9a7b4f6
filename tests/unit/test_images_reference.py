import pytest

from propeller.errors import BadInput
from propeller.images.reference import ModuleUrl, Reference, is_repository, parse_image

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        (
            "localhost:5000/fl-client-wasm:latest",
            "localhost:5000",
            "fl-client-wasm",
            "latest",
            None,
        ),
        ("localhost/fl-client-wasm", "localhost", "fl-client-wasm", "latest", None),
        ("local-registry:5000/a/b/c:v1", "local-registry:5000", "a/b/c", "v1", None),
        ("ghcr.io/org/app:v1.2-rc_3", "ghcr.io", "org/app", "v1.2-rc_3", None),
        (f"ghcr.io/org/app@{DIGEST}", "ghcr.io", "org/app", None, DIGEST),
        (f"ghcr.io/org/app:v1@{DIGEST}", "ghcr.io", "org/app", "v1", DIGEST),
        ("oci://10.0.0.7:5000/x:1", "10.0.0.7:5000", "x", "1", None),
        ("[::1]:5000/x", "[::1]:5000", "x", "latest", None),
        ("Registry/x", "Registry", "x", "latest", None),
        ("  ghcr.io/x  ", "ghcr.io", "x", "latest", None),
    ],
)
def test_reference_parts(text, registry, repository, tag, digest):
    """Registry, repository, tag and digest are told apart as the distribution reference grammar says."""
    found = Reference.parse(text)
    assert (found.registry, found.repository, found.tag, found.digest) == (registry, repository, tag, digest)
    assert Reference.parse(str(found)) == found


@pytest.mark.parametrize("text", ["fl-client:latest", "fl-client", "org/app:v1", "localhost:5000", ""])
def test_reference_without_registry_is_refused(text):
    """A name that leaves its registry out means nothing here, and the error says what to write."""
    with pytest.raises(BadInput, match=r"names no registry: write host\[:port\]/name"):
        Reference.parse(text)


def test_default_registry_is_used_only_when_passed():
    """A caller that has a default registry gets it for names without one, and only for those."""
    assert str(Reference.parse("a/b:1", default_registry="ghcr.io")) == "ghcr.io/a/b:1"
    assert str(Reference.parse("quay.io/b:1", default_registry="ghcr.io")) == "quay.io/b:1"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ghcr.io/App:v1", "repository 'App'"),
        ("ghcr.io/a//b", "repository 'a//b'"),
        ("ghcr.io/../b", "repository '../b'"),
        ("ghcr.io/a:bad tag", "tag 'bad tag'"),
        ("ghcr.io/a:", "tag ''"),
        (f"ghcr.io/a:{'t' * 129}", "tag 'ttt"),
        ("ghcr.io:99999/a", "registry 'ghcr.io:99999'"),
        ("-bad.io/a", "registry '-bad.io'"),
        ("user:pw@ghcr.io/a", "is not a digest"),
        ("ghcr.io/a@", "nothing follows '@'"),
        ("ghcr.io/a@sha256:abc", "is not a digest"),
        ("ghcr.io/a@md5:" + "a" * 32, "is not a digest"),
        ("ftp://ghcr.io/a", "scheme"),
        ("ghcr.io/" + "a" * 201, "200 characters"),
    ],
)
def test_unlawful_references_say_what_is_wrong(text, why):
    """Every part that breaks the grammar is named in the error."""
    with pytest.raises(BadInput) as caught:
        Reference.parse(text)
    assert why in caught.value.message


def test_pinning_and_moving_a_reference():
    """`with_digest` keeps the tag for people; `with_registry` keeps everything but the host."""
    reference = Reference.parse("local-registry:5000/a/b:v1")
    assert str(reference.with_registry("127.0.0.1:5001")) == "127.0.0.1:5001/a/b:v1"
    pinned = reference.with_digest(DIGEST)
    assert str(pinned) == f"local-registry:5000/a/b:v1@{DIGEST}"
    assert pinned.target == DIGEST
    assert reference.target == "v1"
    with pytest.raises(BadInput):
        reference.with_registry("http://x")


def test_plain_urls_are_no_references():
    """An image_url may be an http(s) URL; everything else is an OCI reference."""
    assert parse_image("https://host/x.wasm") == ModuleUrl(url="https://host/x.wasm")
    assert parse_image("HTTP://host/x.wasm") == ModuleUrl(url="HTTP://host/x.wasm")
    assert parse_image("host:1/x") == Reference(registry="host:1", repository="x", tag="latest")


LAWFUL = ("a", "a/b-c/d_e/f.g", "a__b", "a---b", "0/0")
UNLAWFUL = ("a___b", "a..b", "_a", "a/", "/a", "", "a\n", "á", "A", "a/../b", "..")


@pytest.mark.parametrize(
    ("name", "lawful"), [*((one, True) for one in LAWFUL), *((one, False) for one in UNLAWFUL)]
)
def test_repository_grammar(name, lawful):
    """Repository names are exactly those of the distribution specification."""
    assert is_repository(name) is lawful
