import gzip
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propeller.errors import PeerRefused, TooLarge
from propeller.images.layer import module_of

WASM = b"\0asm\x01\0\0\0" + b"code" * 100


def tar(**files):
    """A tar with these files; `x__wasm` is written as `x.wasm`."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo("./bin/" + name.replace("__", "."))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return held.getvalue()


PACKED = gzip.compress(tar(m__wasm=WASM))
IN_PIECES = gzip.compress(tar(m__wasm=WASM)[:512]) + gzip.compress(tar(m__wasm=WASM)[512:])
BESIDE = gzip.compress(tar(m__wasm=WASM, readme__md=b"x"))


@pytest.mark.parametrize(
    "content",
    [WASM, gzip.compress(WASM, mtime=0), tar(m__wasm=WASM), PACKED, BESIDE, IN_PIECES],
    ids=["raw", "gzip", "tar", "tar.gz", "tar.gz with more", "many-member tar.gz"],
)
def test_module_is_found_in_every_packing(content):
    """Raw, gzipped, in a tar, in a gzipped tar, in a gzip file of several members: the same module."""
    assert module_of(content, "it") == WASM


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "neither Wasm nor a tar"),
        (b"hello" * 200, "neither Wasm nor a tar"),
        (tar(readme__md=b"x"), "0 files named"),
        (tar(a__wasm=WASM, b__wasm=WASM), "2 files named"),
        (tar(a__wasm=b"elf"), "does not begin with the Wasm magic"),
        (gzip.compress(WASM, mtime=0)[:-9], "ends too early"),
        (b"\x1f\x8b" + b"\xff" * 50, "damaged gzip"),
    ],
)
def test_layers_without_one_module_are_refused(content, why):
    """None, two, damaged or not Wasm: refused with the reason."""
    with pytest.raises(PeerRefused, match=why):
        module_of(content, "it")


def test_decompression_is_bounded():
    """A gzip bomb stops at the bound instead of filling memory."""
    with pytest.raises(TooLarge, match="decompresses to more than 20000 bytes"):
        module_of(gzip.compress(b"\0" * 10_000_000), "it", 10_000)


def test_a_module_over_the_limit_is_too_large():
    """The limit holds for raw and packed modules alike."""
    for content in (WASM, tar(m__wasm=WASM)):
        with pytest.raises(TooLarge):
            module_of(content, "it", len(WASM) - 1)


@given(st.binary(max_size=2000) | st.binary(max_size=600).map(lambda noise: tar(m__wasm=WASM)[:600] + noise))
def test_any_bytes_give_a_module_or_a_refusal(content):
    """Whatever a registry serves as a layer, the answer is a module or an error of ours."""
    try:
        assert module_of(content, "it").startswith(b"\0asm")
    except (PeerRefused, TooLarge) as error:
        assert "it" in error.message  # noqa: PT017 - either outcome is lawful
