"""R5: the engine after a crash, between any two commands of any event, and after its journal's replay."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from test_core_engine_orders import _events, _task

from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.core.ledger import Now
from propeller.core.proplet import Proplet
from propeller.core.run import Attempt, Run
from propeller.core.task import Task
from propeller.errors import CallerError


class Disk:
    """What transactions keep: all saves of one event or none of them."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.tasks: dict[str, Task] = {}
        self.proplets: dict[str, Proplet] = {}

    def commit(self, commands: list[e.Command]) -> None:
        """One transaction."""
        for command in commands:
            match command:
                case e.SaveRun(run=run):
                    self.runs[run.task_id] = run
                case e.SaveProplet(proplet=proplet):
                    self.proplets[proplet.id] = proplet
                case e.DropProplet(proplet_id=gone):
                    del self.proplets[gone]

    def restored(self, now: Now) -> Engine:
        """The engine of the next process."""
        live = [(self.tasks[run.task_id], run) for run in self.runs.values() if run.live]
        return Engine.restore(live, self.proplets.values(), now)


class Story:
    """An engine, its journal, and its disk."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.disk = Disk()
        self.journal: list[tuple[e.Event, Now]] = []
        self.said: list[list[e.Command]] = []
        self._mono_s = 0.0
        self._numbers = {"a": 0, "b": 0}

    def live(self, script: list) -> None:
        """Handle the script's events."""
        for event, pause_s in script:
            self._mono_s += pause_s
            now = Now(mono_s=self._mono_s, wall_s=self._mono_s, luck=0.25)
            if isinstance(event, tuple):
                _, name, pinned = event
                task = _task(name, pinned=pinned)
                event = e.StartRequested(task=task, number=self._numbers[name] + 1, cause="x")  # noqa: PLW2901
            try:
                commands = self.engine.handle(event, now)
            except CallerError:
                continue
            if isinstance(event, e.StartRequested):
                self._numbers[event.task.id] += 1
                self.disk.tasks[event.task.id] = event.task
            self.journal.append((event, now))
            self.said.append(commands)
            self.disk.commit(commands)


def _timeless(run: Run) -> Run:
    """The run without what a restart arms anew."""
    attempts = tuple(_once(one) for one in run.attempts)
    return replace(run, attempts=attempts, deadline_mono_s=0.0, resend_mono_s=0.0, give_up_mono_s=0.0)


def _once(attempt: Attempt) -> Attempt:
    return replace(attempt, sends=1)


def _runs(engine: Engine) -> dict[str, Run]:
    return {name: _timeless(run) for name, run in engine.ledger.runs.items()}


_SCRIPTS = st.lists(st.tuples(_events, st.floats(0, 40)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(_SCRIPTS)
def test_the_journal_makes_the_same_state_again(script: list) -> None:
    """Every decision is a function of the events and their moments: replay(journal) == live state (R5)."""
    story = Story()
    story.live(script)
    again = Engine()
    assert [again.handle(event, now) for event, now in story.journal] == story.said
    assert again.ledger.runs == story.engine.ledger.runs
    assert again.ledger.proplets == story.engine.ledger.proplets


@settings(max_examples=150, deadline=None)
@given(_SCRIPTS, st.booleans())
def test_what_is_on_disk_is_the_live_state(script: list, effects_were_lost: bool) -> None:  # noqa: FBT001
    """After each event, whichever of its messages went out before the crash (R5)."""
    story = Story()
    for step in script:
        story.live([step])
        now = Now(mono_s=story._mono_s, wall_s=story._mono_s)
        after = story.disk.restored(now)
        after.validate()
        assert _runs(after) == _runs(story.engine)
        assert after.ledger.proplets.keys() == story.engine.ledger.proplets.keys()
        for name, proplet in after.ledger.proplets.items():
            held = story.engine.ledger.proplets[name]
            assert (proplet.lane, proplet.slots, proplet.boot) == (held.lane, held.slots, held.boot)
    if effects_were_lost:
        _ends(story.disk.restored(Now(mono_s=story._mono_s, wall_s=story._mono_s)))


def _ends(engine: Engine) -> None:
    """With nobody speaking any more, every run ends, whatever was never said."""
    for _ in range(300):
        due = engine.next_deadline()
        if due == float("inf"):
            break
        engine.handle(e.Tick(), Now(mono_s=due, wall_s=due))
        engine.validate()
    assert engine.ledger.runs == {}
