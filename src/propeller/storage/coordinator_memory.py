"""The coordinator's store in memory: the twin of `coordinator_store`, without a disk or a thread.

It survives a simulated crash: keep the object and hand it to the next coordinator. It decides nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from propeller.core.retention import Aged
from propeller.fl.round import TERMINAL, RoundState
from propeller.storage.coordinator_store import already_submitted
from propeller.stores.coordinator import (
    Changes,
    Content,
    ExperimentRecord,
    Live,
    Notice,
    NoticeKind,
    RoundRecord,
    StoredUpdate,
    UpdateRecord,
)


class MemoryCoordinatorStore:
    """`stores.CoordinatorStore` in dictionaries, which keep the order of creation."""

    def __init__(self) -> None:
        self._experiments: dict[str, ExperimentRecord] = {}
        self._rounds: dict[str, RoundRecord] = {}
        self._updates: dict[str, dict[str, StoredUpdate]] = {}
        self._notices: dict[tuple[str, NoticeKind], Notice] = {}

    async def commit(self, changes: Changes) -> None:
        """See `stores.CoordinatorStore`."""
        new: set[tuple[str, str]] = set()
        for update in changes.updates:
            key = update.record.round_id, update.record.accepted.participant
            if key in new or key[1] in self._updates.get(key[0], {}):
                raise already_submitted(update.record)
            new.add(key)
        self._experiments |= {one.experiment.spec.series: one for one in changes.experiments}
        self._rounds |= {one.spec.round_id: one for one in changes.rounds}
        for update in changes.updates:
            known = self._updates.setdefault(update.record.round_id, {})
            known[update.record.accepted.participant] = update
        self._notices |= {one.key: one for one in changes.notices}
        for key in changes.done:
            self._notices.pop(key, None)

    async def live(self) -> Live:
        """See `stores.CoordinatorStore`."""
        return Live(
            experiments=[one for one in self._experiments.values() if not one.experiment.over],
            rounds=[
                (one, [update.accepted for update in await self.updates(one.spec.round_id)])
                for one in self._rounds.values()
                if one.state not in TERMINAL
            ],
            notices=list(self._notices.values()),
        )

    async def experiment(self, series: str) -> ExperimentRecord | None:
        """See `stores.CoordinatorStore`."""
        return self._experiments.get(series)

    async def latest_experiment(self, experiment_id: str) -> ExperimentRecord | None:
        """See `stores.CoordinatorStore`."""
        found = [
            one for one in self._experiments.values() if one.experiment.spec.experiment_id == experiment_id
        ]
        return found[-1] if found else None

    async def experiments(self, *, offset: int, limit: int) -> tuple[int, list[ExperimentRecord]]:
        """See `stores.CoordinatorStore`."""
        found = list(self._experiments.values())[::-1]
        return len(found), found[offset : offset + limit]

    async def round(self, round_id: str) -> RoundRecord | None:
        """See `stores.CoordinatorStore`."""
        return self._rounds.get(round_id)

    async def rounds(
        self, *, offset: int, limit: int, experiment_id: str | None = None
    ) -> tuple[int, list[RoundRecord]]:
        """See `stores.CoordinatorStore`."""
        found = [
            one
            for one in reversed(self._rounds.values())
            if experiment_id is None or one.spec.experiment_id == experiment_id
        ]
        return len(found), found[offset : offset + limit]

    async def taken(self, round_ids: Sequence[str]) -> str | None:
        """See `stores.CoordinatorStore`."""
        return next((one for one in round_ids if one in self._rounds), None)

    async def last_completed(self) -> RoundRecord | None:
        """See `stores.CoordinatorStore`."""
        completed = [
            one
            for one in self._rounds.values()
            if one.state is RoundState.COMPLETED and one.version is not None
        ]
        return max(reversed(completed), key=lambda one: one.started_wall_s, default=None)

    async def updates(self, round_id: str) -> list[UpdateRecord]:
        """See `stores.CoordinatorStore`."""
        return [one.record for one in await self.contents(round_id)]

    async def late_update(self, origin: str, participant: str) -> UpdateRecord | None:
        """See `stores.CoordinatorStore`."""
        sent = (known.get(participant) for known in self._updates.values())
        return next((one.record for one in sent if one and one.record.origin == origin), None)

    async def updates_of(self, experiment_id: str) -> list[UpdateRecord]:
        """See `stores.CoordinatorStore`."""
        rounds = [one for one in self._rounds.values() if one.spec.experiment_id == experiment_id]
        return [
            update.record for one in rounds for update in self._updates.get(one.spec.round_id, {}).values()
        ]

    async def refers_to(self, blob: str) -> bool:
        """See `stores.CoordinatorStore`."""
        return any(one.content.blob == blob for sent in self._updates.values() for one in sent.values())

    async def with_contents(self) -> list[Aged]:
        """See `stores.CoordinatorStore`."""
        return [
            Aged("", number, one.started_wall_s)
            for number, one in enumerate(self._rounds.values())
            if one.state in TERMINAL and any(map(_held, self._updates.get(one.spec.round_id, {}).values()))
        ]

    async def drop_contents(self, rounds: Sequence[int]) -> tuple[int, list[str]]:
        """See `stores.CoordinatorStore`."""
        gone, blobs = 0, set[str]()
        for number, one in enumerate(self._rounds.values()):
            if number not in rounds or one.state not in TERMINAL:
                continue
            sent = self._updates.get(one.spec.round_id, {})
            for participant, update in sent.items():
                if _held(update):
                    gone += 1
                    blobs |= {update.content.blob} - {""}
                    sent[participant] = replace(update, content=Content(inline=b""))
        return gone, [blob for blob in sorted(blobs) if not await self.refers_to(blob)]

    async def contents(self, round_id: str) -> list[StoredUpdate]:
        """See `stores.CoordinatorStore`."""
        known = self._updates.get(round_id, {})
        return [known[participant] for participant in sorted(known)]


def _held(update: StoredUpdate) -> bool:
    return bool(update.content.blob or update.content.inline)
