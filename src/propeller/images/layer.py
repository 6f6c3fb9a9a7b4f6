"""The module inside a layer: raw Wasm, or the one `*.wasm` file of a tar, gzipped or not. Pure.

It must not trust media types or sizes: the bytes decide, and decompression is bounded.
"""

import io
import tarfile
import zlib

from propeller import limits
from propeller.errors import PeerRefused, TooLarge

WASM_MAGIC = b"\0asm"
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = zlib.MAX_WBITS | 16
_COMPONENT_VERSION = 0x0D
"""The fifth byte of a component (component-model binary format); a core module has 1."""


def is_wasm(content: bytes) -> bool:
    """Whether `content` begins like a Wasm module or component."""
    return content.startswith(WASM_MAGIC)


def is_component(content: bytes) -> bool:
    """Whether `content` begins like a component rather than a core module."""
    return is_wasm(content) and content[4:5] == bytes([_COMPONENT_VERSION])


def module_of(content: bytes, what: str, limit_bytes: int = limits.GUEST_MODULE_BYTES_MAX) -> bytes:
    """The module in a layer's bytes; `what` names the layer in errors.

    Raises `PeerRefused` if there is none or more than one, `TooLarge` for a module over `limit_bytes`.
    """
    # A tar with one module is at most a few blocks longer than the module, unless it holds other files too.
    plain = _gunzip(content, what, 2 * limit_bytes) if content.startswith(_GZIP_MAGIC) else content
    module = plain if is_wasm(plain) else _untar(plain, what, limit_bytes)
    _check_size(len(module), what, limit_bytes)
    return module


def _gunzip(content: bytes, what: str, bound: int) -> bytes:
    """Decompress every member of a gzip file (lazily pullable layers have many), never past the bound."""
    plain = bytearray()
    while content.startswith(_GZIP_MAGIC):
        stream = zlib.decompressobj(_GZIP_WINDOW)
        try:
            plain += stream.decompress(content, bound - len(plain) + 1)
        except zlib.error as error:
            raise PeerRefused(f"{what} is a damaged gzip stream: {error}", code="bad_layer") from error
        if len(plain) > bound:
            raise TooLarge(f"{what} decompresses to more than {bound} bytes")
        if not stream.eof:
            raise PeerRefused(f"{what} is a gzip stream that ends too early", code="bad_layer")
        content = stream.unused_data
    return bytes(plain)


def _untar(content: bytes, what: str, limit_bytes: int) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            name, module = _only_module(archive, what, limit_bytes)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise PeerRefused(
            f"{what} is neither Wasm nor a tar with a *.wasm file ({error})", code="no_wasm_layer"
        ) from error
    if not is_wasm(module):
        raise PeerRefused(
            f"{what} holds {name[:160]!r}, which does not begin with the Wasm magic", code="no_wasm_layer"
        )
    return module


def _only_module(archive: tarfile.TarFile, what: str, limit_bytes: int) -> tuple[str, bytes]:
    members = [one for one in archive if one.isfile() and one.name.endswith(".wasm")]
    if len(members) != 1:
        raise PeerRefused(
            f"{what} is a tar with {len(members)} files named *.wasm; exactly one is needed",
            code="no_wasm_layer",
        )
    # A sparse member can claim far more bytes than the archive has: ask before reading.
    _check_size(members[0].size, what, limit_bytes)
    opened = archive.extractfile(members[0])
    return members[0].name, opened.read() if opened is not None else b""


def _check_size(size: int, what: str, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise TooLarge(f"{what} holds a module of {size} bytes; the limit is {limit_bytes}")
