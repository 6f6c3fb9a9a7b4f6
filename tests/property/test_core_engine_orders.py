"""The engine under any order, repetition and loss of events: its invariants hold and ends are for ever."""

from hypothesis import given, settings
from hypothesis import strategies as st

from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.core.ledger import Now
from propeller.core.task import Task
from propeller.errors import CallerError

_TASKS = ("a", "b")
_PROPLETS = ("p", "q")


def _task(name: str, *, pinned: bool) -> Task:
    return Task(
        id=name,
        name="main",
        created_at_s=1.0,
        updated_at_s=1.0,
        wait_s=50.0,
        proplet_id="p" if pinned else "",
    )


_tasks = st.sampled_from(_TASKS)
_proplets = st.sampled_from(_PROPLETS)
_numbers = st.integers(1, 3)
_held = st.builds(
    e.Held,
    task_id=_tasks,
    run=_numbers,
    attempt=_numbers,
    state=st.sampled_from(["accepted", "running", "finished"]),
)
_events = st.one_of(
    st.tuples(st.just("start"), _tasks, st.booleans()),
    st.builds(e.StopRequested, task_id=_tasks, reason=st.just("by user"), cause=st.just("x")),
    st.builds(
        e.Announced, proplet_id=_proplets, protocol=st.integers(1, 2), name=st.just("n"), cause=st.just("x")
    ),
    st.builds(
        e.Heard,
        proplet_id=_proplets,
        lane=st.just("directed"),
        name=st.just("n"),
        inventory=st.lists(_held, max_size=3).map(tuple),
        cause=st.just("x"),
    ),
    st.builds(e.Heard, proplet_id=_proplets, lane=st.just("legacy"), name=st.just("n"), cause=st.just("x")),
    st.builds(e.Gone, proplet_id=_proplets, lane=st.sampled_from(["directed", "legacy"]), cause=st.just("x")),
    st.builds(
        e.AttemptReport,
        kind=st.sampled_from(["accepted", "started", "finished"]),
        sender=_proplets,
        task_id=_tasks,
        run=_numbers,
        attempt=_numbers,
        error=st.sampled_from(["", "trap"]),
        cause=st.just("x"),
    ),
    st.builds(
        e.LegacyReport,
        task_id=_tasks,
        proplet_id=st.one_of(st.none(), _proplets),
        error=st.just(""),
        results=st.just(b"1"),
        cause=st.just("x"),
    ),
    st.just(e.Tick()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_events, st.floats(0, 40)), max_size=40))
def test_invariants_hold_under_any_sequence_of_events(script):
    """One live attempt a run at most, growing attempt numbers, terminal for ever, timers armed."""
    engine, mono_s = Engine(), 0.0
    numbers: dict[str, int] = dict.fromkeys(_TASKS, 0)
    ended: set[tuple[str, int]] = set()
    for event, pause_s in script:
        mono_s += pause_s
        if isinstance(event, tuple):
            _, name, pinned = event
            event = e.StartRequested(  # noqa: PLW2901 - the script names the task, the test numbers its run
                task=_task(name, pinned=pinned), number=numbers[name] + 1, cause="x"
            )
        try:
            commands = engine.handle(event, Now(mono_s=mono_s, wall_s=mono_s))
        except CallerError:
            commands = engine.handle(e.Tick(), Now(mono_s=mono_s, wall_s=mono_s))
        else:
            if isinstance(event, e.StartRequested):
                numbers[event.task.id] += 1
        engine.validate()
        assert engine.next_deadline() > mono_s
        for command in commands:
            if isinstance(command, e.SaveRun):
                assert command.run.key not in ended, "a run changed after its end"
                if not command.run.live:
                    ended.add(command.run.key)
            if isinstance(command, e.SendStart):
                assert command.run.live_attempt is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_events, st.floats(0, 5)), max_size=25))
def test_every_run_ends_when_nobody_speaks_any_more(script):
    """Every state has a deadline: with only the clock going on, no run stays live."""
    engine, mono_s = Engine(), 0.0
    for number, (event, pause_s) in enumerate(script):
        mono_s += pause_s
        if isinstance(event, tuple):
            event = e.StartRequested(  # noqa: PLW2901 - as above
                task=_task(event[1], pinned=event[2]), number=number + 1, cause="x"
            )
        try:
            engine.handle(event, Now(mono_s=mono_s, wall_s=mono_s))
        except CallerError:
            continue
    for _ in range(200):
        due = engine.next_deadline()
        if due == float("inf"):
            break
        engine.handle(e.Tick(), Now(mono_s=due, wall_s=due))
        engine.validate()
    assert engine.ledger.runs == {}
