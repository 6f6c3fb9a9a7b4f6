"""The agent under any order of starts, stops, acknowledgements, ends, restarts and full disks."""

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from propeller.proplet import events as e
from propeller.proplet.agent import Agent
from propeller.proplet.records import AttemptState, Outcome
from propeller.wire.messages import AckItem, AttemptFinished, AttemptKey, Start, Stop, Usage

KEYS = st.builds(AttemptKey, task_id=st.sampled_from("ab"), run=st.integers(1, 2), attempt=st.integers(1, 2))


class World(RuleBasedStateMachine):
    """A proplet with its spool and its work, and a manager that may say anything at any time."""

    def __init__(self):
        super().__init__()
        self.spool = {}
        self.done = []
        self.disk_full = False
        self.disk_was_full = False
        self.now = 0.0
        self.ended = {}
        self.said = []
        self.boot()

    def boot(self):
        """A process begins with what the spool has."""
        self.working = {}
        self.agent = Agent("p", slots=2, held=self.spool.values(), tombstones=self.done)
        self.feed(e.Booted())

    def feed(self, event):
        """Give the agent an event and obey it; a required save that fails drops the rest."""
        commands = self.agent.handle(event, self.now)
        for command in commands:
            if isinstance(command, e.SaveHeld) and self.disk_full:
                self.feed(e.SaveFailed(command.held.key, "full"))
                if command.required:
                    break
            else:
                self.obey(command)
        self.agent.validate()

    def obey(self, command):
        """Do a command and check that it was lawful."""
        match command:
            case e.SaveHeld(held):
                self.spool[held.key] = held
                if held.finished:
                    assert self.ended.setdefault(held.key, held.finished) == held.finished or (
                        self.disk_was_full
                    ), "an end changed"
            case e.Forget(key):
                self.spool.pop(key, None)
                self.done.append(key)
            case e.Run(held) | e.Deliver(held):
                assert held.key not in self.working, "two runs of one attempt at once"
                assert held.key not in self.done, "an acknowledged attempt runs"
                assert self.spool[held.key].state is not AttemptState.FINISHED, "a finished attempt runs"
                self.working[held.key] = isinstance(command, e.Run)
                assert len(self.working) <= 2
            case e.PublishEvent(key):
                assert key in self.spool, "accepted, and not on disk"
                self.said.append(key)
            case e.PublishFinished(key, payload):
                message = msgspec.json.decode(payload, type=AttemptFinished)
                if message.failure == "lost":
                    assert key in self.done
                elif not self.disk_was_full:
                    assert self.spool[key].finished == payload, "finished, and not on disk"
                self.said.append(key)

    @rule(key=KEYS)
    def start(self, key):
        """A start, new or old."""
        self.feed(e.StartReceived(key, Start(id=key.task_id, name="n", run=key.run, attempt=key.attempt)))

    @rule(key=KEYS)
    def stop(self, key):
        """A stop of one attempt."""
        self.feed(e.StopReceived(Stop(id=key.task_id, run=key.run, attempt=key.attempt)))

    @rule(task_id=st.sampled_from("ab"))
    def stop_all(self, task_id):
        """A stop of whatever lives of a task."""
        self.feed(e.StopReceived(Stop(id=task_id)))

    @rule(key=KEYS, kind=st.sampled_from(["accepted", "started"]))
    def acknowledge(self, key, kind):
        """An acknowledgement of any early event, true or not."""
        item = AckItem(task_id=key.task_id, run=key.run, attempt=key.attempt, kind=kind)
        self.feed(e.AckReceived((item,)))

    @rule(key=KEYS)
    def acknowledge_an_end(self, key):
        """Only what was said to have ended is acknowledged so."""
        if key in self.said and (key in self.done or (key in self.spool and self.spool[key].finished)):
            item = AckItem(task_id=key.task_id, run=key.run, attempt=key.attempt, kind="finished")
            self.feed(e.AckReceived((item,)))

    @precondition(lambda self: self.working)
    @rule(data=st.data(), how=st.sampled_from(["started", "update", "ended", "failed"]))
    def work(self, data, how):
        """Some work goes on or ends."""
        key = data.draw(st.sampled_from(sorted(self.working, key=str)))
        if how == "started":
            self.feed(e.GuestStarted(key))
        elif how == "update" and self.working[key]:
            del self.working[key]
            self.feed(e.UpdateMade(key, b'{"update":{}}', Usage()))
        else:
            del self.working[key]
            self.feed(e.GuestEnded(key, Outcome(failure="trap" if how == "failed" else "")))

    @rule()
    def restart(self):
        """The process dies and begins again."""
        self.boot()

    @rule()
    def connect(self):
        """A new connection."""
        self.feed(e.Connected())

    @rule()
    def welcome(self):
        """A welcome."""
        self.feed(e.Welcomed(10.0))

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0]))
    def wait(self, seconds):
        """Time passes."""
        self.now += seconds
        if self.agent.heartbeat_due_s <= self.now:
            self.feed(e.HeartbeatDue())
        if self.agent.resend_due_s <= self.now:
            self.feed(e.ResendDue())

    @rule(full=st.booleans())
    def fill_the_disk(self, full):
        """The disk fills up, or has room again."""
        self.disk_full = full
        self.disk_was_full |= full

    @invariant()
    def every_saved_end_is_held_until_acknowledged(self):
        """What ended and is on disk is in every heartbeat."""
        held = {
            AttemptKey(task_id=i.task_id, run=i.run, attempt=i.attempt): i.state for i in self.agent.inventory
        }
        for key, record in self.spool.items():
            if record.finished:
                assert held[key] == "finished"

    def teardown(self):
        """After a last restart and reconnection everything unacknowledged is said."""
        self.disk_full = False
        self.boot()
        self.said.clear()
        self.feed(e.Connected())
        self.feed(e.Welcomed(10.0))
        assert set(self.spool) <= set(self.said)


TestAgentUnderAnyOrder = World.TestCase
TestAgentUnderAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
