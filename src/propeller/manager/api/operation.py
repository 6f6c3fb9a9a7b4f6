"""Routes of operators: take a proplet out of use, move its work away, take it back, label it."""

from litestar import post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from propeller.http.answers import AnyRequest
from propeller.http.document import said
from propeller.http.server import json_body
from propeller.manager.api.views import proplet_view
from propeller.manager.tasks import Tasks
from propeller.wire.tasks import PropletView


def operation_routes(tasks: Tasks) -> list[HTTPRouteHandler]:
    """`/proplets/{id}/cordon`, `/drain`, `/uncordon` and `/labels`."""

    def shown(proplet_id: str) -> PropletView:
        proplet, alive, count = tasks.proplet(proplet_id)
        return proplet_view(proplet, alive=alive, task_count=count)

    @post("/proplets/{proplet_id:str}/cordon", status_code=200, summary="Give a proplet no new work")
    async def cordon_proplet(proplet_id: FromPath[str]) -> PropletView:
        """What runs there goes on."""
        await tasks.cordon(proplet_id, cordoned=True)
        return shown(proplet_id)

    @post("/proplets/{proplet_id:str}/drain", status_code=200, summary="Move a proplet's work away")
    async def drain_proplet(proplet_id: FromPath[str]) -> PropletView:
        """What can run elsewhere is stopped and does; what cannot ends there; nothing new comes."""
        await tasks.cordon(proplet_id, cordoned=True, draining=True)
        return shown(proplet_id)

    @post("/proplets/{proplet_id:str}/uncordon", status_code=200, summary="Take a proplet back into use")
    async def uncordon_proplet(proplet_id: FromPath[str]) -> PropletView:
        await tasks.cordon(proplet_id, cordoned=False)
        return shown(proplet_id)

    @put(
        "/proplets/{proplet_id:str}/labels",
        summary="Replace a proplet's labels",
        opt=said(takes={"type": "object", "additionalProperties": {"type": "string"}}),
    )
    async def label_proplet(proplet_id: FromPath[str], request: AnyRequest) -> PropletView:
        """The body is an object of texts; constraints and affinities of tasks can ask for `labels.NAME`."""
        await tasks.label(proplet_id, await json_body(request, dict[str, str], "the labels"))
        return shown(proplet_id)

    return [cordon_proplet, drain_proplet, uncordon_proplet, label_proplet]
