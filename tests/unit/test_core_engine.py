"""The engine, one decision at a time: what each event must lead to."""

import sys
from dataclasses import replace

import pytest

from propeller import limits
from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.core.ledger import Now
from propeller.core.run import AttemptState, RunState
from propeller.core.task import Task
from propeller.errors import Conflict, NotFound


def task(task_id: str = "t", **fields) -> Task:
    """A task of that id."""
    return Task(id=task_id, name="main", created_at_s=1.0, updated_at_s=1.0, **fields)


def at(s: float) -> Now:
    """That moment on both clocks."""
    return Now(mono_s=s, wall_s=1_000_000.0 + s)


def heard(proplet_id: str = "p", held: tuple[e.Held, ...] = ()) -> e.Heard:
    """A directed heartbeat."""
    return e.Heard(proplet_id=proplet_id, lane="directed", name="n", inventory=held, cause="test")


def report(kind, attempt: int = 1, sender: str = "p", **fields) -> e.AttemptReport:
    """Word of the first run of task `t`."""
    return e.AttemptReport(
        kind=kind, sender=sender, task_id="t", run=1, attempt=attempt, cause="test", **fields
    )


def start(engine: Engine, s: float = 0.0, **fields) -> list[e.Command]:
    """Start task `t`."""
    return engine.handle(e.StartRequested(task=task(**fields), number=1, cause="test"), at(s))


def kinds(commands: list[e.Command]) -> list[str]:
    """The names of the commands."""
    return [type(command).__name__ for command in commands]


def saved(commands: list[e.Command]):
    """The last run that is to be stored."""
    return [command.run for command in commands if isinstance(command, e.SaveRun)][-1]


@pytest.fixture
def engine():
    """An engine that knows one live proplet on the directed lane."""
    made = Engine()
    made.handle(heard(), at(0))
    yield made
    made.validate()


def test_a_start_is_saved_before_it_is_sent(engine):
    """The order of commands is the order of durability: rows first, messages after."""
    assert kinds(start(engine)) == ["SaveRun", "SendStart"]


def test_a_run_goes_through_its_states(engine):
    """Assigned, accepted, running, completed: each report moves the run one step and is acknowledged."""
    assert saved(start(engine)).state is RunState.ASSIGNED
    assert saved(engine.handle(report("accepted"), at(1))).attempt.state is AttemptState.ACCEPTED
    assert saved(engine.handle(report("started"), at(2))).state is RunState.RUNNING
    out = engine.handle(report("finished", results=b'"hi"'), at(3))
    assert saved(out).state is RunState.COMPLETED
    assert out[-1] == e.SendAck(report=report("finished", results=b'"hi"'))
    assert out[0].results == b'"hi"'


def test_without_a_proplet_a_run_waits_with_a_reason_until_its_deadline():
    """An accepted task is never refused for lack of a proplet; it says why it waits, and for how long."""
    engine = Engine()
    assert saved(start(engine)).reason == "no proplet has registered yet"
    assert engine.next_deadline() == limits.RUN_WAIT_S
    run = saved(engine.handle(e.Tick(), at(limits.RUN_WAIT_S)))
    assert (run.state, run.failure) == (RunState.FAILED, "unplaced")


def test_an_offline_named_proplet_is_waited_for(engine):
    """A known proplet that is offline keeps its task waiting; its next heartbeat releases it."""
    engine.handle(e.Gone(proplet_id="p", lane="directed", cause="test"), at(1))
    run = saved(start(engine, 2, proplet_id="p"))
    assert (run.state, run.reason) == (RunState.WAITING, "proplet p is offline")
    assert "SendStart" in kinds(engine.handle(heard(), at(3)))


def test_an_unknown_named_proplet_is_refused(engine):
    """Nobody can wait for a proplet that never registered."""
    with pytest.raises(NotFound, match="proplet x is not registered"):
        start(engine, proplet_id="x")


def test_a_started_task_cannot_be_started_again(engine):
    """A task has at most one live run."""
    start(engine)
    with pytest.raises(Conflict, match="already started"):
        start(engine)


def test_an_unaccepted_start_is_sent_again(engine):
    """A lost start costs a pause, not the task."""
    start(engine)
    assert kinds(engine.handle(e.Tick(), at(limits.DISPATCH_RETRY_S))) == ["SendStart"]
    assert engine.handle(e.Tick(), at(limits.DISPATCH_RETRY_S + 0.1)) == []


def test_an_accepted_attempt_missing_from_the_inventory_is_sent_again(engine):
    """A proplet that lost its disk gets its work back at its next heartbeat."""
    start(engine)
    engine.handle(report("accepted"), at(1))
    assert kinds(engine.handle(heard(), at(10))) == ["SendStart"]


def test_an_attempt_nobody_wants_is_stopped(engine):
    """What a proplet holds and should not hold is ended at its next heartbeat."""
    held = e.Held(task_id="old", run=1, attempt=1, state="running")
    (stop,) = engine.handle(heard(held=(held,)), at(1))
    assert (stop.task_id, stop.run, stop.attempt, stop.proplet_id) == ("old", 1, 1, "p")


def test_a_report_from_another_proplet_never_counts(engine):
    """M6: a proplet can only speak for its own attempts."""
    start(engine)
    out = engine.handle(report("finished", sender="q"), at(1))
    assert kinds(out) == ["Ignored", "SendAck"]
    assert out[0].why == "wrong_sender"


def test_a_vanished_proplets_attempt_is_replaced_and_its_late_result_refused(engine):
    """R2 and M3: the replacement runs elsewhere, and the old attempt's word no longer counts."""
    start(engine)
    engine.handle(report("started"), at(1))
    engine.handle(heard("q"), at(2))
    engine.handle(e.Gone(proplet_id="p", lane="directed", cause="test"), at(3))
    engine.handle(heard("q"), at(20))
    run = saved(engine.handle(e.Tick(), at(3 + limits.ATTEMPT_LOST_S)))
    assert [(a.proplet_id, a.state) for a in run.attempts] == [
        ("p", AttemptState.LOST),
        ("q", AttemptState.SENT),
    ]
    late = engine.handle(report("finished", results=b"1"), at(40))
    assert late[0].why == "late_report"


def test_heartbeats_put_off_the_loss(engine):
    """A proplet that is heard of again keeps its attempt, however often it was nearly lost."""
    start(engine)
    engine.handle(report("started"), at(1))
    for s in range(10, 100, 10):
        held = e.Held(task_id="t", run=1, attempt=1, state="running")
        assert engine.handle(heard(held=(held,)), at(s)) == []


def test_work_with_its_data_on_a_proplet_is_not_moved(engine):
    """Federated work waits for its own proplet: the data is there."""
    start(engine, env={"ROUND_ID": "r"})
    engine.handle(report("started"), at(1))
    engine.handle(heard("q"), at(2))
    engine.handle(e.Gone(proplet_id="p", lane="directed", cause="test"), at(3))
    assert engine.handle(e.Tick(), at(3 + limits.ATTEMPT_LOST_S)) == []


def test_stop_ends_a_waiting_run_at_once():
    """Nobody holds it, so nobody needs to be asked."""
    engine = Engine()
    start(engine)
    out = engine.handle(e.StopRequested(task_id="t", reason="by user", cause="test"), at(1))
    assert (saved(out).state, saved(out).reason) == (RunState.INTERRUPTED, "by user")


def test_stop_repeats_until_answered_and_then_closes_the_run(engine):
    """A stop is asked for again, then taken as done."""
    start(engine)
    engine.handle(report("started"), at(1))
    out = engine.handle(e.StopRequested(task_id="t", reason="by user", cause="test"), at(2))
    assert kinds(out) == ["SaveRun", "SendStop"]
    assert kinds(engine.handle(e.Tick(), at(2 + limits.DISPATCH_RETRY_S))) == ["SendStop"]
    run = saved(engine.handle(e.Tick(), at(2 + limits.STOP_GRACE_S)))
    assert (run.state, run.reason) == (RunState.INTERRUPTED, "by user")


def test_a_result_that_crosses_a_stop_still_counts(engine):
    """Work that was done before the stop arrived is not thrown away."""
    start(engine)
    engine.handle(report("started"), at(1))
    engine.handle(e.StopRequested(task_id="t", reason="by user", cause="test"), at(2))
    assert saved(engine.handle(report("finished", results=b"1"), at(3))).state is RunState.COMPLETED


def test_a_live_directed_proplet_cannot_be_talked_down(engine):
    """A forged legacy `create` or heartbeat for a live directed proplet changes nothing."""
    forged = e.Announced(proplet_id="p", protocol=1, name="x", cause="test")
    assert engine.handle(forged, at(1))[0].why == "downgrade"
    beat = e.Heard(proplet_id="p", lane="legacy", name="x", cause="test")
    assert engine.handle(beat, at(1))[0].why == "legacy_from_directed"


def test_only_its_own_word_changes_a_live_directed_proplet(engine):
    """Anybody can announce a thousand slots in its name on the shared topic; it counts on its own."""
    claim = {"proplet_id": "p", "protocol": 2, "name": "x", "slots": 1000, "metadata": {"os": "evil"}}
    out = engine.handle(e.Announced(**claim, cause="test"), at(1))
    assert kinds(out) == ["Ignored", "SendWelcome"]
    assert engine.ledger.proplets["p"].slots == 1
    engine.handle(e.Announced(**claim, proven=True, cause="test"), at(2))
    assert engine.ledger.proplets["p"].slots == 1000
    engine.handle(e.Gone(proplet_id="p", lane="directed", cause="test"), at(3))
    engine.handle(e.Announced(**claim | {"slots": 2}, cause="test"), at(4))
    assert engine.ledger.proplets["p"].slots == 2


def test_a_claim_of_protocol_2_does_not_move_a_legacy_proplet():
    """Only a directed message, which proves its sender, enters the directed lane."""
    engine = Engine()
    engine.handle(e.Heard(proplet_id="p", lane="legacy", name="n", cause="test"), at(0))
    engine.handle(e.Announced(proplet_id="p", protocol=2, name="n", cause="test"), at(1))
    assert engine.ledger.proplets["p"].lane == "legacy"
    engine.handle(heard(), at(2))
    assert engine.ledger.proplets["p"].lane == "directed"


def test_the_legacy_lane_counts_only_for_its_own_attempts(engine):
    """A shared-topic result cannot end an attempt on the directed lane, but ends a legacy one."""
    start(engine)
    word = e.LegacyReport(task_id="t", proplet_id=None, error="", results=b'"x"', cause="test")
    assert engine.handle(word, at(1))[0].why == "legacy_from_directed"
    old = Engine()
    old.handle(e.Heard(proplet_id="p", lane="legacy", name="n", cause="test"), at(0))
    assert saved(start(old)).state is RunState.RUNNING
    assert saved(old.handle(word, at(1))).state is RunState.COMPLETED


def test_an_old_device_that_announces_itself_anew_has_lost_its_work():
    """The run is tried again, a stopped one is over; a start that is still on its way may cross."""
    engine = Engine()
    engine.handle(e.Heard(proplet_id="p", lane="legacy", name="n", cause="test"), at(0))
    start(engine)
    anew = e.Announced(proplet_id="p", protocol=1, name="n", cause="test")
    assert engine.handle(anew, at(0.5)) == []
    again = saved(engine.handle(anew, at(5)))
    assert [one.state for one in again.attempts] == [AttemptState.LOST, AttemptState.RUNNING]
    engine.handle(e.StopRequested(task_id="t", reason="by user", cause="test"), at(6))
    over = saved(engine.handle(anew, at(7)))
    assert (over.state, over.reason) == (RunState.INTERRUPTED, "by user")


def test_an_old_devices_word_for_a_daemon_means_that_it_began():
    """Its success is told at the start, and shows as running (defect 4.22); an error is the daemon's end."""
    engine = Engine()
    engine.handle(e.Heard(proplet_id="p", lane="legacy", name="n", cause="test"), at(0))
    start(engine, daemon=True)
    word = e.LegacyReport(task_id="t", proplet_id="p", error="", results=b'""', cause="test")
    assert engine.handle(word, at(1))[0].why == "daemon_started"
    ended = saved(engine.handle(replace(word, error="trap"), at(2)))
    assert (ended.state, ended.attempts[0].state) == (RunState.WAITING, AttemptState.FAILED)


def test_round_robin_takes_turns():
    """Tasks without a wish spread over the proplets."""
    engine = Engine()
    for name in ("a", "b", "c"):
        engine.handle(heard(name), at(0))
    chosen = []
    for name in ("x", "y", "z"):
        event = e.StartRequested(task=task(name), number=1, cause="test")
        chosen.append(saved(engine.handle(event, at(1))).attempt.proplet_id)
    assert sorted(chosen) == ["a", "b", "c"]


def test_a_busy_proplet_takes_the_next_task_when_it_is_free(engine):
    """One task at a time by default; the next one waits with a reason."""
    start(engine)
    other = e.StartRequested(task=task("u"), number=1, cause="test")
    assert saved(engine.handle(other, at(1))).reason == "all 1 live proplets are busy"
    out = engine.handle(report("finished"), at(2))
    assert [c.task.id for c in out if isinstance(c, e.SendStart)] == ["u"]


def test_a_restored_engine_goes_on(engine):
    """After a crash the stored rows are all it needs: the attempt is asked for again, and ends."""
    out = start(engine)
    restored = Engine.restore([(task(), saved(out))], engine.ledger.proplets.values(), at(0))
    restored.validate()
    assert kinds(restored.handle(heard(), at(5)))[-1] == "SendStart"
    assert saved(restored.handle(report("finished"), at(6))).state is RunState.COMPLETED


def test_federated_work_without_a_named_proplet_waits_for_the_one_it_began_on(engine):
    """Its participant is where it began: a lost attempt is not handed to somebody else."""
    start(engine, env={"ROUND_ID": "r"}, wait_s=5000.0)
    engine.handle(report("started"), at(1))
    for s in range(10, 400, 10):
        engine.handle(heard("q"), at(s))
    run = engine.ledger.runs["t"]
    assert [attempt.proplet_id for attempt in run.attempts] == ["p"]
    assert run.state is RunState.WAITING
    assert engine.why_waiting(run, at(400)) == "proplet p is offline"
    again = saved(engine.handle(heard("p"), at(401)))
    assert [attempt.proplet_id for attempt in again.attempts] == ["p", "p"]


def test_a_start_is_repeated_for_days_without_an_end(engine):
    """A round may wait a month for its participant: the pauses stay within their bound."""
    start(engine, env={"ROUND_ID": "r"}, proplet_id="p", wait_s=2 * 86_400.0)
    s = 0.0
    while (s := engine.next_deadline()) < 2 * 86_400.0:
        engine.handle(e.Tick(), at(s))
    assert saved(engine.handle(e.Tick(), at(s))).state is RunState.FAILED


def test_the_most_urgent_and_oldest_is_served_first(engine):
    """Also when one of the two waits for this very proplet and the other for anybody."""
    start(engine)
    for name, fields in (
        ("late", {"priority": 50}),
        ("pinned", {"priority": 60, "proplet_id": "p"}),
        ("urgent", {"priority": 70}),
        ("later", {"priority": 50}),
    ):
        engine.handle(e.StartRequested(task=task(name, **fields), number=1, cause="test"), at(len(name)))
    served = []
    running = "t"
    for s in range(20, 24):
        done = e.AttemptReport(kind="finished", sender="p", task_id=running, run=1, attempt=1, cause="test")
        out = engine.handle(done, at(s))
        running = next(command.task.id for command in out if isinstance(command, e.SendStart))
        served.append(running)
    assert served == ["urgent", "pinned", "late", "later"]


def test_a_lost_run_goes_elsewhere_and_before_those_that_never_ran(engine):
    """It waited its turn already; the proplet that lost it is asked last."""
    start(engine)
    engine.handle(heard("q"), at(1))
    engine.handle(e.StartRequested(task=task("u"), number=1, cause="test"), at(1))
    engine.handle(e.StartRequested(task=task("v"), number=1, cause="test"), at(1))
    held = e.Held(task_id="u", run=1, attempt=1, state="running")
    for s in range(10, 100, 10):
        engine.handle(heard("q", held=(held,)), at(s))
    done = e.AttemptReport(kind="finished", sender="q", task_id="u", run=1, attempt=1, cause="test")
    out = engine.handle(done, at(99))
    assert [command.task.id for command in out if isinstance(command, e.SendStart)] == ["t"]


def test_a_waiting_run_is_stored_once_whatever_the_fleet_does(engine):
    """Its reason changes with every proplet that comes and goes, and is told when asked, not stored."""
    start(engine)
    waiting = saved(engine.handle(e.StartRequested(task=task("u"), number=1, cause="test"), at(1)))
    assert waiting.reason == "all 1 live proplets are busy"
    out = engine.handle(e.Gone(proplet_id="p", lane="directed", cause="test"), at(2))
    assert out == []
    assert engine.why_waiting(waiting, at(2)) == "all 1 proplets are offline"


def test_an_event_costs_the_same_with_many_runs_and_proplets():
    """No event looks at all of them: a heartbeat among thousands costs what it costs among a few."""

    def calls_per_beat(size: int) -> int:
        made = Engine()
        for number in range(size):
            made.handle(heard(f"p{number}"), at(0))
            event = e.StartRequested(task=task(f"t{number}", proplet_id="p0"), number=1, cause="test")
            made.handle(event, at(0))
        counted = 0

        def count(_frame, event, _arg):
            nonlocal counted
            counted += event == "call"

        sys.setprofile(count)
        made.handle(heard("p1"), at(1))
        sys.setprofile(None)
        return counted

    assert calls_per_beat(2000) <= calls_per_beat(20)


def test_a_restored_engine_keeps_who_this_process_has_heard(engine):
    """After a failed commit nobody is taken for offline whose heartbeat came a moment before."""
    live = engine.ledger.proplets
    restored = Engine.restore([], live.values(), at(5), heard=live)
    assert restored.ledger.alive("p", at(5))
    assert not Engine.restore([], live.values(), at(5)).ledger.alive("p", at(5))
    assert restored.ledger.roster.alive_count(5.0) == 1


def test_a_tag_is_looked_up_before_anybody_gets_the_run():
    """It waits, asks again every few seconds, says why, and every attempt has what the tag meant."""
    engine = Engine(pins=True)
    engine.handle(heard(), at(0))
    out = start(engine, image_url="localhost:5000/x:latest")
    assert kinds(out) == ["PinImage", "SaveRun"]
    away = e.ImageNotPinned(task_id="t", run=1, error="registry is away", for_good=False, cause="test")
    out = engine.handle(away, at(1))
    assert (saved(out).state, saved(out).reason) == (RunState.WAITING, "registry is away")
    assert kinds(engine.handle(e.Tick(), at(5))) == ["PinImage"]
    out = engine.handle(e.ImagePinned(task_id="t", run=1, digest="sha256:1", cause="test"), at(6))
    assert kinds(out)[-1] == "SendStart"
    assert (saved(out).state, saved(out).image_digest) == (RunState.ASSIGNED, "sha256:1")
    late = e.ImagePinned(task_id="t", run=1, digest="sha256:2", cause="test")
    assert engine.handle(late, at(7)) == []
    engine.validate()


def test_an_image_that_is_not_there_ends_the_run():
    """Waiting would not help."""
    engine = Engine(pins=True)
    start(engine, image_url="localhost:5000/x:latest")
    gone = e.ImageNotPinned(task_id="t", run=1, error="no such image", for_good=True, cause="test")
    run = saved(engine.handle(gone, at(1)))
    assert (run.state, run.failure, run.reason) == (RunState.FAILED, "image", "no such image")
    engine.validate()


@pytest.mark.parametrize("url", ["", "https://x/y.wasm", "localhost:5000/x@sha256:1"])
def test_what_has_no_tag_is_not_looked_up(url):
    """Inline modules, plain URLs and pinned images go out at once."""
    engine = Engine(pins=True)
    engine.handle(heard(), at(0))
    assert kinds(start(engine, image_url=url))[-1] == "SendStart"


def test_a_legacy_start_that_could_not_be_published_is_sent_again():
    """That lane acknowledges nothing: only who failed to publish it knows, and only then is it repeated."""
    engine = Engine()
    beat = e.Heard(proplet_id="p", lane="legacy", name="n", cause="test")
    engine.handle(beat, at(0))
    assert saved(start(engine)).state is RunState.RUNNING
    engine.handle(e.StartUnsent(task_id="t", run=1, attempt=1, cause="test"), at(1))
    engine.handle(beat, at(2))
    again = engine.handle(e.Tick(), at(1 + limits.DISPATCH_RETRY_S))
    assert kinds(again) == ["SendStart"]
    engine.validate()
    for s in range(4, 40, 4):
        assert "SendStart" not in kinds(engine.handle(beat, at(s)))
    deadline = 1 + limits.DISPATCH_RETRY_S + limits.GUEST_WALL_S + limits.ATTEMPT_GRACE_S
    assert engine.ledger.runs["t"].deadline_mono_s == deadline
