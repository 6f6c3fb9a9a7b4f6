"""The stores of the roles, as Protocols: `ports` holds the rest of the world, apart because it stays light.

Each has a SQLite adapter and an in-memory twin under `storage/` that pass one contract suite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from propeller.core.events import DropProplet, SaveProplet, SaveRun
from propeller.core.proplet import Proplet
from propeller.core.run import Run
from propeller.core.task import Task
from propeller.fl.launch import Launch
from propeller.ports import Instant

# --- manager ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task as stored: its definition, its latest run if it was ever started, and that run's results."""

    task: Task
    run: Run | None = None
    results: bytes | None = None
    """JSON; None unless asked for and present."""
    latest_run: int = 0
    """The highest run number ever given to this id, deleted tasks of the same id included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveTask:
    """Store a task's definition; `new` refuses an id that is taken."""

    task: Task
    new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTask:
    """Remove a task and its runs."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveLaunch:
    """Store a round's launch; `new` refuses a round id that is taken."""

    launch: Launch
    new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropLaunch:
    """Forget a launch that was refused."""

    round_id: str


ManagerChange = SaveTask | DropTask | SaveRun | SaveProplet | DropProplet | SaveLaunch | DropLaunch


class ManagerStore(Protocol):
    """The manager's records. A change is durable when `commit` returns."""

    async def commit(self, changes: Sequence[ManagerChange]) -> None:
        """Apply all changes in one transaction, or none.

        Raises `Conflict` when a `new` id is taken, `StorageFull` when there is no room.
        """
        ...

    async def task(self, task_id: str, *, results: bool = False) -> TaskRecord:
        """One task; raises `NotFound`."""
        ...

    async def tasks(
        self, *, offset: int, limit: int, metadata: Mapping[str, object] | None = None
    ) -> tuple[int, list[TaskRecord]]:
        """A page of tasks, newest first, and how many match in all; `metadata` values must all be equal."""
        ...

    async def live(self, now: Instant) -> list[tuple[Task, Run]]:
        """Every run that has not ended, with deadlines re-armed for `now`: at most what was left of them."""
        ...

    async def proplets(self) -> list[Proplet]:
        """Every registered proplet, in order of registration."""
        ...

    async def launch(self, round_id: str) -> Launch | None:
        """A round's launch, or None."""
        ...

    async def open_launches(self) -> list[Launch]:
        """Every launch that is not closed."""
        ...
