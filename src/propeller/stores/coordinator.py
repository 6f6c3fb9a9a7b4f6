"""What the coordinator remembers, and the Protocol of the store that remembers it. No I/O here.

A change is durable when `commit` returns;
all changes of one `commit` happen, or none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from propeller.core.retention import Aged
from propeller.fl.experiment import Experiment
from propeller.fl.round import RoundState
from propeller.fl.round_events import Accepted, Refusal
from propeller.fl.round_spec import RoundSpec

NoticeKind = Literal["start", "complete", "next"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRecord:
    """An experiment as stored; `digest` is the SHA-256 of the request that made it."""

    experiment: Experiment
    digest: str
    created_wall_s: float
    created_mono_s: float = 1e15
    """A record of before this field: the wall clock must do."""
    ended_wall_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """A round as stored. `remaining_s` is what was left of its state's time at the stamps."""

    spec: RoundSpec
    state: RoundState
    reason: str = ""
    participants: tuple[str, ...]
    num_updates: int = 0
    samples: int = 0
    version: int | None = None
    model_hash: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    """Refused updates of its participants and strangers, by code."""
    refusals: tuple[Refusal, ...] = ()
    """The first of them."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Participants whose tasks ended without an update, and why."""
    config_hash: str = ""
    """SHA-256 of the request that made its experiment; empty if a task started by hand did."""
    remaining_s: float
    stamped_wall_s: float
    stamped_mono_s: float = 1e15
    """A record of before this field is from another start of the machine: the wall clock must do."""
    started_wall_s: float
    ended_wall_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord:
    """An accepted update without its tensors."""

    round_id: str
    accepted: Accepted
    bytes: int
    """Size of what was sent."""
    received_wall_s: float
    seconds: float
    """From the round's start to the update's arrival."""
    trainer: str = ""
    """SHA-256 of the module that made it, as its proplet says; empty if it says nothing."""
    origin: str = ""
    """The round that it was asked for in, if it came late and counts in this one."""
    staleness: int = 0
    """Versions made between that round's base and this one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """An update's tensors as a safetensors file: inline, or by the digest of a blob."""

    inline: bytes | None = None
    blob: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUpdate:
    """An accepted update and its tensors."""

    record: UpdateRecord
    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A message that is published until it is acknowledged (`next`: until it went out once)."""

    round_id: str
    kind: NoticeKind
    payload: bytes
    created_wall_s: float

    @property
    def key(self) -> tuple[str, NoticeKind]:
        """What identifies it."""
        return self.round_id, self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one transaction writes. Experiments and rounds replace what is stored under their ids."""

    experiments: Sequence[ExperimentRecord] = ()
    rounds: Sequence[RoundRecord] = ()
    updates: Sequence[StoredUpdate] = ()
    notices: Sequence[Notice] = ()
    done: Sequence[tuple[str, NoticeKind]] = ()
    """Notices that need no more sending."""

    def __bool__(self) -> bool:
        return bool(self.experiments or self.rounds or self.updates or self.notices or self.done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a coordinator needs in memory: all that has not ended, and the notices still to send."""

    experiments: Sequence[ExperimentRecord]
    rounds: Sequence[tuple[RoundRecord, Sequence[Accepted]]]
    notices: Sequence[Notice]


class CoordinatorStore(Protocol):
    """The coordinator's records."""

    async def commit(self, changes: Changes) -> None:
        """Write all changes in one durable transaction, or none.

        Raises `Conflict` `already_submitted` for a second update of one participant in one round,
        `StorageFull` when there is no room.
        """
        ...

    async def live(self) -> Live:
        """Everything that has not ended, in order of creation."""
        ...

    async def experiment(self, series: str) -> ExperimentRecord | None:
        """The experiment whose first round is `series`, or None."""
        ...

    async def latest_experiment(self, experiment_id: str) -> ExperimentRecord | None:
        """The newest experiment of that id, or None."""
        ...

    async def experiments(self, *, offset: int, limit: int) -> tuple[int, list[ExperimentRecord]]:
        """How many there are, and a page of them, newest first."""
        ...

    async def round(self, round_id: str) -> RoundRecord | None:
        """A round, or None."""
        ...

    async def rounds(
        self, *, offset: int, limit: int, experiment_id: str | None = None
    ) -> tuple[int, list[RoundRecord]]:
        """How many there are (of one experiment id, if given), and a page of them, newest first."""
        ...

    async def taken(self, round_ids: Sequence[str]) -> str | None:
        """The first of `round_ids` that names a round already, or None."""
        ...

    async def last_completed(self) -> RoundRecord | None:
        """Of the completed rounds, the one that started last; or None."""
        ...

    async def updates(self, round_id: str) -> list[UpdateRecord]:
        """The accepted updates of a round, in participant order."""
        ...

    async def late_update(self, origin: str, participant: str) -> UpdateRecord | None:
        """The update that was asked for in the round `origin` and counts in a later one, or None."""
        ...

    async def updates_of(self, experiment_id: str) -> list[UpdateRecord]:
        """The accepted updates of all rounds of one experiment id, in order of arrival."""
        ...

    async def refers_to(self, blob: str) -> bool:
        """Whether any accepted update's tensors are this blob."""
        ...

    async def contents(self, round_id: str) -> list[StoredUpdate]:
        """The same with their tensors."""
        ...

    async def with_contents(self) -> list[Aged]:
        """Rounds that have ended and have updates whose tensors are kept: by order, and when they began."""
        ...

    async def drop_contents(self, rounds: Sequence[int]) -> tuple[int, list[str]]:
        """Forget the tensors of all updates of ended rounds of these orders; records of updates stay.

        Answers how many updates lost theirs, and the blobs that no update names any more. A round that has
        not ended is left alone.
        """
        ...
