"""One run of a component: WASI 0.2 and `wasi:cli/run`, or an exported function of simple types by its name.

It knows nothing of core modules' host functions: a component gets the environment and `/fl`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from wasmtime import Store
from wasmtime.component import (
    F32,
    F64,
    S8,
    S16,
    S32,
    S64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    Char,
    Component,
    ExportIndex,
    Func,
    FuncType,
    Instance,
    Linker,
    String,
    Variant,
)

from propeller.runtime.engine import Sandbox
from propeller.runtime.failure import Unfit
from propeller.runtime.guest import ROUND_PREFIX, Streams, new_store
from propeller.runtime.messages import Job

COMMAND: Final = "wasi:cli/run@0.2."
"""The interface of a command, up to its patch number."""


class CommandFailed(Exception):
    """`wasi:cli/run` returned its error: what exit status 1 is to a core module."""


class ComponentRunner:
    """Runs components in one sandbox; the linker is made once."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._linker = Linker(sandbox.engine)
        self._linker.add_wasip2()

    def run(self, component: Component, job: Job, streams: Streams) -> str | None:
        """Run to the end: the named export's result as text, None for a command.

        Raises what the engine raises, `Unfit` when there is no way in, `CommandFailed`.
        """
        self._sandbox.memories.rebudget(job.limits.memory_bytes)
        with new_store(self._sandbox, job, streams) as store:
            instance = self._linker.instantiate(store, component)
            named = _named_function(store, instance, job.name)
            if named is not None:
                return _call_named(store, named, job)
            _call_command(store, instance, self._command(component))
        return None

    def _command(self, component: Component) -> ExportIndex:
        exports = component.type.exports(self._sandbox.engine)
        interface = next((name for name in exports if name.startswith(COMMAND)), None)
        index = component.get_export_index(interface) if interface else None
        run = component.get_export_index("run", index) if index else None
        if run is None:
            raise Unfit(
                f"the component exports no command {COMMAND}x (only: {', '.join(exports) or 'nothing'})"
            )
        return run


def _named_function(store: Store, instance: Instance, name: str) -> Func | None:
    if not name or name == "_start" or name.startswith(ROUND_PREFIX):
        return None
    return instance.get_func(store, name)


def _call_command(store: Store, instance: Instance, index: ExportIndex) -> None:
    function = instance.get_func(store, index)
    if function is None:
        raise Unfit("the component's `run` is no function")
    outcome = function(store)
    function.post_return(store)
    if isinstance(outcome, Variant) and outcome.tag != "ok":
        raise CommandFailed("the component's `run` returned an error")


def _call_named(store: Store, function: Func, job: Job) -> str | None:
    outcome = function(store, *parse_inputs(function.type(store), job.inputs))
    function.post_return(store)
    return None if outcome is None else _text(outcome)


def parse_inputs(signature: FuncType, inputs: Sequence[str]) -> list[Any]:
    """The inputs as parameters of simple types; raises `Unfit` otherwise."""
    if len(signature.params) != len(inputs):
        raise Unfit(f"the export takes {len(signature.params)} inputs, the task has {len(inputs)}")
    return [_parse(kind, text) for (_, kind), text in zip(signature.params, inputs, strict=True)]


def _parse(kind: object, text: str) -> Any:
    parser = _PARSERS.get(type(kind))
    if parser is None:
        raise Unfit(f"a parameter of type {type(kind).__name__} cannot be given as text")
    try:
        return parser(text)
    except (ValueError, KeyError):
        raise Unfit(f"the input {text[:80]!r} is no {type(kind).__name__}") from None


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text, 0)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return parse


def _character(text: str) -> str:
    if len(text) != 1:
        raise ValueError(text)
    return text


_PARSERS: Final[dict[type, Callable[[str], Any]]] = {
    Bool: lambda text: {"true": True, "false": False}[text],
    **{
        kind: _whole(-(1 << b - 1), (1 << b - 1) - 1)
        for kind, b in ((S8, 8), (S16, 16), (S32, 32), (S64, 64))
    },
    **{kind: _whole(0, (1 << b) - 1) for kind, b in ((U8, 8), (U16, 16), (U32, 32), (U64, 64))},
    F32: float,
    F64: float,
    Char: _character,
    String: str,
}


def _text(outcome: object) -> str:
    if isinstance(outcome, bool):
        return str(outcome).lower()
    return str(outcome)
