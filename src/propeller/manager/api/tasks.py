"""Routes of tasks, and of the inline modules that proplets fetch."""

import msgspec
from litestar import Response, delete, get, post, put
from litestar.datastructures import UploadFile
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from propeller import limits
from propeller.errors import BadInput, NotFound
from propeller.http.answers import AnyRequest
from propeller.http.direct import DIRECT
from propeller.http.document import BYTES, said
from propeller.http.server import body_bytes, json_body, media_type
from propeller.manager.api.paging import Offset, TaskLimit
from propeller.manager.api.views import task_view, with_parts
from propeller.manager.handles import Handles
from propeller.manager.tasks import Tasks
from propeller.ports import Blobs
from propeller.wire.modules import decode_body
from propeller.wire.tasks import TaskBody, TaskPage, TaskView

_MODULE_TYPES = {"application/wasm", "application/octet-stream", ""}


class Started(msgspec.Struct):
    """Answer of a start."""

    started: bool = True


class Stopped(msgspec.Struct):
    """Answer of a stop."""

    stopped: bool = True


class Results(msgspec.Struct):
    """Answer of `GET /tasks/{id}/results`; null while there are none."""

    results: msgspec.Raw


def task_routes(tasks: Tasks, handles: Handles, blobs: Blobs) -> list[HTTPRouteHandler]:
    """Every route below `/tasks`, and `GET /blobs/{digest}`."""
    return [*_definitions(tasks, handles), *_runs(tasks, handles), _blob_route(blobs)]


def _definitions(tasks: Tasks, handles: Handles) -> list[HTTPRouteHandler]:
    @post("/tasks", status_code=201, summary="Create a task", opt={**said(takes=TaskBody), **DIRECT})
    async def create_task(request: AnyRequest) -> Response[TaskView]:
        """When this answers 201 the task is on disk. It does not run before it is started."""
        record = await tasks.create(await json_body(request, TaskBody, "the task", decode=decode_body))
        return Response(task_view(record), status_code=201, headers={"Location": f"/tasks/{record.task.id}"})

    @get("/tasks", summary="List tasks, newest first")
    async def list_tasks(
        offset: Offset = 0,
        limit: TaskLimit = limits.LIST_PAGE_DEFAULT,
        metadata: FromQuery[str | None] = None,
        scheduled: FromQuery[bool | None] = None,
    ) -> TaskPage:
        """`metadata` is a JSON object; tasks whose metadata has all of its values are listed.

        With `scheduled`, only tasks that have a next run by their schedule, soonest first. Results over
        16 KiB are left out of a list; `results_bytes` says so.
        """
        total, records = await tasks.page(offset, limit, metadata, scheduled=bool(scheduled))
        views = await handles.shown(records, part=True)
        return TaskPage(offset=offset, limit=limit, total=total, tasks=views)

    @get("/tasks/{task_id:str}", summary="One task, with its latest run")
    async def view_task(task_id: FromPath[str]) -> TaskView:
        record = await tasks.view(task_id, results=True)
        [view] = await handles.shown([record])
        return with_parts(view, await tasks.parts(record.task))

    @put("/tasks/{task_id:str}", summary="Change a task", opt=said(takes=TaskBody))
    async def update_task(task_id: FromPath[str], request: AnyRequest) -> TaskView:
        """Changes what the body names and keeps the rest.

        A live run goes on as it was started; a service that runs gets its new definition rolled out.
        """
        record = await tasks.update(
            task_id, await json_body(request, TaskBody, "the task", decode=decode_body)
        )
        [view] = await handles.shown([record])
        return view

    @put(
        "/tasks/{task_id:str}/upload",
        summary="Give a task its module",
        opt=said(takes=BYTES, types=("application/wasm", "application/octet-stream", "multipart/form-data")),
    )
    async def upload_task(task_id: FromPath[str], request: AnyRequest) -> TaskView:
        """The module itself (`application/wasm`), or a form with a part `file` whose name ends in `.wasm`."""
        return task_view(await tasks.upload(task_id, await _uploaded(request)))

    @delete("/tasks/{task_id:str}", status_code=204, summary="Delete a task that is not running")
    async def delete_task(task_id: FromPath[str]) -> None:
        await handles.delete(task_id)

    return [create_task, list_tasks, view_task, update_task, upload_task, delete_task]


def _runs(tasks: Tasks, handles: Handles) -> list[HTTPRouteHandler]:
    @post("/tasks/{task_id:str}/start", status_code=200, summary="Start a run of a task", opt=DIRECT)
    async def start_task(task_id: FromPath[str]) -> Started:
        """The run is on disk; it waits, with a visible reason, until a proplet takes it."""
        await handles.start(task_id)
        return Started()

    @post("/tasks/{task_id:str}/stop", status_code=200, summary="Stop a task's live run")
    async def stop_task(task_id: FromPath[str]) -> Stopped:
        await handles.stop(task_id)
        return Stopped()

    @get("/tasks/{task_id:str}/results", summary="The latest run's results")
    async def task_results(task_id: FromPath[str]) -> Results:
        record = await tasks.view(task_id, results=True)
        if not record.task.handle:
            return Results(results=msgspec.Raw(record.results or b"null"))
        [view] = await handles.shown([record])
        return Results(results=msgspec.Raw(b"null") if view.results is msgspec.UNSET else view.results)

    return [start_task, stop_task, task_results]


def _blob_route(blobs: Blobs) -> HTTPRouteHandler:
    @get(
        "/blobs/{digest:str}",
        summary="An inline module, by SHA-256",
        media_type="application/wasm",
        opt=said(answers=BYTES, as_type="application/wasm"),
    )
    async def fetch_blob(digest: FromPath[str]) -> Response[bytes]:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):  # noqa: PLR2004 - SHA-256 in hex
            raise NotFound("a blob is named by 64 lower-case hex digits of SHA-256", code="unknown_blob")
        return Response(await blobs.get(digest), media_type="application/wasm")

    return fetch_blob


async def _uploaded(request: AnyRequest) -> bytes:
    given = media_type(request)
    if given in _MODULE_TYPES:
        return await body_bytes(request, "the module")
    if given != "multipart/form-data":
        raise BadInput(
            f"unsupported content type {given!r}: send the module as application/wasm, or a multipart form "
            "with a part named file",
            code="content_type",
        )
    # Parsed piece by piece as it comes; what is long waits in a file that a thread writes and reads.
    form = await request.form()
    part = form.get("file")
    if not isinstance(part, UploadFile):
        raise BadInput("the form has no part named file", code="missing_file")
    if not part.filename.endswith(".wasm"):
        raise BadInput(f"invalid file extension: {part.filename!r} does not end in .wasm", code="bad_file")
    return await part.read()
