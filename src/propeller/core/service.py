"""A service: a task that is kept at a number of replicas, and the rollout of its revisions. Pure records.

A *replica* is an ordinary hidden task that is part of its service, with runs and attempts of its own, so that
placement, policies, drains and stops know nothing of services. A *revision* is what replicas are made of: the
definition, and what its image's tag meant when the revision was made.

    steady ──redefined──▶ rolling ──proven──▶ steady          the new revision is the one to go back to
                           │  ▲ └──refused──▶ rolling_back ──settled──▶ steady
                           └──┘ redefined         └──redefined──▶ rolling

`redefined`: its definition changed, or somebody asked for a restart or the revision before. `proven`: as many
healthy replicas of the new revision as are wanted, and none of another. `refused`: one failed too often or
for good, none became healthy in time, or somebody wants the old one back. `settled`: nothing is left of the
refused revision.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from propeller.core.replicas import Rollout
from propeller.core.run import Run
from propeller.core.task import Task
from propeller.errors import Bug


class Phase(StrEnum):
    """Where a service's rollout stands."""

    STEADY = "steady"
    ROLLING = "rolling"
    ROLLING_BACK = "rolling_back"


class Turn(StrEnum):
    """What moves it on."""

    REDEFINED = "redefined"
    PROVEN = "proven"
    REFUSED = "refused"
    SETTLED = "settled"


PHASES: dict[tuple[Phase, Turn], Phase] = {
    (Phase.STEADY, Turn.REDEFINED): Phase.ROLLING,
    (Phase.ROLLING, Turn.REDEFINED): Phase.ROLLING,
    (Phase.ROLLING, Turn.PROVEN): Phase.STEADY,
    (Phase.ROLLING, Turn.REFUSED): Phase.ROLLING_BACK,
    (Phase.ROLLING_BACK, Turn.REDEFINED): Phase.ROLLING,
    (Phase.ROLLING_BACK, Turn.SETTLED): Phase.STEADY,
}
"""Every lawful turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What replicas are made of: the `template` of a definition, and its image's digest once known."""

    number: int
    task: Task
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is remembered of a service beside its runs."""

    task_id: str
    wanted: int
    """How many replicas there are to be now: by hand or by the rule."""
    phase: Phase = Phase.STEADY
    target: Revision
    """What new replicas are made of, unless the service is going back."""
    stable: Revision
    """What to go back to: the last revision that was proven, or the first."""
    previous: Revision | None = None
    """What was stable before, for those who want it back."""
    revisions: int
    """The latest number given to a revision."""
    outcome: Literal["", "rolling", "proven", "rolled_back"] = ""
    """How the last rollout went: `rolling`, `proven` or `rolled_back`; empty without one."""
    why: str = ""
    """Why it was rolled back."""

    @property
    def kept(self) -> tuple[Revision, ...]:
        """The revisions that replicas are made of, or may be again."""
        return (self.target, self.stable, *([self.previous] if self.previous else []))

    @property
    def made_of(self) -> Revision:
        """What replicas are to be made of in the end."""
        return self.target if self.phase is Phase.ROLLING else self.stable

    def revised(self, task: Task, *, digest: str = "") -> Revision:
        """A new revision of it, made of that template."""
        return Revision(number=self.revisions + 1, task=task, digest=digest)

    def turned(self, turn: Turn, **changes: object) -> "Service":
        """The service after that turn; raises `Bug` for one that the table does not have."""
        phase = PHASES.get((self.phase, turn))
        if phase is None:
            raise Bug(f"service {self.task_id} is {self.phase} and cannot be {turn}: {self!r}")
        return replace(self, phase=phase, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """A service as stored: its definition now, and the latest run number of each replica it ever had."""

    task: Task
    service: Service
    numbers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """One live replica as it is shown."""

    task_id: str
    revision: int
    run: Run
    ready: bool
    """Whether it runs, on a proplet that is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """A running service as it is shown."""

    service: Service
    replicas: tuple[ReplicaState, ...]

    @property
    def ready(self) -> int:
        """How many replicas run."""
        return sum(one.ready for one in self.replicas)


def template(task: Task) -> Task:
    """What replicas of this definition are made of: nothing that says how many, or what it is called by."""
    return replace(
        task, replicas=None, scale=None, rollout=Rollout(), metadata={}, updated_at_s=task.created_at_s
    )


def restored(task: Task, revision: Revision, now_s: float) -> Task:
    """The service's definition with the replicas of that revision; what is not theirs stays."""
    return replace(
        revision.task,
        replicas=task.replicas,
        scale=task.scale,
        rollout=task.rollout,
        metadata=task.metadata,
        updated_at_s=now_s,
    )
