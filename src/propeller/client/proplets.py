"""Proplets: seen, taken in and out of use, labelled. It must not know how work is given to them."""

from collections.abc import Mapping
from typing import Any

from propeller.client.calls import Role, part
from propeller.wire.history import MetricsPage
from propeller.wire.tasks import HistoryPage, PropletPage, PropletView


class Proplets:
    """`client.proplets`."""

    def __init__(self, manager: Role) -> None:
        self._manager = manager

    async def list(self, *, offset: int = 0, limit: int = 100, status: str | None = None) -> PropletPage:
        """A page of proplets; `status` is "active" or "inactive"."""
        query = {"offset": offset, "limit": limit, "status": status}
        return await self._manager.get(PropletPage, "/proplets", query)

    async def view(self, proplet_id: str) -> PropletView:
        """One proplet."""
        return await self._manager.get(PropletView, f"/proplets/{part(proplet_id)}")

    async def delete(self, proplet_id: str) -> None:
        """Forget a proplet that has no live task."""
        await self._manager.send("DELETE", f"/proplets/{part(proplet_id)}")

    async def history(self, proplet_id: str, *, offset: int = 0, limit: int = 100) -> HistoryPage:
        """Times of its latest heartbeats, oldest first."""
        return await self._manager.get(
            HistoryPage, f"/proplets/{part(proplet_id)}/alive-history", {"offset": offset, "limit": limit}
        )

    async def metrics(self, proplet_id: str, *, offset: int = 0, limit: int = 100) -> MetricsPage:
        """What its process and machine used, newest first."""
        query = {"offset": offset, "limit": limit}
        return await self._manager.get(MetricsPage, f"/proplets/{part(proplet_id)}/metrics", query)

    async def sdf(self, proplet_id: str) -> dict[str, Any]:
        """What a proplet is, as an SDF document."""
        return await self._manager.get(dict[str, Any], f"/proplets/{part(proplet_id)}/sdf")

    async def cordon(self, proplet_id: str) -> PropletView:
        """Give it no new work; what runs there goes on."""
        return await self._manager.post(PropletView, f"/proplets/{part(proplet_id)}/cordon")

    async def drain(self, proplet_id: str) -> PropletView:
        """Give it no new work, and move away what can run elsewhere."""
        return await self._manager.post(PropletView, f"/proplets/{part(proplet_id)}/drain")

    async def uncordon(self, proplet_id: str) -> PropletView:
        """Take it back into use."""
        return await self._manager.post(PropletView, f"/proplets/{part(proplet_id)}/uncordon")

    async def label(self, proplet_id: str, labels: Mapping[str, str]) -> PropletView:
        """Give it these labels instead of those that it had."""
        return await self._manager.put(PropletView, f"/proplets/{part(proplet_id)}/labels", dict(labels))
