"""The wasmtime engine as every worker sets it up: what guests may use, and how compiled code is recognised.

It decides features and determinism; it knows nothing of jobs, files or host functions.
"""

import ctypes
import hashlib
import platform
from pathlib import Path
from typing import Final

import wasmtime
from wasmtime import Config, Engine
from wasmtime import _bindings as c_api

from propeller.runtime.linear import LinearMemories

MEMORY_RESERVATION_BYTES: Final = 4 * 1024**3
"""Address space per memory: all that 32 bits can name, so that compiled code needs no bounds checks."""
MEMORY_GUARD_BYTES: Final = 32 * 1024**2
TABLES_MAX: Final = 16
MEMORIES_MAX: Final = 16
_HOST_PART_BYTES: Final = 2 * 1024**2

_SETTINGS: Final = (
    # Time limits by epoch; a guest's arithmetic is the same on every machine, NaN payloads included.
    ("epoch_interruption", True),
    ("cranelift_nan_canonicalization", True),
    ("wasm_relaxed_simd_deterministic", True),
    # Off: what lets a guest start threads, or hold memory that no account sees.
    ("wasm_threads", False),
    ("wasm_memory64", False),
    ("wasm_gc", False),
    ("wasm_exceptions", False),
    ("wasm_function_references", False),
    ("wasm_stack_switching", False),
    ("memory_reservation", MEMORY_RESERVATION_BYTES),
    ("memory_guard_size", MEMORY_GUARD_BYTES),
    ("memory_may_move", False),
)


class Sandbox:
    """One engine and the memories of its guests; the stack size is the engine's, so the sandbox's."""

    def __init__(self, stack_bytes: int) -> None:
        self.stack_bytes = stack_bytes
        self.memories = LinearMemories()
        config = Config()
        for name, value in _SETTINGS:
            setattr(config, name, value)
        _allow_stack(config, stack_bytes)
        self.memories.install(config)
        self.engine = Engine(config)


def _allow_stack(config: Config, stack_bytes: int) -> None:
    """Set the guest's stack, and the engine's bound on it, which the Python package leaves unbound."""
    set_bound = c_api.dll.wasmtime_config_async_stack_size_set  # type: ignore[attr-defined]
    set_bound.restype, set_bound.argtypes = None, [ctypes.c_void_p, ctypes.c_uint64]
    set_bound(config.ptr(), stack_bytes + _HOST_PART_BYTES)
    config.max_wasm_stack = stack_bytes


def fingerprint() -> str:
    """Names everything but the module that decides compiled code: release, machine, processor, settings."""
    parts = (
        _release(),
        platform.system(),
        platform.machine(),
        _processor_features(),
        repr(_SETTINGS),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _release() -> str:
    """The installed wasmtime, by its distribution's name; `importlib.metadata` takes 50 ms to say it."""
    installed = Path(wasmtime.__file__).parent.parent
    names = sorted(path.name for path in installed.glob("wasmtime-*.dist-info"))
    libraries = sorted(path.stat().st_size for path in installed.glob("wasmtime/*/*wasmtime*"))
    return f"{names} {libraries}"


def _processor_features() -> str:
    """The first processor's feature line: a cache may follow its disk to another machine."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""
