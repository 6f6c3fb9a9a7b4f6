"""Daemons and latent tasks in the engine: what runs until it is stopped, one decision at a time."""

import pytest
from test_core_engine import at, heard, report, saved, start, task

from propeller import limits
from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.core.retry import Retry
from propeller.core.run import RunState


@pytest.fixture
def engine():
    """An engine that knows two live proplets on the directed lane."""
    made = Engine()
    for name in ("p", "q"):
        made.handle(heard(name), at(0))
    yield made
    made.validate()


def ended(engine: Engine, s: float, **fields):
    """The run after its latest attempt, which had started, ended so at `s`."""
    run = engine.ledger.runs["t"]
    number, sender = run.attempts[-1].number, run.attempts[-1].proplet_id
    engine.handle(report("started", number, sender), at(s - 1))
    return saved(engine.handle(report("finished", number, sender, **fields), at(s)))


def again(engine: Engine, s: float) -> float:
    """Let the pause pass, with the fleet alive, and return when the next attempt was sent."""
    while engine.ledger.runs["t"].state is RunState.WAITING:
        s += 1
        for name in ("p", "q"):
            engine.handle(heard(name), at(s))
    return s


@pytest.mark.parametrize("how", [{}, {"error": "boom", "failure": "trap"}])
def test_a_daemon_that_ends_begins_again_however_it_ended(engine, how):
    """Where it was, after pauses that grow to their bound; nothing uses them up."""
    start(engine, daemon=True)
    home, pauses, s = engine.ledger.runs["t"].attempts[-1].proplet_id, [], 0.0
    for _ in range(30):
        run = ended(engine, s + 2, **how)
        assert run.state is RunState.WAITING
        s = again(engine, s + 2)
        pauses.append(run.resend_mono_s)
        assert engine.ledger.runs["t"].attempts[-1].proplet_id == home
    assert engine.ledger.runs["t"].failures == 30
    assert s > 15 * limits.DAEMON_DELAY_S_MAX / 2


def test_a_daemons_own_restart_policy_ends_it(engine):
    """What the user allowed is all that it gets; the run then ends as its last attempt did."""
    start(engine, daemon=True, restart=Retry(attempts=1, delay_s=1))
    ended(engine, 2, error="boom", failure="trap")
    run = ended(engine, again(engine, 2) + 2)
    assert run.state is RunState.COMPLETED


def test_a_daemon_that_was_well_for_long_counts_anew(engine):
    """One failure a day never uses up a policy of one restart."""
    start(engine, daemon=True, restart=Retry(attempts=1, delay_s=1, delay_s_max=60))
    s = 0.0
    for _ in range(5):
        number = engine.ledger.runs["t"].attempts[-1].number
        engine.handle(report("started", number), at(s + 1))
        run = saved(engine.handle(report("finished", number, failure="trap"), at(s + 100)))
        assert (run.state, run.failures) == (RunState.WAITING, 1)
        s = again(engine, s + 100)


def test_a_daemon_has_no_deadline_but_its_stop(engine):
    """It runs for a year, and ends when it is told to."""
    start(engine, daemon=True)
    engine.handle(report("started"), at(1))
    year = 365 * 86_400.0
    engine.handle(heard(held=(e.Held(task_id="t", run=1, attempt=1, state="running"),)), at(year - 1))
    engine.handle(e.StopRequested(task_id="t", reason="enough", cause="test"), at(year))
    run = saved(engine.handle(report("finished", failure="stopped"), at(year + 1)))
    assert (run.state, run.reason) == (RunState.INTERRUPTED, "enough")


def test_an_end_that_crosses_a_stop_is_not_followed_by_another_attempt(engine):
    """The daemon returned by itself while its stop was on the way: it was to stop, and has."""
    start(engine, daemon=True)
    engine.handle(report("started"), at(1))
    engine.handle(e.StopRequested(task_id="t", reason="enough", cause="test"), at(2))
    run = saved(engine.handle(report("finished"), at(2.1)))
    assert (run.state, run.reason) == (RunState.INTERRUPTED, "enough")


def test_a_daemon_does_not_wait_for_ever_for_the_proplet_that_it_began_on(engine):
    """It fails, its proplet vanishes during the pause: after its patience any other has it."""
    start(engine, daemon=True)
    ended(engine, 2, error="boom", failure="trap")
    s = 2 + limits.RUN_WAIT_S
    engine.handle(heard("q"), at(s - 1))
    engine.handle(e.Tick(), at(s + 1))
    assert engine.ledger.runs["t"].attempts[-1].proplet_id == "q"


@pytest.mark.parametrize("kind", ["daemon", "latent"])
def test_a_service_that_is_lost_begins_elsewhere_as_often_as_it_takes(engine, kind):
    """Proplets vanish in turn for days; the service is never given up."""
    start(engine, **{kind: True})
    s = 0.0
    for _ in range(6):
        s = again(engine, s)
        home = engine.ledger.runs["t"].attempts[-1].proplet_id
        other = "q" if home == "p" else "p"
        for _ in range(12):
            s += 10
            engine.handle(heard(other), at(s))
    assert engine.ledger.runs["t"].losses >= 5


def test_a_loaded_latent_task_takes_no_slot():
    """While it loads it does; once it waits for calls, the next task has the proplet too."""
    engine = Engine()
    engine.handle(heard(), at(0))
    start(engine, latent=True)
    waiting = engine.handle(e.StartRequested(task=task("u"), number=1, cause="test"), at(1))
    assert saved(waiting).state is RunState.WAITING
    taken = engine.handle(report("started"), at(2))
    assert saved(taken).state is RunState.ASSIGNED
    assert engine.ledger.roster.count("p") == 2
    done = e.AttemptReport(kind="finished", sender="p", task_id="u", run=1, attempt=1, cause="test")
    engine.handle(done, at(3))
    third = engine.handle(e.StartRequested(task=task("v"), number=1, cause="test"), at(4))
    assert saved(third).state is RunState.ASSIGNED
    engine.validate()
