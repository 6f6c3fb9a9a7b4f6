"""Routes of proplets."""

from typing import Any, Literal

from litestar import delete, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from propeller import limits
from propeller.manager.api.paging import Limit, Offset
from propeller.manager.api.views import proplet_view
from propeller.manager.tasks import Tasks
from propeller.wire.sdf import proplet_document
from propeller.wire.tasks import HistoryPage, PropletPage, PropletView, rfc3339


def proplet_routes(tasks: Tasks) -> list[HTTPRouteHandler]:
    """Every route below `/proplets`."""

    @get("/proplets", summary="List proplets in order of registration")
    async def list_proplets(
        offset: Offset = 0,
        limit: Limit = limits.LIST_PAGE_DEFAULT,
        status: FromQuery[Literal["active", "inactive"] | None] = None,
    ) -> PropletPage:
        """`status` keeps those that are alive (`active`) or not (`inactive`)."""
        found = [one for one in tasks.proplets() if status is None or one[1] == (status == "active")]
        page = [
            proplet_view(proplet, alive=alive, task_count=count)
            for proplet, alive, count in found[offset : offset + limit]
        ]
        return PropletPage(offset=offset, limit=limit, total=len(found), proplets=page)

    @get("/proplets/{proplet_id:str}", summary="One proplet")
    async def view_proplet(proplet_id: FromPath[str]) -> PropletView:
        proplet, alive, count = tasks.proplet(proplet_id)
        return proplet_view(proplet, alive=alive, task_count=count)

    @delete(
        "/proplets/{proplet_id:str}", status_code=204, summary="Forget a proplet that is offline and idle"
    )
    async def delete_proplet(proplet_id: FromPath[str]) -> None:
        await tasks.forget(proplet_id)

    @get("/proplets/{proplet_id:str}/alive-history", summary="A proplet's latest heartbeats, oldest first")
    async def alive_history(
        proplet_id: FromPath[str], offset: Offset = 0, limit: Limit = limits.LIST_PAGE_DEFAULT
    ) -> HistoryPage:
        proplet, _, _ = tasks.proplet(proplet_id)
        times = [rfc3339(at_s) for at_s in proplet.history]
        return HistoryPage(
            offset=offset, limit=limit, total=len(times), history=times[offset : offset + limit]
        )

    @get("/proplets/{proplet_id:str}/sdf", summary="What a proplet is, as an SDF document")
    async def proplet_sdf(proplet_id: FromPath[str]) -> dict[str, Any]:
        proplet, _, _ = tasks.proplet(proplet_id)
        return proplet_document(proplet.id, proplet.name)

    return [list_proplets, view_proplet, delete_proplet, alive_history, proplet_sdf]
