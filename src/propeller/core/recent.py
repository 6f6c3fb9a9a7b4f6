"""What was used of late and can be had again: so many bytes at most; what was unused the longest goes first.

It must not know what it keeps.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by name, of `bytes_max` together at most."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._bytes = 0

    def get(self, name: str) -> T | None:
        """The value of that name, if it is still kept."""
        found = self._kept.get(name)
        if found is None:
            return None
        self._kept.move_to_end(name)
        return found[0]

    def put(self, name: str, value: T, size_bytes: int) -> None:
        """Keep a value in place of an earlier one; one that is larger than all may be is not kept."""
        self.drop(name)
        if size_bytes > self._bytes_max:
            return
        self._kept[name] = value, size_bytes
        self._bytes += size_bytes
        while self._bytes > self._bytes_max:
            _, (_, size) = self._kept.popitem(last=False)
            self._bytes -= size

    def drop(self, name: str) -> None:
        """Forget the value of that name, if it is kept."""
        _, size = self._kept.pop(name, (None, 0))
        self._bytes -= size
