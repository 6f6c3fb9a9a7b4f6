"""One run of a core module: WASI preview 1, the host functions, `/fl`, and the choice of the entry.

It runs on the job's thread with the engine's stack. It knows its job, and nothing of processes or pipes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from wasmtime import Func, FuncType, Instance, InstancePre, Linker, Module, Store, WasiConfig

from propeller.runtime.capture import Capture
from propeller.runtime.engine import MEMORIES_MAX, TABLES_MAX, Sandbox
from propeller.runtime.failure import Unfit
from propeller.runtime.host import HostCalls, HostFunctions
from propeller.runtime.messages import Job

FILES: Final = "/fl"
"""Where a guest finds the job's files."""
ROUND_PREFIX: Final = "fl-round-"
_U32: Final = 1 << 32
_U64: Final = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """The guest's captured output."""

    stdout: Capture
    stderr: Capture


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linked:
    """What is the same for every run of a module: imports resolved, functions, whether it uses WASI."""

    ready: InstancePre
    signatures: dict[str, FuncType]
    wasi: bool


class CoreRunner:
    """Runs core modules in one sandbox; the linker is made once, and each module linked once."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._linker = Linker(sandbox.engine)
        self._linker.define_wasi()
        self._host = HostFunctions(self._linker)
        self._linked: WeakKeyDictionary[Module, _Linked] = WeakKeyDictionary()

    def run(self, module: Module, job: Job, streams: Streams, calls: HostCalls) -> str | None:
        """Run to the end: the entry's first result as text. `calls` answers and gathers meanwhile.

        Raises what the engine raises (a normal `proc_exit(0)` too) and `Unfit` when there is no way in.
        """
        self._host.calls = calls
        self._sandbox.memories.rebudget(job.limits.memory_bytes)
        linked = self._linked.get(module) or self._link(module)
        try:
            with new_store(self._sandbox, job, streams if linked.wasi else None) as store:
                return _enter(store, linked, job)
        finally:
            self._host.calls = HostCalls()

    def _link(self, module: Module) -> _Linked:
        linked = _Linked(
            ready=self._linker.instantiate_pre(module),
            signatures={e.name: e.type for e in module.exports if isinstance(e.type, FuncType)},
            wasi=any(wanted.module.startswith("wasi") for wanted in module.imports),
        )
        self._linked[module] = linked
        return linked


def _enter(store: Store, linked: _Linked, job: Job) -> str | None:
    signatures = linked.signatures
    entry = choose_entry(signatures, job.name)
    inputs = [] if entry == "_start" else parse_inputs(entry, signatures[entry], job.inputs)
    instance = linked.ready.instantiate(store)
    if entry != "_start" and "_initialize" in signatures:
        _function(store, instance, "_initialize")(store)
    return first_text(_function(store, instance, entry)(store, *inputs))


def new_store(sandbox: Sandbox, job: Job, streams: Streams | None) -> Store:
    """A store with the job's limits, environment, output and files; nothing is inherited. Close it.

    Without `streams` it has no WASI at all, for guests that import none of it.
    """
    store = Store(sandbox.engine)
    store.set_epoch_deadline(1)
    store.set_limits(
        table_elements=job.limits.table_elements,
        instances=job.limits.instances,
        tables=TABLES_MAX,
        memories=MEMORIES_MAX,
    )
    if streams is not None:
        store.set_wasi(_wasi(job, streams))
    return store


def _wasi(job: Job, streams: Streams) -> WasiConfig:
    wasi = WasiConfig()
    wasi.argv = ["guest", *job.args]
    wasi.env = list(job.env.items())
    wasi.stdout_custom = streams.stdout.write
    wasi.stderr_custom = streams.stderr.write
    if job.files is not None:
        wasi.preopen_dir(job.files, FILES)
    for mount in job.folders:
        wasi.preopen_dir(mount.host, mount.guest, mount.writable)
    return wasi


def choose_entry(exports: "Sequence[str] | dict[str, FuncType]", name: str) -> str:
    """The export to enter: the task's name if it is one, else `_start`, `main` or `run`.

    Names of round tasks and `_start` itself ask for the command entry. Raises `Unfit` if there is none.
    """
    if name in exports and name not in ("_start", "_initialize") and not name.startswith(ROUND_PREFIX):
        return name
    for entry in ("_start", "main", "run"):
        if entry in exports:
            return entry
    raise Unfit(
        f"the module exports no entry: neither a function named {name!r} (the task's name), nor `_start`, "
        "`main` or `run`"
    )


def parse_inputs(entry: str, signature: FuncType, inputs: Sequence[str]) -> list[int | float]:
    """The inputs as the entry's parameters. Integers may be written signed or unsigned, in any Python base.

    Raises `Unfit` when the count differs or a text does not fit its type.
    """
    kinds = [str(kind) for kind in signature.params]
    if len(kinds) != len(inputs):
        raise Unfit(f"`{entry}` takes {len(kinds)} inputs ({', '.join(kinds)}), the task has {len(inputs)}")
    return [_parse(entry, kind, text) for kind, text in zip(kinds, inputs, strict=True)]


def _parse(entry: str, kind: str, text: str) -> int | float:
    try:
        return _PARSERS[kind](text)
    except KeyError:
        raise Unfit(f"`{entry}` has a parameter of type {kind}, which no text input becomes") from None
    except ValueError:
        raise Unfit(f"`{entry}` takes an {kind}; the input {text[:80]!r} is none") from None


def _integer(modulus: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text, 0)
        if not -modulus // 2 <= number < modulus:
            raise ValueError(text)
        return number - modulus if number >= modulus // 2 else number

    return parse


_PARSERS: Final[dict[str, Callable[[str], int | float]]] = {
    "i32": _integer(_U32),
    "i64": _integer(_U64),
    "f32": float,
    "f64": float,
}


def first_text(results: object) -> str | None:
    """The first result as decimal text, None if there is none; a reference has no text."""
    first = results[0] if isinstance(results, list) else results
    return str(first) if isinstance(first, int | float) else None


def _function(store: Store, instance: Instance, name: str) -> Func:
    function = instance.exports(store)[name]
    if not isinstance(function, Func):
        raise Unfit(f"the export `{name}` is no function")
    return function
