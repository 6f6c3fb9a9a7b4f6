"""The proplet's agent, rule by rule: pure events in, commands out."""

import msgspec
import pytest

from propeller.errors import Bug
from propeller.proplet import agent as agent_module
from propeller.proplet import events as e
from propeller.proplet.agent import Agent
from propeller.proplet.records import AttemptState, Held, Outcome
from propeller.wire.messages import AckItem, AttemptFinished, AttemptKey, Start, Stop, Usage

ME = "p-1"


def key(task="t", run=1, attempt=1):
    """An attempt of task t."""
    return AttemptKey(task_id=task, run=run, attempt=attempt)


def start(which, **fields):
    """A start message for it."""
    return e.StartReceived(
        which, Start(id=which.task_id, name="n", run=which.run, attempt=which.attempt, **fields)
    )


def stop(which, **fields):
    """A stop message that names it."""
    return e.StopReceived(Stop(id=which.task_id, run=which.run, attempt=which.attempt, **fields))


def ack(which, kind):
    """An acknowledgement of one of its events."""
    return e.AckReceived((AckItem(task_id=which.task_id, run=which.run, attempt=which.attempt, kind=kind),))


def welcomed(**kwargs):
    """An agent that is connected and welcome at time 0."""
    agent = Agent(ME, **kwargs)
    agent.handle(e.Booted(), 0.0)
    agent.handle(e.Connected(), 0.0)
    agent.handle(e.Welcomed(10.0), 0.0)
    return agent


def kinds(commands):
    """The names of commands, in order."""
    return [type(command).__name__ for command in commands]


def of(commands, kind):
    """The commands of one kind."""
    return [command for command in commands if isinstance(command, kind)]


def told(command):
    """The message in a `PublishFinished`."""
    return msgspec.json.decode(command.payload, type=AttemptFinished)


def test_a_start_is_saved_before_it_is_accepted_before_it_runs():
    """The promise is on disk before it is made, and made before the work begins."""
    commands = welcomed().handle(start(key()), 1.0)
    assert kinds(commands) == ["SaveHeld", "PublishEvent", "Run"]
    assert commands[0].required
    assert commands[0].held.state is AttemptState.ACCEPTED
    assert not commands[1].started


def test_nothing_is_said_on_the_directed_lane_before_the_welcome():
    """Before the welcome only the announcement goes out; with it, everything that waited."""
    agent = Agent(ME)
    agent.handle(e.Booted(), 0.0)
    assert kinds(agent.handle(e.Connected(), 0.0)) == ["PublishCreate"]
    assert kinds(agent.handle(start(key()), 0.1)) == ["SaveHeld", "Run"]
    commands = agent.handle(e.Welcomed(10.0), 0.2)
    assert kinds(commands) == ["PublishAlive", "PublishEvent"]
    assert [item.state for item in commands[0].attempts] == ["accepted"]


def test_a_repeated_start_says_the_last_event_again_and_runs_nothing():
    """A start for a held attempt is answered with where the attempt stands."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    assert kinds(agent.handle(start(key()), 1.1)) == ["PublishEvent"]
    agent.handle(e.GuestStarted(key()), 2.0)
    (again,) = agent.handle(start(key()), 2.1)
    assert again.started
    agent.handle(e.GuestEnded(key(), Outcome()), 3.0)
    assert kinds(agent.handle(start(key()), 3.1)) == ["PublishFinished"]


def test_an_attempt_goes_through_its_states_and_ends_forgotten():
    """Accepted, running, finished, acknowledged, gone."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    agent.handle(e.GuestStarted(key()), 2.0)
    save, say = agent.handle(e.GuestEnded(key(), Outcome(results=b'"hi"')), 3.0)
    assert save.held.state is AttemptState.FINISHED
    assert save.held.start is None
    message = told(say)
    assert (message.proplet_id, bytes(message.results), message.error) == (ME, b'"hi"', "")
    assert kinds(agent.handle(ack(key(), "finished"), 4.0)) == ["Forget"]
    assert agent.inventory == ()


def test_a_newer_attempt_kills_the_older_and_waits_for_its_slot():
    """The older attempt is stopped; the newer begins when the older's work is really over."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    commands = agent.handle(start(key(attempt=2)), 2.0)
    assert kinds(commands) == ["Kill", "SaveHeld", "PublishFinished", "SaveHeld", "PublishEvent"]
    assert told(commands[2]).failure == "stopped"
    commands = agent.handle(e.GuestEnded(key(), Outcome(failure="stopped", error="killed")), 2.2)
    assert kinds(commands) == ["Run"]
    assert commands[0].held.key == key(attempt=2)


def test_an_older_attempt_is_answered_and_not_run():
    """A start that was overtaken by a later attempt's is held as stopped."""
    agent = welcomed()
    agent.handle(start(key(run=2)), 1.0)
    commands = agent.handle(start(key(run=1, attempt=3)), 2.0)
    assert kinds(commands) == ["SaveHeld", "PublishFinished"]
    assert "superseded" in told(commands[1]).error


def test_a_start_for_another_proplet_is_ignored_unless_broadcast():
    """The addressee counts, except in a broadcast."""
    agent = welcomed()
    assert kinds(agent.handle(start(key(), proplet_id="p-2"), 1.0)) == ["Ignored"]
    assert "Run" in kinds(agent.handle(start(key(), proplet_id="p-2", broadcast=True), 1.0))


def test_a_stop_ends_a_running_attempt_at_once_and_for_ever():
    """The kill goes first, the end is durable, and what the guest answers later changes nothing."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    agent.handle(e.GuestStarted(key()), 1.5)
    commands = agent.handle(stop(key(), reason="enough"), 2.0)
    assert kinds(commands) == ["Kill", "SaveHeld", "PublishFinished"]
    assert (told(commands[2]).failure, told(commands[2]).error) == ("stopped", "enough")
    assert agent.handle(e.GuestEnded(key(), Outcome(results=b"1")), 2.1) == []


def test_a_stop_without_an_attempt_ends_all_of_the_task():
    """A stop that names only the task takes what lives of it."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    commands = agent.handle(e.StopReceived(Stop(id="t")), 2.0)
    assert kinds(commands) == ["Kill", "SaveHeld", "PublishFinished"]
    assert agent.handle(e.StopReceived(Stop(id="other")), 2.0) == []


def test_a_stop_of_another_proplet_is_ignored():
    """A stop addressed elsewhere stops nothing here (defect 4.9)."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    assert kinds(agent.handle(stop(key(), proplet_id="p-2"), 2.0)) == ["Ignored"]


def test_a_stop_that_overtakes_its_start_still_stops_it():
    """The end is held, so the start that comes later finds it."""
    agent = welcomed()
    assert kinds(agent.handle(stop(key()), 1.0)) == ["SaveHeld", "PublishFinished"]
    assert kinds(agent.handle(start(key()), 2.0)) == ["PublishFinished"]


def test_a_queued_attempt_that_is_stopped_never_runs():
    """Stopping in the queue needs no kill."""
    agent = welcomed()
    agent.handle(start(key("a")), 1.0)
    agent.handle(start(key("b")), 1.0)
    assert kinds(agent.handle(stop(key("b")), 2.0)) == ["SaveHeld", "PublishFinished"]
    assert of(agent.handle(e.GuestEnded(key("a"), Outcome()), 3.0), e.Run) == []


def test_a_late_start_of_an_acknowledged_attempt_is_not_run():
    """The key is remembered after the record is gone, and the sender learns that nothing will run."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    agent.handle(e.GuestEnded(key(), Outcome()), 2.0)
    agent.handle(ack(key(), "finished"), 3.0)
    for order in (start(key()), stop(key())):
        commands = agent.handle(order, 4.0)
        assert kinds(commands) == ["Ignored", "PublishFinished"]
        assert told(commands[1]).failure == "lost"


def test_an_unacknowledged_event_is_said_again_with_backoff():
    """Pauses of 1, 2, 4, 8 seconds, then 15, until the acknowledgement of just that event."""
    agent = welcomed()
    agent.handle(start(key()), 0.0)
    now, pauses = 0.0, []
    for _ in range(6):
        pauses.append(agent.resend_due_s - now)
        now = agent.resend_due_s
        assert kinds(agent.handle(e.ResendDue(), now)) == ["PublishEvent"]
    assert pauses == [1, 2, 4, 8, 15, 15]
    agent.handle(ack(key(), "started"), now)
    assert agent.resend_due_s < float("inf")
    agent.handle(ack(key(), "accepted"), now)
    assert agent.resend_due_s == float("inf")


def test_a_new_event_starts_its_own_backoff():
    """Whatever the acceptance had come to, the end is said again after a second."""
    agent = welcomed()
    agent.handle(start(key()), 0.0)
    agent.handle(ack(key(), "accepted"), 0.0)
    agent.handle(e.GuestEnded(key(), Outcome()), 50.0)
    assert agent.resend_due_s == 51.0


def test_a_reconnection_says_everything_again():
    """After each connection: announcement, heartbeat with inventory, and whatever is not acknowledged."""
    agent = welcomed()
    agent.handle(start(key("a")), 1.0)
    agent.handle(e.GuestEnded(key("a"), Outcome()), 2.0)
    agent.handle(start(key("b")), 3.0)
    agent.handle(ack(key("b"), "accepted"), 3.1)
    commands = agent.handle(e.Connected(), 4.0)
    assert kinds(commands) == ["PublishCreate", "PublishAlive", "PublishFinished"]
    assert {item.task_id: item.state for item in commands[1].attempts} == {"a": "finished", "b": "accepted"}


def test_queued_attempts_run_in_the_order_of_their_starts():
    """One slot by default: first come, first served."""
    agent = welcomed()
    ran = []
    for name in "abc":
        ran += of(agent.handle(start(key(name)), 1.0), e.Run)
    for name in "abc":
        ran += of(agent.handle(e.GuestEnded(key(name), Outcome()), 2.0), e.Run)
    assert [command.held.key.task_id for command in ran] == ["a", "b", "c"]


def test_more_slots_run_more_at_once():
    """Two slots, three starts: two run."""
    agent = welcomed(slots=2)
    ran = [of(agent.handle(start(key(name)), 1.0), e.Run) for name in "abc"]
    assert [len(commands) for commands in ran] == [1, 1, 0]
    assert agent.running == 2


def test_an_update_is_saved_before_it_is_delivered():
    """A crash between them re-sends, it does not retrain."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    agent.handle(e.GuestStarted(key()), 1.1)
    save, deliver = agent.handle(e.UpdateMade(key(), b"{}", Usage(wall_s=1.0)), 2.0)
    assert save.held.update == b"{}"
    assert isinstance(deliver, e.Deliver)
    again = Agent(ME, held=[save.held])
    assert kinds(again.handle(e.Booted(), 0.0)) == ["Deliver"]


def test_an_update_of_a_stopped_attempt_is_dropped():
    """The slot is free, nothing is delivered."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    agent.handle(stop(key()), 1.5)
    assert agent.handle(e.UpdateMade(key(), b"{}", Usage()), 2.0) == []
    assert agent.running == 0


def test_a_restart_runs_what_was_cut_off_and_repeats_what_was_said():
    """Live records run again in their order, ends are said again, and the dead stay dead."""
    first = welcomed()
    saved = {}
    for name in "ab":
        for command in of(first.handle(start(key(name)), 1.0), e.SaveHeld):
            saved[command.held.key] = command.held
    for command in of(first.handle(e.GuestEnded(key("a"), Outcome()), 2.0), e.SaveHeld):
        saved[command.held.key] = command.held
    second = Agent(ME, held=saved.values(), tombstones=[key("z")])
    (run,) = second.handle(e.Booted(), 0.0)
    assert run.held.key == key("b")
    commands = second.handle(e.Welcomed(5.0), 1.0)
    assert kinds(commands) == ["PublishAlive", "PublishFinished", "PublishEvent"]
    assert "Run" not in kinds(second.handle(start(key("z")), 2.0))


def test_a_start_that_cannot_be_saved_is_not_taken():
    """A full disk refuses the start; the next one that can be saved gets the slot."""
    agent = welcomed()
    agent.handle(start(key("a")), 1.0)
    assert kinds(agent.handle(e.SaveFailed(key("a"), "full"), 1.0)) == ["Ignored"]
    assert agent.inventory == ()
    assert "Run" in kinds(agent.handle(start(key("b")), 2.0))


def test_an_end_that_could_not_be_saved_is_saved_again_with_the_next_sending():
    """The result is told all the same, and durable as soon as there is room."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    agent.handle(e.GuestEnded(key(), Outcome()), 2.0)
    assert agent.handle(e.SaveFailed(key(), "full"), 2.0) == []
    assert kinds(agent.handle(e.ResendDue(), 3.0)) == ["SaveHeld", "PublishFinished"]
    assert kinds(agent.handle(e.ResendDue(), 6.0)) == ["PublishFinished"]


def test_an_acknowledged_end_of_a_live_attempt_kills_it():
    """If the manager knows an end already, the work is in vain."""
    agent = welcomed()
    agent.handle(start(key()), 1.0)
    assert kinds(agent.handle(ack(key(), "finished"), 2.0)) == ["Kill", "Forget"]
    assert agent.running == 1
    agent.handle(e.GuestEnded(key(), Outcome()), 2.1)
    assert agent.running == 0


def test_the_number_of_held_attempts_is_bounded():
    """Beyond the bound starts are left to be sent again, and stops of strangers too."""
    agent = welcomed()
    for number in range(agent_module.HELD_MAX):
        agent.handle(start(key(f"t{number}")), 1.0)
    for order in (start(key("c")), stop(key("d"))):
        (ignored,) = agent.handle(order, 2.0)
        assert ignored.why == "full"


def test_the_memory_of_the_dead_is_bounded():
    """The oldest key is forgotten first."""
    agent = welcomed()
    for number in range(agent_module.TOMBSTONES_MAX + 1):
        agent.handle(stop(key(f"t{number}")), 1.0)
        agent.handle(ack(key(f"t{number}"), "finished"), 1.0)
    assert "Run" in kinds(agent.handle(start(key("t0")), 2.0))
    assert "Run" not in kinds(agent.handle(start(key("t1")), 2.0))


def test_heartbeats_begin_at_once_and_follow_the_welcome():
    """The first with the welcome, the next after the interval it asked for."""
    agent = Agent(ME, heartbeat_s=10.0)
    agent.handle(e.Connected(), 0.0)
    assert kinds(agent.handle(e.Welcomed(4.0), 1.0)) == ["PublishAlive"]
    assert agent.heartbeat_due_s == 5.0
    assert kinds(agent.handle(e.HeartbeatDue(), 5.0)) == ["PublishAlive"]
    assert agent.heartbeat_due_s == 9.0


def test_an_unlawful_heartbeat_interval_is_bounded():
    """A welcome cannot make a proplet spin or fall silent."""
    agent = welcomed()
    agent.handle(e.Welcomed(0.0), 1.0)
    assert agent.heartbeat_s == agent_module.HEARTBEAT_S_MIN
    agent.handle(e.Welcomed(1e12), 1.0)
    assert agent.heartbeat_s == agent_module.HEARTBEAT_S_MAX


def test_announcements_repeat_until_the_welcome_and_rarely_after():
    """Pauses of 1, 2, 4, 8, 15 seconds before it; a minute after it."""
    agent = Agent(ME)
    agent.handle(e.Connected(), 0.0)
    now, pauses = 0.0, []
    for _ in range(5):
        pauses.append(agent.heartbeat_due_s - now)
        now = agent.heartbeat_due_s
        assert kinds(agent.handle(e.HeartbeatDue(), now)) == ["PublishCreate"]
    assert pauses == [1, 2, 4, 8, 15]
    agent.handle(e.Welcomed(10.0), 0.0)
    said = [kinds(agent.handle(e.HeartbeatDue(), 10.0 * n)) for n in range(1, 8)]
    assert [n for n, commands in enumerate(said, 1) if "PublishCreate" in commands] == [6]


def test_an_unlawful_transition_is_a_bug_with_the_story():
    """The table is the law, whoever asks."""
    held = Held(key=key(), state=AttemptState.FINISHED, order=1, finished=b"{}")
    agent = Agent(ME, held=[held])
    with pytest.raises(Bug, match="finished → running"):
        agent._move(agent._entries[key()], AttemptState.RUNNING)
