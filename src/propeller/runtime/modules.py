"""From a module's bytes to loaded machine code: verify, compile once per machine, map, remember.

Runs on the job's thread of a worker. It knows the cache and the engine, not what will be run.
"""

import ctypes
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from wasmtime import Module, WasmtimeError
from wasmtime.component import Component

from propeller import limits
from propeller.runtime.cache import CompileCache
from propeller.runtime.engine import Sandbox, fingerprint
from propeller.runtime.failure import Unfit
from propeller.runtime.segments import joined

Loaded = Module | Component
Kind = Literal["core", "component"]

_MAGIC: Final = b"\0asm"
_KINDS: Final[dict[bytes, Kind]] = {b"\1\0\0\0": "core", b"\x0d\0\1\0": "component"}
_CLASSES: Final[dict[Kind, type[Loaded]]] = {"core": Module, "component": Component}
_libc: Final = ctypes.CDLL(None)


class Modules:
    """The compiled modules of one sandbox, the latest few kept loaded."""

    def __init__(self, sandbox: Sandbox, cache: CompileCache) -> None:
        self._engine = sandbox.engine
        self._cache = cache
        self._fingerprint = fingerprint()
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

    def at_hand(self, digest: str) -> Loaded | None:
        """The module of that SHA-256, if it is in memory."""
        loaded = self._loaded.get(digest)
        if loaded is not None:
            self._loaded.move_to_end(digest)
        return loaded

    def load(self, digest: str, fetch: Callable[[], bytes]) -> Loaded:
        """The module of that SHA-256; `fetch` gets its bytes when no compiled copy exists.

        Raises `Unfit` when the bytes are not that module, or no module, and `WasmtimeError` when they are
        invalid.
        """
        loaded = self._stored(digest) or self._compiled(digest, fetch())
        self._loaded[digest] = loaded
        if len(self._loaded) > limits.WORKER_MODULES:
            self._loaded.popitem(last=False)
        return loaded

    def _compiled(self, digest: str, content: bytes) -> Loaded:
        kind = examine(digest, content)
        with self._cache.compiling(self._name(digest, kind)):
            loaded = self._stored(digest)
            if loaded is None:
                loaded = self._compile(digest, kind, content)
        return loaded

    def _compile(self, digest: str, kind: Kind, content: bytes) -> Loaded:
        compiled = _CLASSES[kind](self._engine, joined(content) if kind == "core" else content)
        self._cache.store(self._name(digest, kind), compiled.serialize())
        # The copy mapped from the file costs this process nothing; the compiler's memory goes back.
        mapped = self._stored(digest)
        del compiled
        _libc.malloc_trim(0)
        if mapped is None:
            raise OSError(f"the compile cache lost {digest} between writing and reading it")
        return mapped

    def _stored(self, digest: str) -> Loaded | None:
        for kind, loader in _CLASSES.items():
            entry = self._cache.open(self._name(digest, kind))
            if entry is None:
                continue
            try:
                return loader.deserialize_file(self._engine, entry.path)
            except WasmtimeError:
                # Ours by its tag, yet not for this engine: as good as absent, and overwritten next.
                return None
            finally:
                entry.close()
        return None

    def _name(self, digest: str, kind: Kind) -> str:
        return f"{digest}-{self._fingerprint}-{kind}"


def examine(digest: str, content: bytes) -> Kind:
    """Core module or component, by the first eight bytes; raises `Unfit` for neither or a false digest."""
    kind = _KINDS.get(content[4:8]) if content[:4] == _MAGIC else None
    if kind is None:
        raise Unfit(
            f"not a Wasm module: {len(content)} bytes that begin with {content[:8].hex() or 'nothing'}"
        )
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise Unfit(f"the module's SHA-256 is {actual}, the job says {digest}")
    return kind
