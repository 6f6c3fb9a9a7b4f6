"""What a JSON text must be beyond valid: not nested too deeply, and no name twice in one object.

Parsers differ on both: one takes the first of two equal names, another the last, and each gives up at a depth
of its own. It reads brackets, strings and colons only, and leaves all else to the parser, which comes after.
"""

import re
from itertools import accumulate

import msgspec

from propeller import limits
from propeller.errors import DecodeError

_OUTSIDE = re.compile(rb'["{}\[\]]')
_NAME_END = re.compile(rb'"[ \t\r\n]*:')
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = [1 if byte in b"[{" else -1 for byte in range(256)]


def check_depth(data: bytes, what: str) -> None:
    """Raise `DecodeError` if `data` is nested deeper than `limits.JSON_DEPTH_MAX`.

    Free for all but unusual texts: so few brackets cannot nest too deeply.
    """
    if data.count(b"[") + data.count(b"{") <= limits.JSON_DEPTH_MAX:
        return
    brackets = _STRING.sub(b"", data).translate(None, _NO_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > limits.JSON_DEPTH_MAX:
        raise DecodeError(f"{what} is nested too deeply (over {limits.JSON_DEPTH_MAX} levels)")


def check_names(data: bytes, what: str) -> None:
    """Raise `DecodeError` for a name that comes twice in one object of `data`, or for too deep nesting."""
    _walk(data, what)


def _walk(data: bytes, what: str) -> None:
    open_objects: list[set[bytes] | None] = []
    at = 0
    while (found := _OUTSIDE.search(data, at)) is not None:
        at = found.end()
        match found[0]:
            case b'"':
                at = _string(data, at, open_objects, what)
            case b"{":
                _enter(open_objects, set(), what)
            case b"[":
                _enter(open_objects, None, what)
            case _ if open_objects:
                open_objects.pop()


def _enter(open_objects: list[set[bytes] | None], names: set[bytes] | None, what: str) -> None:
    open_objects.append(names)
    if len(open_objects) > limits.JSON_DEPTH_MAX:
        raise DecodeError(f"{what} is nested too deeply (over {limits.JSON_DEPTH_MAX} levels)")


def _string(data: bytes, begin: int, open_objects: list[set[bytes] | None], what: str) -> int:
    """Where the string that begins there ends; notes it if it is a name."""
    end = data.find(b'"', begin)
    while end > 0 and data[end - 1] == 92 and _escaped(data, begin, end):  # noqa: PLR2004 - a backslash
        end = data.find(b'"', end + 1)
    if end < 0:
        return len(data)
    names = open_objects[-1] if open_objects else None
    if names is not None and _NAME_END.match(data, end):
        name = _plain(data[begin:end])
        if name in names:
            raise DecodeError(
                f"{what} has the name {name[:64].decode(errors='replace')!r} twice in one object"
            )
        names.add(name)
    return end + 1


def _escaped(data: bytes, begin: int, quote: int) -> bool:
    before = quote
    while before > begin and data[before - 1] == 92:  # noqa: PLR2004 - a backslash
        before -= 1
    return (quote - before) % 2 == 1


def _plain(name: bytes) -> bytes:
    """The name without escapes: a letter and its escape are one name."""
    if b"\\" not in name:
        return name
    try:
        return msgspec.json.decode(b'"' + name + b'"', type=str).encode(errors="surrogatepass")
    except msgspec.DecodeError:
        return name
