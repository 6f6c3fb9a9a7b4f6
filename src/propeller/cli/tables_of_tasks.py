"""How tasks, jobs, workflows, schedules, proplets and their measurements look as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from propeller.cli.listing import Listing
from propeller.cli.tables import columns, counted, facts, moment, plain, table, text
from propeller.client.tasks import ended
from propeller.core.task import TaskState
from propeller.wire.flows import JobPage, JobView, WorkflowView
from propeller.wire.history import EventPage, MetricsPage
from propeller.wire.tasks import (
    ZERO_TIME,
    HistoryPage,
    PropletPage,
    PropletView,
    ServiceView,
    TaskPage,
    TaskView,
)

_STYLES = {TaskState.COMPLETED: "green", TaskState.FAILED: "red", TaskState.RUNNING: "cyan"}


def waited_for(value: object) -> str:
    """One line on how far something is."""
    if isinstance(value, TaskView):
        says = value.error or value.reason
        where = f" on {value.proplet_id}" if value.proplet_id else ""
        return f"{value.name} is {_word(value.state)}{where}" + (f": {says}" if says else "")
    if isinstance(value, JobView | WorkflowView):
        over = sum(map(ended, value.tasks))
        return f"{over} of {len(value.tasks)} tasks have ended"
    return text(value)


@table.register
def _(page: TaskPage) -> Listing:
    return _tasks(page.tasks, title=counted(page, len(page.tasks), "tasks"))


@table.register
def _(found: JobView) -> Group:
    about = {
        "job": found.job_id,
        "name": found.name,
        "mode": found.execution_mode,
        "state": _styled(found.state),
    }
    return Group(facts(about), "", _tasks(found.tasks))


@table.register
def _(found: WorkflowView) -> Group:
    about = {"workflow": found.workflow_id, "state": _styled(found.state)}
    return Group(facts(about), "", _tasks(found.tasks))


@table.register
def _(page: JobPage) -> Listing:
    rows = [
        (
            one.job_id,
            one.name,
            _styled(one.state),
            str(len(one.tasks) if isinstance(one.tasks, list) else 0),
            moment(one.start_time),
            moment(one.finish_time),
        )
        for one in page.jobs
    ]
    names = ("ID", "NAME", "STATE", "TASKS", "STARTED", "ENDED")
    return columns(names, rows, title=counted(page, len(rows), "jobs"))


def schedules(page: TaskPage) -> Listing:
    """Tasks by when they are started next."""
    rows = [
        (
            task.id,
            task.name,
            task.schedule,
            task.timezone or "UTC",
            "always" if task.is_recurring else "once",
            moment(task.next_run),
        )
        for task in page.tasks
    ]
    names = ("TASK", "NAME", "SCHEDULE", "TIME ZONE", "HOW OFTEN", "NEXT RUN (UTC)")
    return columns(names, rows, title=counted(page, len(rows), "schedules"))


@table.register
def _(task: TaskView) -> Group:
    said = {"id": task.id, "name": task.name, "state": _styled(task.state)}
    shown = plain(task)
    hidden = {"id", "name", "state", "service", "results", "attempts", "error", "reason", *_quiet(shown)}
    said |= {name: value for name, value in shown.items() if name not in hidden}
    said |= {
        "constraints": [f"{one.attribute} {one.operator} {one.text}" for one in task.constraints],
        "affinities": [
            f"{one.weight:+g}: {one.attribute} {one.operator} {one.text}" for one in task.affinities
        ],
    }
    why = task.error or task.reason
    last = {"says": why, "results": text(shown.get("results") or "")}
    about = facts({**said, **_service_facts(task), **last})
    return Group(about, "", _attempts(task)) if task.attempts else Group(about)


def rollout_of(task: TaskView) -> Group:
    """A service and its replicas alone."""
    about = facts({"id": task.id, "state": _styled(task.state), **_service_facts(task), "says": task.reason})
    return Group(about, "", _attempts(task)) if task.attempts else Group(about)


def _service_facts(task: TaskView) -> dict[str, Any]:
    service = task.service
    if not isinstance(service, ServiceView):
        return {}
    told = {
        "ready": f"{service.ready} of {service.wanted}",
        "revision": f"{service.revision}, on {service.updated} of {service.ready}",
        "phase": " ".join(filter(None, (service.phase, service.outcome and f"({service.outcome})"))),
    }
    return {**told, **({"why": service.why} if service.why else {})}


def _attempts(task: TaskView) -> Listing:
    """The attempts of a run; of a service, each replica's latest."""
    rows = [(str(one.attempt or ""), one.state, one.proplet_id, one.error) for one in task.attempts]
    if not any(one.task_id for one in task.attempts):
        return columns(("ATTEMPT", "STATE", "PROPLET", "SAYS"), rows)
    named = [(one.task_id, str(one.revision), *row) for one, row in zip(task.attempts, rows, strict=True)]
    return columns(("REPLICA", "REVISION", "ATTEMPT", "STATE", "PROPLET", "SAYS"), named)


def _quiet(shown: Mapping[str, Any]) -> set[str]:
    """What says nothing: times that are not set, switches that are off."""
    return {name for name, value in shown.items() if value is False or value == ZERO_TIME}


@table.register
def _(page: EventPage) -> Listing:
    rows = [
        (
            moment(one.time),
            str(one.run or ""),
            one.state or one.event,
            f"{one.attempt} {one.attempt_state}" if one.attempt else "",
            one.proplet_id,
            one.reason or one.cause,
        )
        for one in page.events
    ]
    names = ("TIME (UTC)", "RUN", "STATE", "ATTEMPT", "PROPLET", "WHY")
    return columns(names, rows, title=counted(page, len(rows), "events"))


@table.register
def _(page: MetricsPage) -> Listing:
    found = [plain(one) for one in page.metrics]
    if any("metrics" in one for one in found):
        return _guest_metrics(page, found)
    rows = [
        (
            moment(one["timestamp"]),
            f"{one['cpu_metrics']['percent']:.1f} %",
            f"{one['cpu_metrics']['user_seconds'] + one['cpu_metrics']['system_seconds']:.2f} s",
            _megabytes(one["memory_metrics"]["rss_bytes"]),
        )
        for one in found
    ]
    names = ("TIME (UTC)", "PROCESSOR", "PROCESSOR TIME", "MEMORY")
    return columns(names, rows, title=counted(page, len(rows), "measurements"))


def _guest_metrics(page: MetricsPage, found: Sequence[Mapping[str, Any]]) -> Listing:
    rows = [
        (
            moment(one["timestamp"]),
            one["proplet_id"],
            f"{one['metrics']['cpu_percent']:.1f} %",
            _megabytes(one["metrics"]["memory_bytes"]),
            f"{one['metrics']['uptime_seconds']} s",
        )
        for one in found
    ]
    names = ("TIME (UTC)", "PROPLET", "PROCESSOR", "MEMORY", "FOR")
    return columns(names, rows, title=counted(page, len(rows), "measurements"))


@table.register
def _(page: PropletPage) -> Listing:
    rows = [
        (
            one.id,
            one.name,
            _alive(one),
            f"{one.task_count or 0}/{one.slots}",
            moment(one.last_alive_at),
            ", ".join(f"{name}={value}" for name, value in one.labels.items()),
        )
        for one in page.proplets
    ]
    names = ("ID", "NAME", "STATE", "TASKS", "LAST HEARTBEAT", "LABELS")
    return columns(names, rows, title=counted(page, len(rows), "proplets"))


@table.register
def _(found: PropletView) -> Table:
    announced = found.metadata if isinstance(found.metadata, dict) else {}
    return facts(
        {
            "id": found.id,
            "name": found.name,
            "state": _alive(found),
            "tasks": f"{found.task_count or 0} of {found.slots}",
            "labels": ", ".join(f"{name}={value}" for name, value in found.labels.items()) or "-",
            "last heartbeat": moment(found.last_alive_at),
            "protocol": found.protocol,
            **announced,
        }
    )


@table.register
def _(page: HistoryPage) -> Listing:
    return columns(("HEARTBEAT",), [(time,) for time in page.history])


def _tasks(tasks: Sequence[TaskView], *, title: str = "") -> Listing:
    rows = [(one.id, one.name, _counted(one), one.proplet_id, one.error or one.reason) for one in tasks]
    return columns(("ID", "NAME", "STATE", "PROPLET", "SAYS"), rows, title=title)


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def _word(state: object) -> str:
    return TaskState(state).name.lower() if isinstance(state, int) else "pending"


def _styled(state: object) -> Text:
    known = TaskState(state) if isinstance(state, int) else TaskState.PENDING
    return Text(known.name.capitalize(), style=_STYLES.get(known, ""))


def _counted(task: TaskView) -> Text:
    """The state; of a service also how many replicas run of how many."""
    if not isinstance(task.service, ServiceView):
        return _styled(task.state)
    return _styled(task.state).append(f" {task.service.ready}/{task.service.wanted}")


def _alive(proplet: PropletView) -> Text:
    if proplet.alive is not True:
        return Text("offline", style="red")
    if proplet.draining or proplet.cordoned:
        return Text("draining" if proplet.draining else "cordoned", style="yellow")
    return Text("ready", style="green")
