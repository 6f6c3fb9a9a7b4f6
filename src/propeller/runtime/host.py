"""The host functions of module `env`, the same for every core module: strings in, one result out.

The signatures of `get_proplet_id`, `get_model_data`, `get_dataset_data` are those of the original's embedded
runtime; `get_env` and `put_result` are ours. Every pointer comes from the guest and is checked before use;
whatever is wrong with one, the answer is 0 and nothing was written. Only a trap inside the guest's own
`malloc` passes through, as the guest's trap.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from wasmtime import Caller, Func, FuncType, Linker, Memory, ValType

from propeller import limits

_ENV_NAME_BYTES_MAX: Final = 4096
_U32: Final = 0xFFFF_FFFF
_MALLOC: Final = (["i32"], ["i32"])


@dataclass(slots=True, kw_only=True)
class HostCalls:
    """What the host functions answer during one job, and the result that the guest hands over."""

    strings: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    result: bytes | None = None
    answering: bool = False


class HostFunctions:
    """Defines the functions in a linker once; `calls` is exchanged for each job."""

    def __init__(self, linker: Linker) -> None:
        self.calls = HostCalls()
        for name in ("proplet_id", "model_data", "dataset_data"):
            self._define_string(linker, name)
        _define(linker, "get_env", 4, self._get_env)
        _define(linker, "put_result", 2, self._put_result)

    def _define_string(self, linker: Linker, name: str) -> None:
        def answer(caller: Caller, offset_pointer: int, length_pointer: int) -> int:
            text = self.calls.strings.get(name)
            return self._answer(caller, text, offset_pointer & _U32, length_pointer & _U32)

        _define(linker, f"get_{name}", 2, answer)

    def _get_env(
        self, caller: Caller, name_pointer: int, name_bytes: int, offset_pointer: int, length_pointer: int
    ) -> int:
        size_bytes = name_bytes & _U32
        if size_bytes > _ENV_NAME_BYTES_MAX:
            return 0
        name = _read(caller, name_pointer & _U32, size_bytes)
        text = None if name is None else self.calls.env.get(name.decode("utf-8", errors="replace"))
        return self._answer(caller, text, offset_pointer & _U32, length_pointer & _U32)

    def _put_result(self, caller: Caller, pointer: int, size_bytes: int) -> int:
        if size_bytes & _U32 > limits.GUEST_RESULT_BYTES_MAX:
            return 0
        content = _read(caller, pointer & _U32, size_bytes & _U32)
        if content is None:
            return 0
        self.calls.result = content
        return 1

    def _answer(self, caller: Caller, text: str | None, offset_pointer: int, length_pointer: int) -> int:
        """Place a string in the guest. Not from within its own `malloc`: that could recurse without end."""
        if text is None or self.calls.answering:
            return 0
        self.calls.answering = True
        try:
            return int(_place(caller, text.encode(), offset_pointer, length_pointer))
        finally:
            self.calls.answering = False


def _define(linker: Linker, name: str, parameters: int, function: object) -> None:
    signature = FuncType([ValType.i32()] * parameters, [ValType.i32()])
    linker.define_func("env", name, signature, function, access_caller=True)  # type: ignore[arg-type]


def _place(caller: Caller, content: bytes, offset_pointer: int, length_pointer: int) -> bool:
    offset = _allocate(caller, len(content) + 1)
    if offset is None:
        return False
    # The memory is looked up after malloc, which may have grown it.
    return (
        _fits(caller, offset_pointer, 4)
        and _fits(caller, length_pointer, 4)
        and _write(caller, offset, content + b"\0")
        and _write(caller, offset_pointer, struct.pack("<I", offset))
        and _write(caller, length_pointer, struct.pack("<I", len(content)))
    )


def _allocate(caller: Caller, size_bytes: int) -> int | None:
    malloc = caller.get("malloc")
    if not isinstance(malloc, Func) or size_bytes > _U32:
        return None
    signature = malloc.type(caller)
    if ([str(t) for t in signature.params], [str(t) for t in signature.results]) != _MALLOC:
        return None
    signed = size_bytes - (1 << 32) if size_bytes >> 31 else size_bytes
    offset = int(malloc(caller, signed)) & _U32
    return offset or None


def _memory(caller: Caller) -> Memory | None:
    memory = caller.get("memory")
    return memory if isinstance(memory, Memory) else None


def _fits(caller: Caller, pointer: int, size_bytes: int) -> bool:
    memory = _memory(caller)
    return memory is not None and pointer + size_bytes <= memory.data_len(caller)


def _read(caller: Caller, pointer: int, size_bytes: int) -> bytes | None:
    memory = _memory(caller)
    if memory is None or pointer + size_bytes > memory.data_len(caller):
        return None
    return bytes(memory.read(caller, pointer, pointer + size_bytes))


def _write(caller: Caller, pointer: int, content: bytes) -> bool:
    memory = _memory(caller)
    if memory is None or pointer + len(content) > memory.data_len(caller):
        return False
    memory.write(caller, content, pointer)
    return True
