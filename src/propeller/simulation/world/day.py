"""What users have of a day in a world: what was accepted and answered, and a client that asks with patience.

It knows no task; `story` and `errands` say what is asked for.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from propeller.errors import Bug, PeerUnavailable
from propeller.ports import Response
from propeller.simulation.world.world import MANAGER, World

RETRY_S = 1.0
_AGAIN = {429, 500, 502, 503, 504, 507}
_SERVER_ERROR = 500
_CREATED = {201, 409}
"""409: an answer was lost, and what was asked for is there."""


@dataclass(slots=True)
class Day:
    """What was accepted, and how each accepted task must end."""

    accepted: dict[str, str] = field(default_factory=dict)
    """Task id → what it is; `invariants` knows how each kind may end."""
    answers: list[tuple[str, int]] = field(default_factory=list)
    called: list[tuple[str, str]] = field(default_factory=list)
    """Calls of latent tasks: what was asked, and what came back."""
    experiment_id: str = ""


class Client:
    """Asks with patience: again when there is no answer or a server-side one."""

    def __init__(self, world: World, day: Day) -> None:
        self._world = world
        self.day = day

    async def once(self, method: str, url: str, body: bytes = b"") -> Response:
        """One request, answered or not. Raises `PeerUnavailable` if not, `Bug` for a 500."""
        answer = await self._world.http.request(method, url, body=body)
        if answer.status == _SERVER_ERROR:
            raise Bug(f"{method} {url} answered 500, which no input and no fault may cause: {answer.body!r}")
        return answer

    async def ask(self, method: str, url: str, body: Any = None) -> Response:
        """One request until it is answered for good."""
        content = b"" if body is None else msgspec.json.encode(body)
        while True:
            try:
                answer = await self.once(method, url, content)
            except PeerUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            if answer.status not in _AGAIN:
                self.day.answers.append((f"{method} {url}", answer.status))
                return answer
            await asyncio.sleep(RETRY_S)

    async def demand(
        self, method: str, path: str, body: Any = None, *, lawful: Iterable[int] = (200,)
    ) -> Response:
        """As `ask`, of the manager; raises `Bug` for an answer that is not among the lawful ones."""
        answer = await self.ask(method, f"{MANAGER}{path}", body)
        if answer.status not in set(lawful):
            raise Bug(f"{method} {path} was answered {answer.status}: {answer.body!r}")
        return answer

    async def create(self, kind: str, body: dict[str, Any]) -> None:
        """Create a task of that kind."""
        self.day.accepted[body["id"]] = kind
        await self.demand("POST", "/tasks", body, lawful=_CREATED)

    async def start(self, task_id: str) -> None:
        """Start a task; one that was started already may be so, as an answer can be lost."""
        await self.demand("POST", f"/tasks/{task_id}/start", lawful=(200, 409))

    async def state(self, task_id: str) -> int:
        """The number of the state that a task shows."""
        answer = await self.demand("GET", f"/tasks/{task_id}")
        return int(msgspec.json.decode(answer.body)["state"])
