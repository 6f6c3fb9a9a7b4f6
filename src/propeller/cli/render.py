"""Results on stdout: tables for people, JSON for programs. It must not ask anything of anyone."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import msgspec
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from propeller.client.data import DatasetList, ModelList
from propeller.client.tasks import state_of
from propeller.core.task import TaskState
from propeller.wire.experiments import ExperimentDetail, RoundStatus
from propeller.wire.tasks import HistoryPage, PropletPage, PropletView, TaskPage, TaskView

PIPED_COLUMNS = 240
"""Width when stdout is no terminal: ids are never cut for a program that reads a table."""
_STYLES = {TaskState.COMPLETED: "green", TaskState.FAILED: "red", TaskState.RUNNING: "cyan"}


def show(value: Any, *, as_json: bool) -> None:
    """Print `value`, one JSON document or one table or text."""
    if as_json:
        sys.stdout.write(json.dumps(_plain(value), indent=2, sort_keys=True, ensure_ascii=False))
        sys.stdout.write("\n")
        return
    shown = _table(value)
    if isinstance(shown, str):
        sys.stdout.write(shown if shown.endswith("\n") else f"{shown}\n")
    else:
        console().print(shown)


def console(*, stderr: bool = False) -> Console:
    """A console that cuts nothing when nobody looks, and takes brackets in what it shows for brackets."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_COLUMNS
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def columns(names: Sequence[str], rows: Sequence[Sequence[str | Text]], *, title: str = "") -> Table:
    """A plain table."""
    table = Table(title=title or None, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def facts(pairs: Mapping[str, object]) -> Table:
    """Names and values, one per line; empty values are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in (None, "", [], {}, ()):
            table.add_row(name, value if isinstance(value, Text) else _text(value))
    return table


@singledispatch
def _table(value: object) -> Table | Group | str:
    """Anything without a shape of its own."""
    if isinstance(value, msgspec.Struct):
        return facts(_plain(value))
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if isinstance(value, Mapping):
        return facts({str(name): item for name, item in value.items()})
    return _text(value)


@_table.register
def _(page: TaskPage) -> Table:
    rows = [
        (task.id, task.name, _state(task), task.proplet_id, task.error or task.reason) for task in page.tasks
    ]
    return columns(("ID", "NAME", "STATE", "PROPLET", "SAYS"), rows, title=_counted(page, len(rows), "tasks"))


@_table.register
def _(task: TaskView) -> Table:
    shown = _plain(task)
    results = shown.pop("results", None)
    rest = {name: value for name, value in shown.items() if name not in {"id", "name", "state"}}
    return facts(
        {"id": task.id, "name": task.name, "state": _state(task), **rest, "results": _text(results or "")}
    )


@_table.register
def _(page: PropletPage) -> Table:
    rows = [
        (one.id, one.name, _alive(one), str(one.task_count or 0), one.last_alive_at) for one in page.proplets
    ]
    names = ("ID", "NAME", "ALIVE", "TASKS", "LAST HEARTBEAT")
    return columns(names, rows, title=_counted(page, len(rows), "proplets"))


@_table.register
def _(page: HistoryPage) -> Table:
    return columns(("HEARTBEAT",), [(time,) for time in page.history])


@_table.register
def _(status: RoundStatus) -> Table:
    return facts(
        {
            "round": status.round_id,
            "state": status.state,
            "updates": f"{status.num_updates} of {status.k_of_n}",
            "reason": status.reason,
            "model version": status.model_version,
        }
    )


@_table.register
def _(found: ExperimentDetail) -> Group:
    about = facts(
        {
            "experiment": found.experiment_id,
            "state": found.state,
            "reason": found.reason,
            "round": f"{found.round} of {found.rounds}",
            "model": found.model_ref,
            "participants": ", ".join(found.participants),
            "strategy": found.strategy.name,
        }
    )
    rows = [
        (
            one.round_id,
            one.state,
            f"{one.num_updates}/{one.k_of_n}",
            _metrics(one.metrics),
            f"{one.seconds:.2f}",
        )
        for one in found.history
    ]
    return Group(about, "", columns(("ROUND", "STATE", "UPDATES", "METRICS", "SECONDS"), rows))


@_table.register
def _(models: ModelList) -> Table:
    return facts({"models": ", ".join(models.models), "global_model": ", ".join(map(str, models.versions))})


@_table.register
def _(found: DatasetList) -> Table:
    return columns(("PROPLET",), [(one,) for one in found.clients])


def _counted(page: TaskPage | PropletPage, shown: int, noun: str) -> str:
    return f"{shown} of {page.total} {noun}, from {page.offset}" if shown < page.total else ""


def _metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))


def _state(task: TaskView) -> Text:
    state = state_of(task)
    return Text(state.name.capitalize(), style=_STYLES.get(state, ""))


def _alive(proplet: PropletView) -> Text:
    return Text("yes", style="green") if proplet.alive is True else Text("no", style="red")


def _plain(value: object) -> Any:
    """`value` as JSON's own types; by way of text, as documents inside documents are `Raw`."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)
