"""Which typed failure an engine's error is. It only reads errors; nothing here runs a guest."""

from dataclasses import dataclass
from typing import Final

from wasmtime import ExitTrap, Trap, TrapCode, WasmtimeError

from propeller.ports import FailureKind, GuestLimits

MESSAGE_CHARS_MAX: Final = 2000
_FRAMES_MAX: Final = 6
_CAUSE: Final = "Caused by:"

_LIMITS: Final = (
    "exceed the limit of",
    "exceeds table limits",
    "exceeds memory limits",
    "resource limit exceeded",
)
_MACHINE: Final = ("this machine has no",)
_MISSING: Final = ("unknown import", "was not found in the linker")
_INTERRUPTED: Final = "wasm trap: interrupt"
_STACK: Final = "wasm trap: call stack exhausted"
_BAD_EXIT: Final = "invalid exit status"
_TRAP: Final = "wasm trap:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A typed failure and what to tell people."""

    kind: FailureKind
    message: str


class Unfit(Exception):
    """The module has no such entry, or its entry does not take these inputs; raised before the guest runs."""


def exited_well(error: BaseException) -> bool:
    """Whether this `error` is a guest's `exit(0)`."""
    return isinstance(error, ExitTrap) and error.code == 0


def stopped(reason: FailureKind, limits: GuestLimits) -> Failure:
    """The failure of a guest that its watch stopped."""
    told = {
        "timeout": f"ran longer than its wall limit of {limits.wall_s:g} s",
        "cpu": f"used more than its processor time of {limits.cpu_s:g} s",
        "output": f"wrote more than its {limits.stdout_bytes} bytes of standard output",
    }
    return Failure(kind=reason, message=f"the guest {told.get(reason, 'was stopped')}")


def classify(error: Exception, limits: GuestLimits, *, refused: bool) -> Failure:
    """The failure behind `error`. `refused`: the guest was denied memory before it died of this error."""
    if isinstance(error, Unfit):
        return Failure(kind="invalid_module", message=str(error))
    kind = _kind(error, str(error))
    text = _brief(str(error))
    if kind in ("trap", "exit") and refused:
        kind, text = (
            "memory",
            f"growth over the limit of {limits.memory_bytes} bytes was refused; then: {text}",
        )
    return Failure(kind=kind, message=_said(kind, error, text))


def _kind(error: Exception, text: str) -> FailureKind:
    if isinstance(error, ExitTrap) or _BAD_EXIT in text:
        return "exit"
    if any(mark in text for mark in _LIMITS + _MACHINE):
        return "memory"
    if any(mark in text for mark in _MISSING):
        return "denied"
    if _STACK in text or (isinstance(error, Trap) and error.trap_code is TrapCode.STACK_OVERFLOW):
        return "stack"
    if isinstance(error, Trap) or _TRAP in text or not isinstance(error, WasmtimeError):
        return "trap"
    return "invalid_module"


def _said(kind: FailureKind, error: Exception, text: str) -> str:
    if kind == "exit" and isinstance(error, ExitTrap):
        return f"the guest exited with status {error.code}"
    if kind == "denied":
        return f"the module asks for what no guest is given: {text}"
    return text


def _brief(text: str) -> str:
    """The cause first, then the innermost frames: a deep recursion's backtrace would push the cause out."""
    where, _, cause = text.partition(_CAUSE)
    frames = "\n".join(where.strip().splitlines()[:_FRAMES_MAX])
    cause = "\n".join(line.strip() for line in cause.strip().splitlines())
    return f"{cause}\n{frames}"[:MESSAGE_CHARS_MAX].strip() if cause else frames[:MESSAGE_CHARS_MAX]
