"""Experiments, rounds and updates: the manager's routes, and what only the coordinator shows.

It must not know how updates are checked or folded.
"""

from collections.abc import AsyncIterator

import msgspec

from propeller.client.calls import Query, Role, changes, part
from propeller.wire.experiments import (
    ExperimentBody,
    ExperimentConfigured,
    ExperimentDetail,
    ExperimentPage,
    ExperimentView,
    MetricRow,
    MetricRows,
    ParticipantRows,
    RoundDetail,
    RoundPage,
    RoundStatus,
    RoundTask,
    RoundTaskAnswer,
    UpdateAnswer,
    UpdateBody,
)

POLL_S = 0.05
CBOR = "application/cbor"
_ENDED = {"completed", "failed"}


class _Configured(msgspec.Struct, frozen=True, kw_only=True):
    """The manager's answer, which an older one gives without the model's version."""

    experiment_id: str
    round_id: str
    status: str = "configured"
    model_version: int = 0


class _Nested(msgspec.Struct, frozen=True, kw_only=True):
    status: RoundStatus


class Rounds:
    """`client.fl`."""

    def __init__(self, manager: Role, coordinator: Role) -> None:
        self._manager = manager
        self._coordinator = coordinator

    async def configure(self, body: ExperimentBody) -> ExperimentConfigured:
        """Begin an experiment: the first round's tasks are on the manager's disk when this returns."""
        made = await self._manager.post(_Configured, "/fl/experiments", body)
        return ExperimentConfigured(
            experiment_id=made.experiment_id, round_id=made.round_id, model_version=made.model_version
        )

    async def task(self, round_id: str, proplet_id: str | None = None) -> RoundTask:
        """What a participant of the round is asked to do."""
        query = {"round_id": round_id, "proplet_id": proplet_id}
        return (await self._manager.get(RoundTaskAnswer, "/fl/task", query)).task

    async def update(self, body: UpdateBody) -> UpdateAnswer:
        """Submit an update; the same one again is accepted and counts once."""
        return await self._manager.post(UpdateAnswer, "/fl/update", body)

    async def update_cbor(self, content: bytes) -> UpdateAnswer:
        """Submit an update that is one CBOR map."""
        answer = await self._manager.send("POST", "/fl/update_cbor", content=content, content_type=CBOR)
        return msgspec.json.decode(answer.body, type=UpdateAnswer)

    async def round_status(self, round_id: str) -> RoundStatus:
        """How far a round is, by the manager."""
        return (await self._manager.get(_Nested, f"/fl/rounds/{part(round_id)}/complete")).status

    async def round(self, round_id: str) -> RoundDetail:
        """All that the coordinator knows of a round, its updates included."""
        return await self._coordinator.get(RoundDetail, f"/rounds/{part(round_id)}")

    async def rounds(self, *, offset: int = 0, limit: int = 100) -> RoundPage:
        """Rounds, newest first."""
        return await self._coordinator.get(RoundPage, "/rounds", {"offset": offset, "limit": limit})

    async def experiment(self, experiment_id: str) -> ExperimentDetail:
        """One experiment with its latest rounds."""
        return await self._coordinator.get(ExperimentDetail, f"/experiments/{part(experiment_id)}")

    async def experiments(self, *, offset: int = 0, limit: int = 100) -> ExperimentPage:
        """Experiments, newest first."""
        return await self._coordinator.get(ExperimentPage, "/experiments", {"offset": offset, "limit": limit})

    async def rounds_of(self, experiment_id: str, *, offset: int = 0, limit: int = 100) -> RoundPage:
        """Rounds and evaluations of one experiment, newest first."""
        query: Query = {"experiment_id": experiment_id, "offset": offset, "limit": limit}
        return await self._coordinator.get(RoundPage, "/rounds", query)

    async def metrics(self, experiment_id: str) -> MetricRows:
        """An experiment's rounds and evaluations in numbers, oldest first."""
        return await self._coordinator.get(MetricRows, f"/experiments/{part(experiment_id)}/metrics")

    async def participants(self, experiment_id: str) -> ParticipantRows:
        """Who took part in an experiment, and what each sent."""
        path = f"/experiments/{part(experiment_id)}/participants"
        return await self._coordinator.get(ParticipantRows, path)

    async def stop(self, experiment_id: str) -> ExperimentView:
        """End an experiment and the round that is under way."""
        return await self._coordinator.post(ExperimentView, f"/experiments/{part(experiment_id)}/stop")

    async def pause(self, experiment_id: str) -> ExperimentView:
        """Let no further round begin; the one under way goes on to its end."""
        return await self._coordinator.post(ExperimentView, f"/experiments/{part(experiment_id)}/pause")

    async def resume(self, experiment_id: str) -> ExperimentView:
        """Let a paused experiment go on."""
        return await self._coordinator.post(ExperimentView, f"/experiments/{part(experiment_id)}/resume")

    async def follow_experiment(self, experiment_id: str, *, timeout_s: float) -> AsyncIterator[MetricRow]:
        """Each round and evaluation once it has ended, until the experiment has.

        Raises `PeerUnavailable` if it has not by then.
        """

        async def look() -> tuple[bool, list[MetricRow]]:
            # The end first: rounds that are asked for after it are all there.
            over = (await self.experiment(experiment_id)).ended_at is not None
            rows = (await self.metrics(experiment_id)).rows
            return over, [row for row in rows if row.state in _ENDED]

        shown = 0
        async for _, rows in changes(
            look,
            lambda found: found[0],
            what=f"experiment {experiment_id}",
            timeout_s=timeout_s,
            pause_s=POLL_S,
        ):
            for row in rows[shown:]:
                yield row
            shown = len(rows)

    async def follow(self, round_id: str, *, timeout_s: float) -> AsyncIterator[RoundStatus]:
        """The round's status now and after each change, until it has ended.

        Raises `PeerUnavailable` if it has not by then.
        """
        async for status in changes(
            lambda: self.round_status(round_id),
            lambda status: status.completed or status.state == "failed",
            what=f"round {round_id}",
            timeout_s=timeout_s,
            pause_s=POLL_S,
        ):
            yield status
