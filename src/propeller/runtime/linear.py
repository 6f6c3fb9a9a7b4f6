"""Linear memories counted exactly: what a guest holds, the most it held, and whether it was refused more.

Wasmtime's own store limits hold per memory and leave no trace of a refusal, so a guest that dies because an
allocation failed looks like any other. This module gives the engine its memories instead (the host memory
creator of the C API). It knows nothing of jobs; only of one budget, which is everything one guest may hold.
"""

import ctypes
import mmap
from dataclasses import dataclass
from typing import Any, Final

from wasmtime import Config
from wasmtime import _bindings as c_api

_MAP_NORESERVE: Final = 0x4000
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE
_FAILED: Final = ctypes.c_void_p(-1).value

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

_creator_fields: Final[dict[str, Any]] = {f[0]: f[1] for f in c_api.wasmtime_memory_creator._fields_}
_memory_fields: Final[dict[str, Any]] = {f[0]: f[1] for f in c_api.wasmtime_linear_memory._fields_}


@dataclass(slots=True)
class _Memory:
    size_bytes: int
    capacity_bytes: int
    mapped_bytes: int


class LinearMemories:
    """Every linear memory of one engine, under one budget.

    `install` it into a `Config` and keep it alive as long as the engine; `rebudget` before each guest.
    A memory is an address range that grows in place: readable up to its size, a trap beyond.
    """

    def __init__(self) -> None:
        self.limit_bytes = 0
        self.held_bytes = 0
        self.peak_bytes = 0
        self.refused = False
        self._memories: dict[int, _Memory] = {}
        self._callbacks = (
            _creator_fields["new_memory"](self._create),
            _creator_fields["finalizer"](lambda _env: None),
            _memory_fields["get_memory"](self._describe),
            _memory_fields["grow_memory"](self._grow),
            _memory_fields["finalizer"](self._release),
        )

    def install(self, config: Config) -> None:
        """Make engines of `config` take their memories from here.

        Copy-on-write images of initial data are a privilege of wasmtime's own memories, so they are off.
        """
        config.memory_init_cow = False
        creator: Any = c_api.wasmtime_memory_creator()
        creator.new_memory, creator.finalizer = self._callbacks[:2]
        c_api.wasmtime_config_host_memory_creator_set(config.ptr(), ctypes.byref(creator))

    def rebudget(self, limit_bytes: int) -> None:
        """Begin a new guest's account."""
        self.limit_bytes = limit_bytes
        self.peak_bytes = self.held_bytes
        self.refused = False

    # What follows is called by the engine through C: an exception would be lost, so nothing here raises, and
    # a refusal is a pointer to an error.

    def _create(
        self,
        _env: int | None,
        _type: Any,
        minimum_bytes: int,
        _maximum_bytes: int,
        reserved_bytes: int,
        guard_bytes: int,
        created: Any,
    ) -> int:
        if not self._charge(minimum_bytes):
            return _refusal(f"{minimum_bytes} bytes of linear memory exceed the limit of {self.limit_bytes}")
        capacity_bytes = max(reserved_bytes, minimum_bytes)
        base = _reserve(capacity_bytes + guard_bytes)
        if base is None:
            return _refusal("this machine has no address space left for a linear memory")
        if not _open(base, minimum_bytes):
            _libc.munmap(base, capacity_bytes + guard_bytes)
            return _refusal("this machine has no memory left for a linear memory")
        self._memories[base] = _Memory(minimum_bytes, capacity_bytes, capacity_bytes + guard_bytes)
        memory = created.contents
        memory.env = base
        memory.get_memory, memory.grow_memory, memory.finalizer = self._callbacks[2:]
        return 0

    def _describe(self, base: int, size: Any, capacity: Any) -> int:
        memory = self._memories[base]
        size[0] = memory.size_bytes
        capacity[0] = memory.capacity_bytes
        return base

    def _grow(self, base: int, size_bytes: int) -> int:
        memory = self._memories[base]
        if size_bytes > memory.capacity_bytes or not self._charge(size_bytes - memory.size_bytes):
            return _refusal("over the memory limit")
        if not _open(base, size_bytes):
            self.held_bytes -= size_bytes - memory.size_bytes
            self.refused = True
            return _refusal("this machine has no memory left")
        memory.size_bytes = size_bytes
        return 0

    def _release(self, base: int) -> None:
        memory = self._memories.pop(base)
        self.held_bytes -= memory.size_bytes
        _libc.munmap(base, memory.mapped_bytes)

    def _charge(self, more_bytes: int) -> bool:
        if self.held_bytes + more_bytes > self.limit_bytes:
            self.refused = True
            return False
        self.held_bytes += more_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return True


def _reserve(size_bytes: int) -> int | None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    base = _libc.mmap(None, size_bytes, 0, flags, -1, 0)
    return None if base == _FAILED else int(base)


def _open(base: int, size_bytes: int) -> bool:
    return size_bytes == 0 or _libc.mprotect(base, size_bytes, _READ_WRITE) == 0


def _refusal(message: str) -> int:
    error = c_api.wasmtime_error_new(message.encode())
    return int(ctypes.cast(error, ctypes.c_void_p).value or 0)
