"""The options that describe a task, the same for every command that takes them, and files that describe one.

A file is TOML or JSON with the fields of `POST /tasks`. In it `file` may also be the path of a `.wasm` file,
seen from where the description lies. Options given beside a file win over it.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from propeller.cli.session import commas, json_option, pairs, read_bytes
from propeller.errors import BadInput

if TYPE_CHECKING:
    from propeller.wire.tasks import TaskBody

_CONDITION = re.compile(
    r"\s*(?P<attribute>[\w.-]+)\s*(?P<operator>!=|<=|>=|=|<|>|not in\b|in\b|exists\b)\s*(?P<value>.*)",
    re.DOTALL,
)
_WEIGHT = re.compile(r"\s*(?P<weight>[+-]?\d+(?:\.\d+)?)\s*:(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFlags:
    """What was said of a task on the command line; None where nothing was."""

    definition: Annotated[
        Path | None,
        typer.Option("--from", "-f", help="A description, TOML or JSON; other options win over it."),
    ] = None
    image_url: Annotated[
        str | None, typer.Option("--image-url", help="OCI reference, or URL of a .wasm file.")
    ] = None
    file: Annotated[Path | None, typer.Option("--file", help="A local .wasm file, sent with the task.")] = (
        None
    )
    cli_args: Annotated[
        str | None, typer.Option("--cli-args", help="Arguments of the guest: a comma list, or a JSON array.")
    ] = None
    inputs: Annotated[
        str | None, typer.Option("--inputs", help="Inputs of the export: a comma list, or a JSON array.")
    ] = None
    env: Annotated[list[str] | None, typer.Option("--env", help="K=V; may be repeated.")] = None
    proplet_id: Annotated[str | None, typer.Option("--proplet-id", help="Run on this one.")] = None
    broadcast: Annotated[bool | None, typer.Option("--broadcast", help="Run on every one.")] = None
    daemon: Annotated[bool | None, typer.Option("--daemon", help="A service: runs until it is stopped.")] = (
        None
    )
    latent: Annotated[
        bool | None, typer.Option("--latent", help="A function: loaded at its start, run by `invoke`.")
    ] = None
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=0, help="A service: so many are kept running.")
    ] = None
    scale: Annotated[
        str | None,
        typer.Option("--scale", help="Its rule: max=N,on=queue|cpu,target=X,min=N,window_s=S; max=0: none."),
    ] = None
    rollout: Annotated[
        str | None, typer.Option("--rollout", help="How it changes: surge=N,healthy_s=S,deadline_s=S,….")
    ] = None
    constraint: Annotated[
        list[str] | None,
        typer.Option("--constraint", help="Only where this holds: 'cpu_arch = arm64'; may be repeated."),
    ] = None
    affinity: Annotated[
        list[str] | None,
        typer.Option("--affinity", help="Rather where this holds: '[WEIGHT:]labels.disk = ssd'; repeatable."),
    ] = None
    placement: Annotated[str | None, typer.Option("--placement", help="round_robin or least_loaded")] = None
    restart: Annotated[
        str | None, typer.Option("--restart", help="Again where it failed: N, or attempts=N,delay_s=S,….")
    ] = None
    reschedule: Annotated[
        str | None, typer.Option("--reschedule", help="Again elsewhere: N, or attempts=N,delay_s=S,….")
    ] = None
    disconnect: Annotated[
        str | None, typer.Option("--disconnect", help="When a proplet is gone: lost_after_s=S,replace=true.")
    ] = None
    priority: Annotated[
        int | None,
        typer.Option(
            "--priority", min=0, max=100, help="The higher goes first, where tasks wait for a slot."
        ),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", help="Start by the clock: cron, five fields. '' takes it away."),
    ] = None
    timezone: Annotated[
        str | None, typer.Option("--timezone", help="Of the schedule, such as Europe/Berlin (UTC).")
    ] = None
    is_recurring: Annotated[
        bool | None, typer.Option("--is-recurring/--once", help="Follow the schedule again and again.")
    ] = None
    wall_s: Annotated[float | None, typer.Option("--wall-s", min=0, help="Seconds until it is stopped.")] = (
        None
    )
    cpu_s: Annotated[float | None, typer.Option("--cpu-s", min=0, help="Processor seconds until then.")] = (
        None
    )
    memory_bytes: Annotated[int | None, typer.Option("--memory-bytes", help="Memory it may take.")] = None
    mode: Annotated[str | None, typer.Option("--mode", help="infer or train")] = None
    kind: Annotated[str | None, typer.Option("--kind", help="standard or federated")] = None
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", help="K=V, may be repeated; or a JSON object.")
    ] = None
    encrypted: Annotated[
        bool | None, typer.Option("--encrypted", help="For trusted hardware; no manager of ours takes it.")
    ] = None
    kbs_resource_path: Annotated[
        str | None, typer.Option("--kbs-resource-path", help="Of an encrypted task.")
    ] = None

    def body(self, name: str | None = None, *, task_id: str | None = None) -> "TaskBody":
        """The request that file and options ask for; what neither gives stays out of it."""
        given = described(self.definition) if self.definition else {}
        given |= {key: value for key, value in self._said().items() if value is not None}
        given |= {"name": name} if name else {}
        given |= {"id": task_id} if task_id else {}
        if limits := self._limits():
            given["limits"] = {**given.get("limits", {}), **limits}
        return task_body(given, str(self.definition or "the options"))

    def _said(self) -> dict[str, Any]:
        plain = (
            "image_url", "proplet_id", "broadcast", "daemon", "latent", "replicas", "placement", "priority",
            "schedule", "timezone", "is_recurring", "mode", "kind", "encrypted", "kbs_resource_path",
        )  # fmt: skip
        return {name: getattr(self, name) for name in plain} | {
            "file": _module(self.file) if self.file else None,
            "cli_args": commas(self.cli_args),
            "inputs": commas(self.inputs),
            "env": pairs(self.env, "--env"),
            "metadata": _metadata(self.metadata),
            "constraints": _each(self.constraint, lambda text: condition(text, "--constraint")),
            "affinities": _each(self.affinity, preference),
            "scale": _policy(self.scale, "--scale", first="max"),
            "rollout": _policy(self.rollout, "--rollout", first="surge"),
            "restart": _policy(self.restart, "--restart", first="attempts"),
            "reschedule": _policy(self.reschedule, "--reschedule", first="attempts"),
            "disconnect": _policy(self.disconnect, "--disconnect", first="lost_after_s"),
        }

    def _limits(self) -> dict[str, Any]:
        limits = {"wall_s": self.wall_s, "cpu_s": self.cpu_s, "memory_bytes": self.memory_bytes}
        if endless := next((name for name, value in limits.items() if value == math.inf), None):
            raise BadInput(f"{endless} cannot be without end; leave it out for the proplet's own limit")
        return {name: value for name, value in limits.items() if value is not None}


def with_task_flags(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `flags: TaskFlags` becomes every option of it, before its own."""
    own = [one for one in signature(command).parameters.values() if one.name != "flags"]
    hints = get_type_hints(TaskFlags, include_extras=True)
    shared = [
        Parameter(
            one.name,
            Parameter.KEYWORD_ONLY,
            default=None if one.default is MISSING else one.default,
            annotation=hints[one.name],
        )
        for one in fields(TaskFlags)
    ]
    names = [one.name for one in shared]

    @wraps(command)
    def told(**given: Any) -> None:
        flags = TaskFlags(**{name: given.pop(name) for name in names})
        command(**given, flags=flags)

    positional = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in own]
    told.__signature__ = signature(command).replace(parameters=[*positional, *shared])  # type: ignore[attr-defined]
    told.__annotations__ = {one.name: one.annotation for one in (*positional, *shared)} | {"return": None}
    del told.__wrapped__
    return told


def described(path: Path, *, bare: bool = False) -> dict[str, Any]:
    """The document of a description file, the modules that it names read in.

    A `bare` JSON file may hold an array: the `tasks` alone.
    """
    document = _parsed(path, read_bytes(path), bare=bare)
    several = document.get("tasks")
    for task in (document, *(several if isinstance(several, list) else ())):
        if isinstance(task, dict) and str(task.get("file", "")).endswith(".wasm"):
            task["file"] = _module(path.parent / task["file"])
    return document


def task_body(given: Mapping[str, Any], where: str) -> "TaskBody":
    """A task's request from its fields; raises `BadInput` that names a field that is unknown or wrong."""
    import msgspec

    from propeller.wire.tasks import TaskBody

    _check_known(given, TaskBody, where)
    try:
        return msgspec.convert(dict(given), TaskBody)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {error}") from error


def task_bodies(items: object, where: str) -> "list[TaskBody]":
    """Several tasks' requests."""
    if not isinstance(items, list) or not items:
        raise BadInput(f"{where}: at least one task is required, in an array `tasks`")
    named = [(f"{where}, task {number}", item) for number, item in enumerate(items, 1)]
    return [task_body(_table(item, name), name) for name, item in named]


def condition(text: str, flag: str) -> dict[str, str]:
    """`ATTRIBUTE OPERATOR VALUE` as a constraint's fields."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise BadInput(
            f"{flag} {text!r}: write ATTRIBUTE OPERATOR VALUE, such as 'labels.zone = north'; operators are "
            "= != < <= > >= in, not in, exists"
        )
    return {name: value.strip() for name, value in found.groupdict().items()}


def preference(text: str) -> dict[str, Any]:
    """`[WEIGHT:]ATTRIBUTE OPERATOR VALUE` as an affinity's fields."""
    weighed = _WEIGHT.fullmatch(text)
    fields_ = condition(weighed["rest"] if weighed else text, "--affinity")
    return {**fields_, "weight": float(weighed["weight"])} if weighed else dict(fields_)


def _parsed(path: Path, text: bytes, *, bare: bool) -> dict[str, Any]:
    import json
    import tomllib

    try:
        if path.suffix == ".json":
            value = json.loads(text)
            return {"tasks": value} if bare and isinstance(value, list) else _table(value, str(path))
        return tomllib.loads(text.decode())
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise BadInput(f"{path} is not {kind}: {error}") from error


def _table(item: object, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise BadInput(f"{where}: a task is an object with fields, not {str(item)[:40]!r}")
    return item


def _check_known(given: Mapping[str, Any], kind: type, where: str) -> None:
    """Raise `BadInput` for a field that is none, here or inside: a misspelt one would have no effect."""
    import msgspec

    from propeller.wire import tasks as wire

    inner = {
        "limits": wire.LimitsBody, "restart": wire.RetryBody, "reschedule": wire.RetryBody,
        "disconnect": wire.DisconnectBody, "constraints": wire.ConstraintBody,
        "affinities": wire.AffinityBody, "scale": wire.ScaleBody, "rollout": wire.RolloutBody,
    }  # fmt: skip
    known = [one.name for one in msgspec.structs.fields(kind)]
    for name, value in given.items():
        if name not in known:
            raise BadInput(f"{where}: unknown field {name!r}; there are {', '.join(known)}")
        for item in value if isinstance(value, list) else [value]:
            if name in inner and isinstance(item, dict):
                _check_known(item, inner[name], f"{where}, {name}")


def _module(path: Path) -> str:
    import base64

    return base64.b64encode(read_bytes(path)).decode()


def _metadata(items: list[str] | None) -> dict[str, Any] | None:
    if items and len(items) == 1 and items[0].startswith("{"):
        return json_option(items[0], "--metadata")
    return pairs(items, "--metadata")


def _each(items: Sequence[str] | None, read: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]] | None:
    return [read(item) for item in items] if items else None


def _policy(text: str | None, flag: str, *, first: str) -> dict[str, Any] | None:
    """`3` or `attempts=3,delay_s=0.5` as a policy's fields; a bare number is the one named `first`."""
    if text is None:
        return None
    found: dict[str, Any] = {}
    for item in commas(text) or []:
        name, equals, value = item.partition("=")
        name, value = (name.strip(), value.strip()) if equals else (first, name)
        found[name] = _value(value, f"{flag} {text!r}")
    return found


def _value(text: str, where: str) -> float | int | bool | str:
    if text in {"true", "false"}:
        return text == "true"
    if text in {"queue", "cpu"}:
        return text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{where}: {text!r} is no number; write N, or NAME=NUMBER,…")
    return int(text) if text.removeprefix("-").isdecimal() else number
