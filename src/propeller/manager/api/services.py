"""Routes of services: how many replicas, the revision before, the same again."""

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from propeller.http.answers import AnyRequest
from propeller.http.document import said
from propeller.http.server import json_body
from propeller.manager.handles import Handles
from propeller.manager.tasks import Tasks
from propeller.wire.tasks import ReplicasBody, TaskView


def service_routes(tasks: Tasks, handles: Handles) -> list[HTTPRouteHandler]:
    """`/tasks/{id}/scale`, `/tasks/{id}/rollout/undo` and `/tasks/{id}/rollout/restart`."""

    async def shown(task_id: str) -> TaskView:
        [view] = await handles.shown([await tasks.view(task_id)])
        return view

    @post(
        "/tasks/{task_id:str}/scale",
        status_code=200,
        summary="Have so many replicas of a service",
        opt=said(takes=ReplicasBody),
    )
    async def scale_task(task_id: FromPath[str], request: AnyRequest) -> TaskView:
        """At once, also during a rollout; a rule of the service goes on from there."""
        body = await json_body(request, ReplicasBody, "the number of replicas")
        await tasks.scale(task_id, body.replicas)
        return await shown(task_id)

    @post("/tasks/{task_id:str}/rollout/undo", status_code=200, summary="Go back to the revision before")
    async def undo_rollout(task_id: FromPath[str]) -> TaskView:
        """A rollout under way is rolled back; after one, the revision before it is rolled out."""
        await tasks.roll(task_id, "undo")
        return await shown(task_id)

    @post(
        "/tasks/{task_id:str}/rollout/restart",
        status_code=200,
        summary="Roll out the same definition again",
    )
    async def restart_rollout(task_id: FromPath[str]) -> TaskView:
        """New replicas, of what the image's tag means now."""
        await tasks.roll(task_id, "restart")
        return await shown(task_id)

    return [scale_task, undo_rollout, restart_rollout]
