"""Fewer data segments, the same module: neighbours are joined, with the zeros that lie between them.

Go's linker leaves out every run of zeros and so writes tens of thousands of segments. Our engine cannot map
initial data as an image (its memories are our own, see `linear`), so each segment becomes code of one
function, whose compilation grows faster than their number: a Go program of 4.5 MB with 42,024 segments took
21 s of processor time and 930 MB; joined into 7, it takes 6 s and 125 MB. Knows the binary format
(https://webassembly.github.io/spec/core/binary/modules.html) as far as that needs, and nothing of jobs.
"""

from dataclasses import dataclass
from typing import Final

SEGMENTS_FEW: Final = 64
"""A module with no more segments than this stays as it is: there is nothing to gain."""
SEGMENTS_MAX: Final = 500_000
SECTIONS_MAX: Final = 1_000
"""Modules with more are left alone: no compiler makes them, and reading them here would take minutes."""
GAP_BYTES_MAX: Final = 256
"""Zeros that are written out to join two neighbours."""

_HEADER_BYTES: Final = 8
_DATA, _DATA_COUNT = 11, 12
_ACTIVE: Final = 0
_I32_CONST, _END = 0x41, 0x0B
_LEB_BYTES_MAX: Final = 5
_U32: Final = 0xFFFF_FFFF


class _Otherwise(Exception):
    """Something that joining does not understand, and therefore leaves alone."""


@dataclass(slots=True)
class _Reader:
    """A cursor over bytes; whatever runs past the end is `_Otherwise`."""

    content: memoryview
    at: int = 0

    def byte(self) -> int:
        if self.at >= len(self.content):
            raise _Otherwise
        self.at += 1
        return self.content[self.at - 1]

    def leb(self) -> tuple[int, int]:
        """The bits of a LEB128 number, and how many there are."""
        value = 0
        for place in range(_LEB_BYTES_MAX):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * place)
            if not byte & 0x80:
                return value, 7 * (place + 1)
        raise _Otherwise

    def unsigned(self) -> int:
        return self.leb()[0] & _U32

    def signed(self) -> int:
        """A signed number as the unsigned one of the same 32 bits, which is what an address is."""
        value, bits = self.leb()
        return (value - (1 << bits) if value >> (bits - 1) & 1 else value) & _U32

    def take(self, count: int) -> memoryview:
        if count > len(self.content) - self.at:
            raise _Otherwise
        self.at += count
        return self.content[self.at - count : self.at]


def joined(module: bytes) -> bytes:
    """A core module that does the same, with few data segments; `module` itself where there is no need.

    Only active segments of the first memory at constant addresses that do not overlap are joined, and only
    where no instruction can name a segment (there is no data count section). A memory from outside, whose
    bytes in the gaps need not be zero, is nothing that this runtime ever provides. Malformed modules come
    back as they are: the compiler says what is wrong. At most doubles the size.
    """
    try:
        return _rewritten(memoryview(module)) or module
    except _Otherwise:
        return module


def _rewritten(module: memoryview) -> bytes | None:
    reader = _Reader(module, _HEADER_BYTES)
    parts: list[bytes | memoryview] = [module[:_HEADER_BYTES]]
    changed = False
    for _ in range(SECTIONS_MAX):
        if reader.at >= len(module):
            return b"".join(parts) if changed else None
        begin = reader.at
        section, size = reader.byte(), reader.unsigned()
        body = reader.take(size)
        if section == _DATA_COUNT:
            return None
        if section == _DATA and (data := _joined_data(body)):
            parts += [bytes([_DATA]), _leb(len(data)), data]
            changed = True
        else:
            parts.append(module[begin : reader.at])
    return None


def _joined_data(body: memoryview) -> bytes | None:
    reader = _Reader(body)
    count = reader.unsigned()
    if not SEGMENTS_FEW < count <= SEGMENTS_MAX:
        return None
    # As they do not overlap, their order says nothing.
    found = sorted((_segment(reader) for _ in range(count)), key=lambda one: one[0])
    segments: list[tuple[int, bytearray]] = []
    end, room_bytes = 0, len(body)
    for address, content in found:
        gap = address - end
        if gap < 0:
            raise _Otherwise
        end = address + len(content)
        if segments and gap <= min(GAP_BYTES_MAX, room_bytes):
            room_bytes -= gap
            segments[-1][1].extend(bytes(gap))
            segments[-1][1].extend(content)
        else:
            segments.append((address, bytearray(content)))
    return _leb(len(segments)) + b"".join(_written(*one) for one in segments)


def _segment(reader: _Reader) -> tuple[int, memoryview]:
    """Address and content of an active segment of memory 0."""
    if reader.byte() != _ACTIVE or reader.byte() != _I32_CONST:
        raise _Otherwise
    address = reader.signed()
    if reader.byte() != _END:
        raise _Otherwise
    return address, reader.take(reader.unsigned())


def _written(address: int, content: bytearray) -> bytes:
    return b"".join(
        (bytes([_ACTIVE, _I32_CONST]), _signed_leb(address), bytes([_END]), _leb(len(content)), content)
    )


def _leb(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits to a byte, as everywhere in this encoding
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _signed_leb(address: int) -> bytes:
    """An address as the signed 32-bit number of the same bits, always in five bytes."""
    value = address - (1 << 32) if address >> 31 else address
    return bytes([value >> 7 * place & 0x7F | 0x80 for place in range(4)] + [value >> 28 & 0x7F])
