"""Routes of workflows and jobs."""

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from propeller import limits
from propeller.core.flow import shown_state
from propeller.http.answers import AnyRequest
from propeller.http.document import said
from propeller.http.server import json_body
from propeller.manager.api.paging import Limit, Offset
from propeller.manager.api.views import task_view
from propeller.manager.flows import Flows
from propeller.manager.flowstate import FlowState
from propeller.wire.flows import JobBody, JobDone, JobPage, JobSummary, JobView, WorkflowBody, WorkflowView
from propeller.wire.modules import decode_body
from propeller.wire.tasks import TaskView, rfc3339


def flow_routes(flows: Flows) -> list[HTTPRouteHandler]:
    """Every route below `/workflows` and `/jobs`."""
    return [*_making(flows), *_jobs(flows)]


def _making(flows: Flows) -> list[HTTPRouteHandler]:
    @post(
        "/workflows",
        status_code=201,
        summary="Create tasks that wait for each other",
        opt=said(takes=WorkflowBody),
    )
    async def create_workflow(request: AnyRequest) -> WorkflowView:
        """All tasks are on disk when this answers, or none. Start the roots; the rest follows."""
        records = await flows.create_workflow(
            await json_body(request, WorkflowBody, "the workflow", decode=decode_body)
        )
        return WorkflowView(
            workflow_id=records[0].task.workflow_id, tasks=[task_view(record) for record in records]
        )

    @post(
        "/jobs",
        status_code=201,
        summary="Create tasks that are started and stopped as one",
        opt=said(takes=JobBody),
    )
    async def create_job(request: AnyRequest) -> Response[JobView]:
        """All tasks are on disk when this answers, or none."""
        flow, records = await flows.create_job(
            await json_body(request, JobBody, "the job", decode=decode_body)
        )
        view = JobView(
            job_id=flow.id,
            tasks=[task_view(record) for record in records],
            name=flow.name,
            execution_mode=flow.mode,
        )
        return Response(view, status_code=201, headers={"Location": f"/jobs/{flow.id}"})

    @get("/workflows/{workflow_id:str}", summary="One workflow with its tasks")
    async def view_workflow(workflow_id: FromPath[str]) -> WorkflowView:
        state = await flows.workflow(workflow_id)
        return WorkflowView(workflow_id=workflow_id, tasks=_tasks(state), state=_state(state))

    return [create_workflow, view_workflow, create_job]


def _jobs(flows: Flows) -> list[HTTPRouteHandler]:
    @get("/jobs", summary="List jobs, newest first")
    async def list_jobs(
        offset: Offset = 0,
        limit: Limit = limits.LIST_PAGE_DEFAULT,
        status: FromQuery[str | None] = None,
    ) -> JobPage:
        """`status` keeps those that are pending, running, completed or failed."""
        total, states = await flows.jobs(offset=offset, limit=limit, status=status)
        return JobPage(offset=offset, limit=limit, total=total, jobs=[_summary(state) for state in states])

    @get("/jobs/{job_id:str}", summary="One job with its tasks")
    async def view_job(job_id: FromPath[str]) -> JobView:
        state = await flows.job(job_id)
        return JobView(
            job_id=job_id,
            tasks=_tasks(state),
            name=state.flow.name,
            execution_mode=state.flow.mode,
            state=_state(state),
        )

    @post("/jobs/{job_id:str}/start", status_code=200, summary="Start a job")
    async def start_job(job_id: FromPath[str]) -> JobDone:
        """Its first runs are on disk when this answers; every start runs all of its tasks anew."""
        await flows.start_job(job_id)
        return JobDone(job_id=job_id, message="job started")

    @post("/jobs/{job_id:str}/stop", status_code=200, summary="Stop a job")
    async def stop_job(job_id: FromPath[str]) -> JobDone:
        await flows.stop_job(job_id)
        return JobDone(job_id=job_id, message="job stopped")

    return [list_jobs, view_job, start_job, stop_job]


def _tasks(state: FlowState) -> list[TaskView]:
    return [task_view(record, part=True) for record in state.records.values()]


def _state(state: FlowState) -> int:
    return int(shown_state(state.present()))


def _summary(state: FlowState) -> JobSummary:
    records = list(state.records.values())
    runs = [record.run for record in records if record.run]
    started = [run.started_at_s for run in runs if run.started_at_s]
    return JobSummary(
        job_id=state.flow.id,
        name=state.flow.name,
        execution_mode=state.flow.mode,
        state=_state(state),
        tasks=_tasks(state),
        start_time=rfc3339(min(started, default=0.0)),
        finish_time=rfc3339(max((run.ended_at_s for run in runs), default=0.0)),
        created_at=rfc3339(state.flow.created_at_s),
    )
