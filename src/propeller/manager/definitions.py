"""Reads a request's body into a task definition. Pure; `core.task.define` says in the end what is right."""

from dataclasses import replace

import msgspec

from propeller import limits
from propeller.core import schedule
from propeller.core.constraints import Affinity, Constraint
from propeller.core.ids import check_id
from propeller.core.replicas import Rollout, Scale
from propeller.core.retry import Disconnect, Retry
from propeller.core.task import Task, TaskLimits, define
from propeller.errors import BadInput, TooLarge, Unsupported
from propeller.wire import codec
from propeller.wire.tasks import LimitsBody, RetryBody, TaskBody

_NOT_OFFERED = ("encrypted", "kbs_resource_path", "hal_storage_path", "monitoring_profile")
"""Fields of the original that this release refuses unless they have their zero value."""
_ZERO_IS_ABSENT = {"priority", "daemon", "latent", "broadcast"}
_KINDS = {"", "standard", "federated"}
_MODES = {"", "infer", "train"}
_UPDATED = (
    "name",
    "inputs",
    "priority",
    "metadata",
    "env",
    "image_url",
    "cli_args",
    "limits",
    "timezone",
    "is_recurring",
    "constraints",
    "affinities",
    "placement",
    "restart",
    "reschedule",
    "disconnect",
    "kind",
    "mode",
    "proplet_id",
    "daemon",
    "latent",
    "broadcast",
    "replicas",
    "scale",
    "rollout",
    "fl",
)
"""Fields that `PUT /tasks/{id}` changes where its body has them (the module and the schedule apart)."""


def defined(body: TaskBody, task_id: str, now_s: float, *, workflow_id: str = "", job_id: str = "") -> Task:
    """The new task that a body describes; raises what is wrong with it.

    A task that comes with its workflow or job gets that id, whatever its body says.
    """
    refuse_not_offered(body)
    if not (workflow_id or job_id):
        workflow_id, job_id = body.workflow_id or "", body.job_id or ""
    return define(scheduled(_task(body, task_id, now_s, workflow_id, job_id), now_s))


def merged(task: Task, body: TaskBody, now_s: float) -> Task:
    """The task with what the body names changed; a schedule that the body does not name stays as it is.

    An empty `schedule` takes it away.
    """
    refuse_not_offered(body)
    changed = _task(body, task.id, now_s, task.workflow_id, task.job_id)
    given = [name for name in _UPDATED if _is_given(name, getattr(body, name))]
    new = replace(task, updated_at_s=now_s, **{name: getattr(changed, name) for name in given})
    if body.schedule is not None:
        new = replace(new, schedule=body.schedule)
    if (new.schedule, new.timezone) != (task.schedule, task.timezone):
        new = scheduled(new, now_s)
    return define(new)


def _is_given(name: str, value: object) -> bool:
    """Whether a change names the field. Clients of the original send zero values for what they leave out."""
    return value not in (None, "") and (bool(value) or name not in _ZERO_IS_ABSENT)


def scheduled(task: Task, now_s: float) -> Task:
    """The task with its next run counted from `now_s`; raises `BadInput` for a schedule that is none."""
    if not task.schedule:
        return replace(task, next_run_s=0.0) if task.next_run_s else task
    cron, zone = schedule.parse(task.schedule), schedule.zone(task.timezone)
    return replace(task, next_run_s=schedule.next_after(cron, zone, now_s))


def refuse_not_offered(body: TaskBody) -> None:
    """Raise `Unsupported` for a field that this release understands and does not offer."""
    for name in _NOT_OFFERED:
        if getattr(body, name):
            raise Unsupported(f"{name} is not offered by this release; leave it out", code="not_offered")


def _task(body: TaskBody, task_id: str, now_s: float, workflow_id: str, job_id: str) -> Task:
    _one_of("kind", body.kind or "", _KINDS)
    _one_of("mode", body.mode or "", _MODES)
    return Task(
        id=task_id,
        name=body.name,
        created_at_s=now_s,
        updated_at_s=now_s,
        kind=body.kind or "standard",
        image_url=body.image_url or "",
        cli_args=tuple(body.cli_args) if body.cli_args is not None else None,
        inputs=body.inputs_text(),
        env=body.env or {},
        proplet_id=body.proplet_id or "",
        priority=body.priority or 50,
        mode=body.mode or "",
        metadata=_metadata(body),
        limits=_limits(body.limits),
        daemon=bool(body.daemon),
        latent=bool(body.latent),
        broadcast=bool(body.broadcast),
        replicas=_replicas(body),
        scale=_scale(body),
        rollout=Rollout(**msgspec.structs.asdict(body.rollout)) if body.rollout else Rollout(),
        workflow_id=workflow_id,
        job_id=job_id,
        depends_on=tuple(body.depends_on or ()),
        run_if=body.run_if or "",
        schedule=body.schedule or "",
        timezone=body.timezone or "",
        is_recurring=bool(body.is_recurring),
        constraints=tuple(
            Constraint(attribute=one.attribute, operator=one.operator, value=one.text)
            for one in body.constraints or ()
        ),
        affinities=tuple(
            Affinity(
                constraint=Constraint(attribute=one.attribute, operator=one.operator, value=one.text),
                weight=one.weight,
            )
            for one in body.affinities or ()
        ),
        placement=body.placement or "",
        restart=_retry(body.restart),
        reschedule=_retry(body.reschedule),
        disconnect=_disconnect(body),
        fl=_federated(body),
    )


def _replicas(body: TaskBody) -> int | None:
    """A service with a rule alone begins with the least that the rule allows."""
    scale = _scale(body)
    return scale.min if body.replicas is None and scale is not None else body.replicas


def _scale(body: TaskBody) -> Scale | None:
    return Scale(**msgspec.structs.asdict(body.scale)) if body.scale and body.scale.max else None


def _federated(body: TaskBody) -> dict[str, object]:
    if body.fl is None:
        return {}
    if body.fl.job_id:
        check_id(body.fl.job_id, "fl.job_id")
    return msgspec.structs.asdict(body.fl)


def _one_of(name: str, value: str, allowed: set[str]) -> None:
    if value not in allowed:
        raise BadInput(f"{name} is {value!r}; it can be {', '.join(sorted(filter(None, allowed)))}")


def _metadata(body: TaskBody) -> dict[str, object]:
    metadata: dict[str, object] = body.metadata or {}
    if len(codec.encode(metadata)) > limits.TASK_METADATA_BYTES_MAX:
        raise TooLarge("metadata exceeds 1MB limit")
    return metadata


def _limits(body: LimitsBody | None) -> TaskLimits:
    return TaskLimits(**msgspec.structs.asdict(body)) if body else TaskLimits()


def _retry(body: RetryBody | None) -> Retry | None:
    return Retry(**msgspec.structs.asdict(body)) if body else None


def _disconnect(body: TaskBody) -> Disconnect:
    return Disconnect(**msgspec.structs.asdict(body.disconnect)) if body.disconnect else Disconnect()
