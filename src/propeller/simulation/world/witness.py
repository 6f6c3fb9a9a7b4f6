"""Sees every change of the manager's records as it is committed, and says at once which promise it breaks.

What only shows on the way is checked here: that an end is for ever, that attempts follow one another, that
policies keep their bounds, that nobody who is out of use gets work, that parents end before their children
start. What the day came to in the end is the business of `invariants`.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from propeller.core.events import SaveProplet, SaveRun, SaveService
from propeller.core.proplet import Proplet
from propeller.core.retry import DAEMON, LOST, Retry
from propeller.core.run import AttemptState, Run, RunState
from propeller.core.service import Service
from propeller.core.serving import leaving
from propeller.core.task import Task
from propeller.errors import Bug

T = TypeVar("T")


class Broken(Bug):
    """A promise that was not kept. `invariant` is its short name."""

    code = "invariant_broken"

    def __init__(self, invariant: str, told: str) -> None:
        super().__init__(f"{invariant}: {told}")
        self.invariant = invariant


def require(holds: object, invariant: str, told: object) -> None:
    """Raise `Broken` unless the invariant holds; `told` is what was seen."""
    if not holds:
        raise Broken(invariant, str(told))


def present(found: T | None, invariant: str, told: object) -> T:
    """What was found; raises `Broken` if that is nothing."""
    if found is None:
        raise Broken(invariant, str(told))
    return found


class Witness:
    """Follows one manager's records through all of its lives; `broken` is the first promise not kept."""

    def __init__(self) -> None:
        self.broken: Broken | None = None
        self._runs: dict[tuple[str, int], Run] = {}
        self._live: dict[str, int] = {}
        """The live run of each task."""
        self._proplets: dict[str, Proplet] = {}
        self._latent: set[str] = set()
        self._services: dict[str, Service] = {}

    def saw(self, changes: Sequence[Any], tasks: dict[str, Task]) -> None:
        """Take in what was committed; `tasks` are the definitions after it."""
        for change in changes:
            try:
                if isinstance(change, SaveProplet):
                    self._proplets[change.proplet.id] = change.proplet
                elif isinstance(change, SaveService):
                    self._services[change.service.task_id] = change.service
                elif isinstance(change, SaveRun) and change.run.task_id in tasks:
                    self._saw_run(change.run, tasks[change.run.task_id])
            except Broken as broken:
                self.broken = self.broken or broken
        try:
            self._check_slots()
            self._check_services(tasks)
        except Broken as broken:
            self.broken = self.broken or broken

    def _saw_run(self, run: Run, task: Task) -> None:
        before = self._runs.get(run.key)
        if task.latent:
            self._latent.add(task.id)
        if before is None:
            require(self._live.get(run.task_id) is None, "one live run a task", run)
            if run.state is not RunState.SKIPPED:
                self._check_parents(run)
        else:
            _check_progress(before, run)
        _check_attempts(run, task)
        _check_policies(run, task)
        self._check_place(before, run)
        self._runs[run.key] = run
        if run.live:
            self._live[run.task_id] = run.number
        elif self._live.get(run.task_id) == run.number:
            del self._live[run.task_id]

    def _check_parents(self, run: Run) -> None:
        """A child that runs answers to runs that are over."""
        for parent, number in run.answers.items():
            if parent:
                found = self._runs.get((parent, number))
                require(found is not None and not found.live, "parents end before their child starts", run)

    def _check_place(self, before: Run | None, run: Run) -> None:
        """A new attempt goes to a proplet that is in use."""
        attempt, last = run.attempt, before.attempt if before else None
        if attempt is None or (last is not None and last.number == attempt.number):
            return
        proplet = self._proplets[attempt.proplet_id]
        require(proplet.open, "a cordoned or drained proplet gets no new work", run)

    def _check_slots(self) -> None:
        """No proplet has more attempts than slots, once all of a commit is taken in."""
        at_work: dict[str, list[Run]] = {}
        for run in (self._runs[key] for key in self._live.items()):
            attempt = run.live_attempt
            standing = run.task_id in self._latent and attempt and attempt.state is AttemptState.RUNNING
            if attempt is not None and not standing:
                at_work.setdefault(attempt.proplet_id, []).append(run)
        for proplet_id, runs in at_work.items():
            slots = self._proplets[proplet_id].slots
            require(len(runs) <= slots, "a proplet gets no more than it has slots", runs)

    def _check_services(self, tasks: dict[str, Task]) -> None:
        """No service has more replicas that are to stay than are wanted, and a rollout's surge."""
        staying: dict[str, list[Run]] = {}
        for run in (self._runs[key] for key in self._live.items()):
            if run.task_id in tasks and tasks[run.task_id].replica and not leaving(run):
                staying.setdefault(tasks[run.task_id].part_of, []).append(run)
        for name, runs in staying.items():
            most = self._services[name].wanted + tasks[name].rollout.surge
            require(len(runs) <= most, "a service has at most so many as wanted and its surge", runs)


def _check_progress(before: Run, run: Run) -> None:
    require(before.live or run == before, "a run's end is for ever", f"{before} became {run}")
    known = {attempt.number: attempt for attempt in before.attempts}
    for attempt in run.attempts:
        earlier = known.get(attempt.number)
        require(
            earlier is None or earlier.proplet_id == attempt.proplet_id, "an attempt stays one proplet's", run
        )
        require(
            earlier is None or earlier.live or earlier == attempt,
            "an attempt's end is for ever",
            f"{earlier} became {attempt}",
        )


def _check_attempts(run: Run, task: Task) -> None:
    numbers = [attempt.number for attempt in run.attempts]
    require(numbers == sorted(set(numbers)), "attempt numbers grow", run)
    require(not any(attempt.live for attempt in run.attempts[:-1]), "one live attempt a run", run)
    if run.state is RunState.COMPLETED and not task.broadcast:
        last = run.attempt
        done = last is not None and last.state is AttemptState.SUCCEEDED
        require(done, "what completed has an attempt that succeeded", run)
    if run.state in {RunState.FAILED, RunState.INTERRUPTED, RunState.SKIPPED}:
        require(bool(run.reason or run.failure), "what did not complete says why", run)


def _check_policies(run: Run, task: Task) -> None:
    """Failures and losses stay within what restart and reschedule allow, and one more that ends the run."""
    if task.broadcast:
        return  # its failures are its members'
    restart = task.restart or (DAEMON if task.daemon else Retry())
    elsewhere = 0 if task.reschedule is None or task.stays else task.reschedule.attempts
    require(task.daemon or run.failures <= restart.attempts + elsewhere + 1, "restarts keep their bound", run)
    lost = (task.reschedule or LOST).attempts
    require(task.endless or run.losses <= lost + 1, "reschedules keep their bound", run)
