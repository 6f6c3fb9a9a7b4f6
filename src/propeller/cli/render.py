"""Results on stdout: tables for people, JSON for programs. It must not ask anything of anyone."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from typing import Any

import msgspec
from rich.console import Console, Group, OverflowMethod
from rich.table import Table
from rich.text import Text

from propeller.client.data import DatasetList, ModelList
from propeller.client.tasks import ended
from propeller.core.task import TaskState
from propeller.wire.experiments import (
    ExperimentDetail,
    ExperimentPage,
    MetricRow,
    ParticipantRows,
    RoundPage,
    RoundStatus,
    RoundView,
)
from propeller.wire.flows import JobPage, JobView, WorkflowView
from propeller.wire.history import EventPage, MetricsPage
from propeller.wire.tasks import ZERO_TIME, HistoryPage, PropletPage, PropletView, TaskPage, TaskView

BAR_CHARS = 50
PIPED_COLUMNS = 240
"""Width when stdout is no terminal: ids are never cut for a program that reads a table."""
_WHOLE = frozenset(
    {
        "ID",
        "TASK",
        "STATE",
        "RUN",
        "ATTEMPT",
        "TIME (UTC)",
        "STARTED",
        "ENDED",
        "LAST HEARTBEAT",
        "NEXT RUN (UTC)",
    }
)
"""Columns that stay on one line on a narrow terminal, as one copies from them; texts give way."""
_CUT = frozenset({"PROPLET"})
"""Columns that end in an ellipsis where there is no room: `view` shows them whole, and so does a pipe."""
_STYLES = {TaskState.COMPLETED: "green", TaskState.FAILED: "red", TaskState.RUNNING: "cyan"}


def show(value: Any, *, as_json: bool, table: Callable[[Any], Any] | None = None) -> None:
    """Print `value`, one JSON document or one table or text; `table` makes the table, where it is given."""
    if as_json:
        sys.stdout.write(json.dumps(_plain(value), indent=2, sort_keys=True, ensure_ascii=False))
        sys.stdout.write("\n")
        return
    shown = rendered(value, table)
    if isinstance(shown, str):
        sys.stdout.write(shown if shown.endswith("\n") else f"{shown}\n")
        return
    screen = console()
    if screen.is_terminal:
        screen.print(shown)
        return
    with screen.capture() as captured:
        screen.print(shown)
    # A table fills its columns with blanks, which nobody wants in a file.
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def rendered(value: Any, table: Callable[[Any], Any] | None = None) -> Table | Group | str:
    """`value` as people see it."""
    shown: Table | Group | str = (table or _table)(value)
    return shown


def rows(found: Sequence[Mapping[str, Any]]) -> Table:
    """A table of things that have the same fields."""
    return columns(list(found[0]), [[_cell(value) for value in one.values()] for one in found])


def waited_for(value: object) -> str:
    """One line on how far something is."""
    if isinstance(value, TaskView):
        says = value.error or value.reason
        where = f" on {value.proplet_id}" if value.proplet_id else ""
        return f"{value.name} is {_word(value.state)}{where}" + (f": {says}" if says else "")
    if isinstance(value, JobView | WorkflowView):
        over = sum(map(ended, value.tasks))
        return f"{over} of {len(value.tasks)} tasks have ended"
    return _text(value)


def console(*, stderr: bool = False) -> Console:
    """A console that cuts nothing when nobody looks, and takes brackets in what it shows for brackets."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_COLUMNS
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def columns(names: Sequence[str], rows: Sequence[Sequence[str | Text]], *, title: str = "") -> Table:
    """A plain table."""
    table = Table(title=title or None, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in names:
        overflow: OverflowMethod = "ellipsis" if name in _CUT else "fold"
        table.add_column(name, overflow=overflow, no_wrap=name in _WHOLE)
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
            table.add_row(name, value if isinstance(value, Text) else _lines(value).rstrip())
    return table


def _lines(value: object) -> str:
    """An object by lines of name and value, texts by lines, anything else as text."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_text(item).rstrip()}" for name, item in value.items())
    return _text(value)


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
    return _tasks(page.tasks, title=_counted(page, len(page.tasks), "tasks"))


@_table.register
def _(found: JobView) -> Group:
    about = {
        "job": found.job_id,
        "name": found.name,
        "mode": found.execution_mode,
        "state": _styled(found.state),
    }
    return Group(facts(about), "", _tasks(found.tasks))


@_table.register
def _(found: WorkflowView) -> Group:
    about = {"workflow": found.workflow_id, "state": _styled(found.state)}
    return Group(facts(about), "", _tasks(found.tasks))


@_table.register
def _(page: JobPage) -> Table:
    rows = [
        (
            one.job_id,
            one.name,
            _styled(one.state),
            str(len(one.tasks) if isinstance(one.tasks, list) else 0),
            _time(one.start_time),
            _time(one.finish_time),
        )
        for one in page.jobs
    ]
    names = ("ID", "NAME", "STATE", "TASKS", "STARTED", "ENDED")
    return columns(names, rows, title=_counted(page, len(rows), "jobs"))


def schedules(page: TaskPage) -> Table:
    """Tasks by when they are started next."""
    rows = [
        (
            task.id,
            task.name,
            task.schedule,
            task.timezone or "UTC",
            "always" if task.is_recurring else "once",
            _time(task.next_run),
        )
        for task in page.tasks
    ]
    names = ("TASK", "NAME", "SCHEDULE", "TIME ZONE", "HOW OFTEN", "NEXT RUN (UTC)")
    return columns(names, rows, title=_counted(page, len(rows), "schedules"))


@_table.register
def _(task: TaskView) -> Group:
    said = {"id": task.id, "name": task.name, "state": _styled(task.state)}
    shown = _plain(task)
    hidden = {"id", "name", "state", "results", "attempts", "error", "reason", *_quiet(shown)}
    said |= {name: value for name, value in shown.items() if name not in hidden}
    said |= {
        "constraints": [f"{one.attribute} {one.operator} {one.text}" for one in task.constraints],
        "affinities": [
            f"{one.weight:+g}: {one.attribute} {one.operator} {one.text}" for one in task.affinities
        ],
    }
    why = task.error or task.reason
    last = {"says": why, "results": _text(shown.get("results") or "")}
    attempts = [(str(one.attempt), one.state, one.proplet_id, one.error) for one in task.attempts]
    about = facts({**said, **last})
    if not attempts:
        return Group(about)
    return Group(about, "", columns(("ATTEMPT", "STATE", "PROPLET", "SAYS"), attempts))


def _quiet(shown: Mapping[str, Any]) -> set[str]:
    """What says nothing: times that are not set, switches that are off."""
    return {name for name, value in shown.items() if value is False or value == ZERO_TIME}


@_table.register
def _(page: EventPage) -> Table:
    rows = [
        (
            _time(one.time),
            str(one.run or ""),
            one.state or one.event,
            f"{one.attempt} {one.attempt_state}" if one.attempt else "",
            one.proplet_id,
            one.reason or one.cause,
        )
        for one in page.events
    ]
    names = ("TIME (UTC)", "RUN", "STATE", "ATTEMPT", "PROPLET", "WHY")
    return columns(names, rows, title=_counted(page, len(rows), "events"))


@_table.register
def _(page: MetricsPage) -> Table:
    found = [_plain(one) for one in page.metrics]
    if any("metrics" in one for one in found):
        return _guest_metrics(page, found)
    rows = [
        (
            _time(one["timestamp"]),
            f"{one['cpu_metrics']['percent']:.1f} %",
            f"{one['cpu_metrics']['user_seconds'] + one['cpu_metrics']['system_seconds']:.2f} s",
            _megabytes(one["memory_metrics"]["rss_bytes"]),
        )
        for one in found
    ]
    names = ("TIME (UTC)", "PROCESSOR", "PROCESSOR TIME", "MEMORY")
    return columns(names, rows, title=_counted(page, len(rows), "measurements"))


def _guest_metrics(page: MetricsPage, found: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            _time(one["timestamp"]),
            one["proplet_id"],
            f"{one['metrics']['cpu_percent']:.1f} %",
            _megabytes(one["metrics"]["memory_bytes"]),
            f"{one['metrics']['uptime_seconds']} s",
        )
        for one in found
    ]
    names = ("TIME (UTC)", "PROPLET", "PROCESSOR", "MEMORY", "FOR")
    return columns(names, rows, title=_counted(page, len(rows), "measurements"))


@_table.register
def _(page: PropletPage) -> Table:
    rows = [
        (
            one.id,
            one.name,
            _alive(one),
            f"{one.task_count or 0}/{one.slots}",
            _time(one.last_alive_at),
            ", ".join(f"{name}={value}" for name, value in one.labels.items()),
        )
        for one in page.proplets
    ]
    names = ("ID", "NAME", "STATE", "TASKS", "LAST HEARTBEAT", "LABELS")
    return columns(names, rows, title=_counted(page, len(rows), "proplets"))


@_table.register
def _(found: PropletView) -> Table:
    announced = found.metadata if isinstance(found.metadata, dict) else {}
    return facts(
        {
            "id": found.id,
            "name": found.name,
            "state": _alive(found),
            "tasks": f"{found.task_count or 0} of {found.slots}",
            "labels": ", ".join(f"{name}={value}" for name, value in found.labels.items()) or "-",
            "last heartbeat": _time(found.last_alive_at),
            "protocol": found.protocol,
            **announced,
        }
    )


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
            "selector": found.selector,
            "strategy": found.strategy.name,
            "metrics": _metrics(found.metrics),
            "best version": found.best_version,
        }
    )
    return Group(about, "", _rounds(found.history))


@_table.register
def _(page: RoundPage) -> Table:
    return _rounds(page.rounds)


def _rounds(rounds: Sequence[RoundView]) -> Table:
    rows = [
        (
            one.round_id,
            one.state,
            f"{one.num_updates}/{one.k_of_n}",
            _metrics(one.metrics),
            f"{one.seconds:.2f}",
            one.reason,
        )
        for one in rounds
    ]
    return columns(("ROUND", "STATE", "UPDATES", "METRICS", "SECONDS", "SAYS"), rows)


@_table.register
def _(page: ExperimentPage) -> Table:
    rows = [
        (
            one.experiment_id,
            one.state,
            f"{one.round}/{one.rounds}",
            one.model_ref,
            _metrics(one.metrics),
            one.reason,
        )
        for one in page.experiments
    ]
    return columns(("EXPERIMENT", "STATE", "ROUND", "MODEL", "METRICS", "SAYS"), rows)


@_table.register
def _(row: MetricRow) -> str:
    made = "" if row.model_version is None else f" → version {row.model_version}"
    said = (
        f"{row.num_updates} updates, {row.samples} samples, {row.bytes} bytes, {row.seconds:.2f} s",
        _metrics(row.metrics),
    )
    return f"{row.round_id} {row.state}{made}: " + ", ".join(filter(None, said))


@_table.register
def _(found: ParticipantRows) -> Table:
    rows = [
        (
            one.participant,
            f"{one.sent}/{one.asked}",
            str(one.lost),
            str(one.refused),
            str(one.samples),
            str(one.bytes),
            f"{one.seconds_mean:.2f}",
            _metrics(one.metrics),
        )
        for one in found.participants
    ]
    names = ("PARTICIPANT", "SENT", "LOST", "REFUSED", "SAMPLES", "BYTES", "SECONDS", "LATEST METRICS")
    return columns(names, rows)


class Bars(msgspec.Struct, frozen=True, kw_only=True):
    """A metric by round, drawn from zero (or the least value below it) to the greatest."""

    metric: str
    points: list[tuple[int, float]]


@_table.register
def _(bars: Bars) -> str:
    values = [value for _, value in bars.points]
    low = min(0.0, *values)
    unit = (max(values) - low) / BAR_CHARS or 1.0
    lines = [
        f"{number:>6}  {value:<10.4g}  {'█' * round((value - low) / unit)}" for number, value in bars.points
    ]
    return "\n".join((f" round  {bars.metric}", *lines))


class Records(msgspec.Struct, frozen=True, kw_only=True):
    """Records with the same fields, by name."""

    rows: list[dict[str, Any]]


@_table.register
def _(records: Records) -> Table | str:
    if not records.rows:
        return "none"
    names = [name.upper() for name in records.rows[0]]
    shown = [[_cell(value) for value in row.values()] for row in records.rows]
    return columns(names, shown)


def _cell(value: object) -> str:
    return _metrics(value) if isinstance(value, Mapping) else str(value)


@_table.register
def _(models: ModelList) -> Table:
    return facts({"models": ", ".join(models.models), "global_model": ", ".join(map(str, models.versions))})


@_table.register
def _(found: DatasetList) -> Table:
    return columns(("PROPLET",), [(one,) for one in found.clients])


def _tasks(tasks: Sequence[TaskView], *, title: str = "") -> Table:
    rows = [(one.id, one.name, _styled(one.state), one.proplet_id, one.error or one.reason) for one in tasks]
    return columns(("ID", "NAME", "STATE", "PROPLET", "SAYS"), rows, title=title)


def _counted(page: Any, shown: int, noun: str) -> str:
    return f"{shown} of {page.total} {noun}, from {page.offset}" if shown < page.total else ""


def _time(text: str) -> str:
    """A moment to the second, without the letters between."""
    return "" if text in {"", ZERO_TIME} else text[:19].replace("T", " ")


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def _metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))


def _word(state: object) -> str:
    return TaskState(state).name.lower() if isinstance(state, int) else "pending"


def _styled(state: object) -> Text:
    known = TaskState(state) if isinstance(state, int) else TaskState.PENDING
    return Text(known.name.capitalize(), style=_STYLES.get(known, ""))


def _alive(proplet: PropletView) -> Text:
    if proplet.alive is not True:
        return Text("offline", style="red")
    if proplet.draining or proplet.cordoned:
        return Text("draining" if proplet.draining else "cordoned", style="yellow")
    return Text("ready", style="green")


def _plain(value: object) -> Any:
    """`value` as JSON's own types; by way of text, as documents inside documents are `Raw`."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)
