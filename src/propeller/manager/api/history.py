"""Routes of what has happened: the events of a task, and measurements of tasks and proplets."""

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from propeller import limits
from propeller.manager.api.paging import Limit, Offset
from propeller.manager.tasks import Tasks
from propeller.stores.manager import ManagerStore, TaskEvent
from propeller.wire.history import EventPage, EventView, MetricsPage
from propeller.wire.tasks import rfc3339


def history_routes(tasks: Tasks, store: ManagerStore) -> list[HTTPRouteHandler]:
    """`/tasks/{id}/events`, `/tasks/{id}/metrics` and `/proplets/{id}/metrics`."""

    @get("/tasks/{task_id:str}/events", summary="What happened to a task, oldest first")
    async def task_events(
        task_id: FromPath[str], offset: Offset = 0, limit: Limit = limits.LIST_PAGE_DEFAULT
    ) -> EventPage:
        """Every change of its runs, with when, where and why; the latest few hundred are kept."""
        await tasks.view(task_id)
        total, events = await store.events(task_id, offset=offset, limit=limit)
        return EventPage(offset=offset, limit=limit, total=total, events=[_event(one) for one in events])

    @get("/tasks/{task_id:str}/metrics", summary="What a task used, newest first")
    async def task_metrics(
        task_id: FromPath[str], offset: Offset = 0, limit: Limit = limits.LIST_PAGE_DEFAULT
    ) -> MetricsPage:
        await tasks.view(task_id)
        total, found = await store.metrics("task", task_id, offset=offset, limit=limit)
        return _page(offset, limit, total, found)

    @get("/proplets/{proplet_id:str}/metrics", summary="What a proplet used, newest first")
    async def proplet_metrics(
        proplet_id: FromPath[str], offset: Offset = 0, limit: Limit = limits.LIST_PAGE_DEFAULT
    ) -> MetricsPage:
        tasks.proplet(proplet_id)
        total, found = await store.metrics("proplet", proplet_id, offset=offset, limit=limit)
        return _page(offset, limit, total, found)

    return [task_events, task_metrics, proplet_metrics]


def _page(offset: int, limit: int, total: int, found: list[bytes]) -> MetricsPage:
    metrics = [msgspec.Raw(body) for body in found]
    return MetricsPage(offset=offset, limit=limit, total=total, metrics=metrics)


def _event(event: TaskEvent) -> EventView:
    return EventView(
        time=rfc3339(event.at_s),
        event=event.kind,
        run=event.run,
        state=event.state,
        attempt=event.attempt,
        attempt_state=event.attempt_state,
        proplet_id=event.proplet_id,
        reason=event.reason,
        cause=event.cause,
    )
