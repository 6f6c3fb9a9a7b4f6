"""How tasks and proplets look on the wire. Pure, and the only place that knows both shapes."""

from collections.abc import Sequence
from dataclasses import asdict

import msgspec
from msgspec import UNSET

from propeller import limits
from propeller.core.constraints import Affinity, Constraint
from propeller.core.proplet import Proplet
from propeller.core.replicas import Rollout, Scale
from propeller.core.retry import Disconnect, Retry
from propeller.core.run import SHOWN, Attempt, AttemptState, Run, RunState
from propeller.core.service import ReplicaState, ServiceState
from propeller.core.task import Task, TaskState
from propeller.stores.manager import TaskRecord
from propeller.wire.tasks import (
    AffinityBody,
    AttemptView,
    ConstraintBody,
    DisconnectBody,
    LimitsBody,
    PropletView,
    RetryBody,
    RolloutBody,
    ScaleBody,
    ServiceView,
    TaskView,
    rfc3339,
)

_ENDED_BADLY = {RunState.FAILED, RunState.INTERRUPTED}


def task_view(record: TaskRecord, *, part: bool = False) -> TaskView:
    """A task with its latest run.

    As `part` of a list it has no long results, so that a page of a hundred tasks stays small: `results_bytes`
    says how long they are, and the task's own routes have them.
    """
    task, run = record.task, record.run
    results = record.results if record.results and record.results != b"null" else b""
    long = part and len(results) > limits.LIST_RESULT_BYTES_MAX
    attempt = run.attempt if run else None
    ended_badly = run is not None and run.state in _ENDED_BADLY
    return TaskView(
        id=task.id,
        name=task.name,
        kind=task.kind,
        state=int(SHOWN[run.state]) if run else int(TaskState.PENDING),
        image_url=task.image_url,
        file=task.file_shown,
        cli_args=list(task.cli_args) if task.cli_args is not None else None,
        inputs=list(task.inputs),
        env=dict(task.env),
        daemon=task.daemon,
        latent=task.latent,
        encrypted=False,
        proplet_id=_shown_proplet(task, attempt),
        broadcast=task.broadcast,
        replicas=UNSET if task.replicas is None else task.replicas,
        scale=_scale(task.scale),
        rollout=_rollout(task.rollout),
        priority=task.priority,
        mode=task.mode,
        metadata=dict(task.metadata),
        limits=_limits(task),
        depends_on=list(task.depends_on),
        run_if=task.run_if,
        workflow_id=task.workflow_id,
        job_id=task.job_id,
        schedule=task.schedule,
        is_recurring=task.is_recurring,
        timezone=task.timezone,
        constraints=[_constraint(one) for one in task.constraints],
        affinities=[_affinity(one) for one in task.affinities],
        placement=task.placement,
        restart=_retry(task.restart),
        reschedule=_retry(task.reschedule),
        disconnect=_disconnect(task.disconnect),
        results=msgspec.Raw(results) if results and not long else UNSET,
        results_bytes=len(results) if long else 0,
        error=run.reason or "failed" if run and ended_badly else "",
        failure=run.failure if run else "",
        reason=_reason(run) if run else "",
        run=run.number if run else 0,
        image_digest=run.image_digest if run else "",
        attempts=[_attempt_view(one) for one in run.attempts] if run else [],
        start_time=rfc3339(run.started_at_s if run else 0.0),
        finish_time=rfc3339(run.ended_at_s if run else 0.0),
        created_at=rfc3339(task.created_at_s),
        updated_at=rfc3339(task.updated_at_s),
        next_run=rfc3339(task.next_run_s),
        fl=dict(task.fl),
        experiment_id=task.experiment_id,
    )


def with_parts(view: TaskView, parts: Sequence[TaskRecord]) -> TaskView:
    """A broadcast with the latest attempt on each proplet that its latest run reached."""
    if not parts:
        return view
    runs = [(one.task, one.run) for one in parts if one.run is not None and one.run.number == view.run]
    return msgspec.structs.replace(view, attempts=[_part_view(task, run) for task, run in runs])


def with_service(view: TaskView, state: ServiceState | None, *, part: bool = False) -> TaskView:
    """A service as it stands, with the latest attempt of each replica unless it is `part` of a list.

    It is shown as pending while nothing of it runs.
    """
    if state is None:
        return view
    service = state.service
    waits = not state.ready and service.wanted
    shown = ServiceView(
        wanted=service.wanted,
        ready=state.ready,
        updated=sum(one.ready and one.revision == service.target.number for one in state.replicas),
        revision=service.target.number,
        phase=service.phase.value,
        outcome=service.outcome,
        why=service.why,
    )
    return msgspec.structs.replace(
        view,
        service=shown,
        state=int(TaskState.PENDING) if waits else view.state,
        attempts=[] if part else [_replica_view(one) for one in state.replicas],
    )


def _replica_view(replica: ReplicaState) -> AttemptView:
    run, attempt = replica.run, replica.run.attempt
    if attempt is None or run.state is RunState.WAITING:
        shown = AttemptView(attempt=0, proplet_id="", state=str(run.state), error=run.reason)
    else:
        shown = _attempt_view(attempt)
    return msgspec.structs.replace(shown, task_id=replica.task_id, revision=replica.revision)


def _part_view(task: Task, run: Run) -> AttemptView:
    if run.attempt is not None and run.state is not RunState.WAITING:
        return _attempt_view(run.attempt)
    return AttemptView(attempt=0, proplet_id=task.proplet_id, state=str(run.state), error=run.reason)


def _reason(run: Run) -> str:
    """Why the run waits or how it ended; a run that prepares says so too, as that can take a while."""
    attempt = run.attempt
    if run.reason or attempt is None or attempt.state is not AttemptState.ACCEPTED:
        return run.reason
    return f"{attempt.proplet_id} has accepted it and gets its module and inputs"


def _shown_proplet(task: Task, attempt: Attempt | None) -> str:
    return task.proplet_id or (attempt.proplet_id if attempt else "")


def _limits(task: Task) -> LimitsBody | msgspec.UnsetType:
    body = LimitsBody(
        wall_s=task.limits.wall_s,
        cpu_s=task.limits.cpu_s,
        memory_bytes=task.limits.memory_bytes,
        stdout_bytes=task.limits.stdout_bytes,
    )
    return body if body != LimitsBody() else UNSET


def _scale(scale: Scale | None) -> ScaleBody | msgspec.UnsetType:
    return ScaleBody(**asdict(scale)) if scale else UNSET


def _rollout(rollout: Rollout) -> RolloutBody | msgspec.UnsetType:
    return RolloutBody(**asdict(rollout)) if rollout != Rollout() else UNSET


def _constraint(one: Constraint) -> ConstraintBody:
    return ConstraintBody(attribute=one.attribute, operator=one.operator, value=one.value)


def _affinity(one: Affinity) -> AffinityBody:
    asked = one.constraint
    return AffinityBody(
        attribute=asked.attribute, operator=asked.operator, value=asked.value, weight=one.weight
    )


def _retry(retry: Retry | None) -> RetryBody | msgspec.UnsetType:
    return RetryBody(**asdict(retry)) if retry else UNSET


def _disconnect(disconnect: Disconnect) -> DisconnectBody | msgspec.UnsetType:
    return DisconnectBody(**asdict(disconnect)) if disconnect != Disconnect() else UNSET


def _attempt_view(attempt: Attempt) -> AttemptView:
    return AttemptView(
        attempt=attempt.number,
        proplet_id=attempt.proplet_id,
        state=str(attempt.state),
        error=attempt.error,
        failure=attempt.failure,
    )


def proplet_view(proplet: Proplet, *, alive: bool, task_count: int) -> PropletView:
    """A proplet; `task_count` counts its live attempts."""
    return PropletView(
        id=proplet.id,
        name=proplet.name,
        task_count=task_count,
        alive=alive,
        protocol=2 if proplet.lane == "directed" else 1,
        slots=proplet.slots,
        cordoned=proplet.cordoned,
        draining=proplet.draining,
        labels=dict(proplet.labels),
        last_alive_at=rfc3339(proplet.last_alive_at_s) if proplet.last_alive_at_s else "",
        metadata=dict(proplet.metadata),
    )
