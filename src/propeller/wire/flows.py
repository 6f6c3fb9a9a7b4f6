"""HTTP bodies of workflows and jobs. Names, numbers and shapes are the original's."""

from msgspec import UNSET, Struct, UnsetType

from propeller.wire.tasks import TaskBody, TaskView


class WorkflowBody(Struct, frozen=True, kw_only=True):
    """`POST /workflows`."""

    tasks: list[TaskBody] | None = None


class JobBody(Struct, frozen=True, kw_only=True):
    """`POST /jobs`."""

    name: str | None = None
    tasks: list[TaskBody] | None = None
    execution_mode: str | None = None


class WorkflowView(Struct, frozen=True, kw_only=True):
    """A workflow: its tasks, in the order given; `state` is that of all of them together."""

    tasks: list[TaskView]
    workflow_id: str = ""
    state: int = 0


class JobView(Struct, frozen=True, kw_only=True):
    """`POST /jobs` and `GET /jobs/{id}`."""

    job_id: str
    tasks: list[TaskView]
    name: str = ""
    execution_mode: str = ""
    state: int = 0


class JobSummary(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `GET /jobs`: earliest start and latest finish of its tasks."""

    job_id: str
    name: str = ""
    execution_mode: str = ""
    state: int | UnsetType = UNSET
    tasks: list[TaskView] | UnsetType = UNSET
    start_time: str = ""
    finish_time: str = ""
    created_at: str = ""


class JobPage(Struct, frozen=True, kw_only=True):
    """`GET /jobs`."""

    offset: int
    limit: int
    total: int
    jobs: list[JobSummary]


class JobDone(Struct, frozen=True, kw_only=True):
    """Answer of a job's start or stop."""

    job_id: str
    message: str
