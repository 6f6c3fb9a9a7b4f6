"""One start of a task, and its attempts. Pure records and the two transition tables; decisions are elsewhere.

    run:      waiting ──the flow passes it over──▶ skipped
              waiting ──place──▶ assigned ──started──▶ running ──▶ completed | failed | interrupted
                 ▲                  │                     │
                 └──── the attempt was lost or failed, policy allows another ────┘
              stopping ──its proplet is drained──▶ waiting
              any live state ──stop──▶ stopping ──▶ interrupted (or its true end, if that came first)

    attempt:  sent ──accepted──▶ accepted ──started──▶ running ──▶ succeeded | failed | stopped | lost

A run's terminal state is for ever. At most one attempt of a run is live. Attempt numbers only grow, so that
a late word of an older attempt is recognised and refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from propeller.core.task import TaskState
from propeller.errors import Bug


class RunState(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    ASSIGNED = "assigned"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"


class AttemptState(StrEnum):
    """Where an attempt stands."""

    SENT = "sent"
    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"


_W, _A, _R, _S = RunState.WAITING, RunState.ASSIGNED, RunState.RUNNING, RunState.STOPPING
_DONE = (RunState.COMPLETED, RunState.FAILED, RunState.INTERRUPTED)
_SKIPPED = RunState.SKIPPED

RUN_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    _W: frozenset({_A, RunState.FAILED, RunState.INTERRUPTED, _SKIPPED}),
    _A: frozenset({_R, _W, _S, *_DONE}),
    _R: frozenset({_W, _S, *_DONE}),
    _S: frozenset({_W, *_DONE}),
    **{state: frozenset() for state in (*_DONE, _SKIPPED)},
}

ATTEMPT_TRANSITIONS: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.SENT: frozenset(AttemptState) - {AttemptState.SENT},
    AttemptState.ACCEPTED: frozenset(AttemptState) - {AttemptState.SENT, AttemptState.ACCEPTED},
    AttemptState.RUNNING: frozenset(
        {AttemptState.SUCCEEDED, AttemptState.FAILED, AttemptState.STOPPED, AttemptState.LOST}
    ),
    AttemptState.SUCCEEDED: frozenset(),
    AttemptState.FAILED: frozenset(),
    AttemptState.STOPPED: frozenset(),
    AttemptState.LOST: frozenset(),
}

SHOWN: dict[RunState, TaskState] = {
    RunState.WAITING: TaskState.PENDING,
    RunState.ASSIGNED: TaskState.SCHEDULED,
    RunState.RUNNING: TaskState.RUNNING,
    RunState.STOPPING: TaskState.RUNNING,
    RunState.COMPLETED: TaskState.COMPLETED,
    RunState.FAILED: TaskState.FAILED,
    RunState.INTERRUPTED: TaskState.INTERRUPTED,
    RunState.SKIPPED: TaskState.SKIPPED,
}

Lane = Literal["directed", "legacy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One proplet's try at a run. `number` starts at 1 and only grows within its run."""

    number: int
    proplet_id: str
    lane: Lane
    state: AttemptState = AttemptState.SENT
    sends: int = 1
    sent_at_s: float = 0.0
    """Wall time of the first send (Unix seconds)."""
    started_at_s: float = 0.0
    ended_at_s: float = 0.0
    error: str = ""
    failure: str = ""

    @property
    def live(self) -> bool:
        """Whether it may still report."""
        return bool(ATTEMPT_TRANSITIONS[self.state])

    def to(self, state: AttemptState) -> "Attempt":
        """The attempt in its next state; raises `Bug` on a transition that the table does not have."""
        if state not in ATTEMPT_TRANSITIONS[self.state]:
            raise Bug(f"attempt {self.number} on {self.proplet_id}: {self.state} → {state}: {self!r}")
        return replace(self, state=state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One start of a task. Key: (task_id, number).

    `deadline_mono_s` is when the present state gives up (monotonic seconds), `resend_mono_s` when an
    unanswered message goes out again. Results are stored beside the run, not in it.
    """

    task_id: str
    number: int
    state: RunState = RunState.WAITING
    reason: str = ""
    """Why it waits, or how it ended; for people."""
    failure: str = ""
    attempts: tuple[Attempt, ...] = ()
    created_at_s: float
    started_at_s: float = 0.0
    ended_at_s: float = 0.0
    give_up_mono_s: float
    """When a run that still waits fails, however often it was tried in between."""
    deadline_mono_s: float
    resend_mono_s: float = float("inf")
    cause: str = ""
    failures: int = 0
    losses: int = 0
    """Attempts that failed by themselves, and those that were lost."""
    stays_on: str = ""
    """The only proplet that may have the next attempt; empty for any."""
    avoids: str = ""
    """A proplet that gets the next attempt only if there is no other."""
    moving: bool = False
    """Whether a run that is being stopped goes on elsewhere."""
    image_digest: str = ""
    """What the task's image meant when the run began; empty before that is known, or without a tag."""
    answers: Mapping[str, int] = field(default_factory=dict)
    """Which runs of its parents it answers to, and which start of its job (see `core.flow`)."""

    @property
    def key(self) -> tuple[str, int]:
        """(task id, run number)."""
        return (self.task_id, self.number)

    @property
    def live(self) -> bool:
        """Whether the run may still change."""
        return bool(RUN_TRANSITIONS[self.state])

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt, live or not."""
        return self.attempts[-1] if self.attempts else None

    @property
    def live_attempt(self) -> Attempt | None:
        """The attempt that may still report, if any."""
        last = self.attempt
        return last if last and last.live else None

    def to(self, state: RunState, **changes: object) -> "Run":
        """The run in its next state; raises `Bug` with the run's story on an unlawful transition."""
        if state not in RUN_TRANSITIONS[self.state]:
            raise Bug(f"run {self.task_id}#{self.number}: {self.state} → {state}: {self!r}")
        return replace(self, state=state, **changes)  # type: ignore[arg-type]

    def with_attempt(self, attempt: Attempt) -> "Run":
        """The run with its latest attempt replaced by a later record of the same number."""
        if not self.attempts or self.attempts[-1].number != attempt.number:
            raise Bug(f"run {self.task_id}#{self.number} has no latest attempt {attempt.number}: {self!r}")
        return replace(self, attempts=(*self.attempts[:-1], attempt))
