"""Experiments, rounds and updates: the manager's routes, and the coordinator's own view of a round.

It must not know how updates are checked or folded.
"""

from typing import Any

import msgspec

from propeller.client.calls import Role, part


class ExperimentBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /fl/experiments`. `rounds` over 1 lets the coordinator start each next round by itself."""

    experiment_id: str
    model_ref: str
    participants: list[str]
    task_wasm_image: str
    round_id: str | None = None
    rounds: int | None = None
    hyperparams: dict[str, Any] | None = None
    k_of_n: int | None = None
    timeout_s: float | None = None
    seed: int | None = None


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `POST /fl/experiments`."""

    experiment_id: str
    round_id: str
    status: str = ""


class RoundStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /rounds/{id}/complete`; `completed` only once the new model is stored."""

    round_id: str
    completed: bool
    num_updates: int = 0
    k_of_n: int = 0
    state: str = ""
    reason: str = ""
    model_version: int | None = None


class UpdateBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /fl/update`, as a trainer prints it."""

    round_id: str
    proplet_id: str
    num_samples: int
    update: dict[str, Any]
    base_model_uri: str = ""
    metrics: dict[str, Any] | None = None


class _Nested(msgspec.Struct, frozen=True, kw_only=True):
    status: RoundStatus


class _TaskOf(msgspec.Struct, frozen=True, kw_only=True):
    task: dict[str, Any]


class Rounds:
    """`client.fl`."""

    def __init__(self, manager: Role, coordinator: Role) -> None:
        self._manager = manager
        self._coordinator = coordinator

    async def configure(self, body: ExperimentBody) -> Configured:
        """Begin an experiment: its tasks are on the manager's disk when this returns."""
        return await self._manager.post(Configured, "/fl/experiments", body)

    async def task(self, round_id: str, proplet_id: str | None = None) -> dict[str, Any]:
        """What a participant of the round is asked to do."""
        query = {"round_id": round_id, "proplet_id": proplet_id}
        return (await self._manager.get(_TaskOf, "/fl/task", query)).task

    async def update(self, body: UpdateBody) -> dict[str, Any]:
        """Submit an update; the same one again is accepted and counts once."""
        return await self._manager.post(dict[str, Any], "/fl/update", body)

    async def update_cbor(self, content: bytes) -> dict[str, Any]:
        """Submit an update that is one CBOR map."""
        answer = await self._manager.send(
            "POST", "/fl/update_cbor", content=content, content_type="application/cbor"
        )
        return msgspec.json.decode(answer.body, type=dict[str, Any])

    async def round_status(self, round_id: str) -> RoundStatus:
        """How far a round is, by the manager."""
        path = f"/fl/rounds/{part(round_id)}/complete"
        return (await self._manager.get(_Nested, path)).status

    async def round_detail(self, round_id: str) -> dict[str, Any]:
        """All that the coordinator says of a round."""
        return await self._coordinator.get(dict[str, Any], f"/rounds/{part(round_id)}/complete")
