"""The whole proplet on in-memory ports in virtual time, against a manager that is a few lines."""

import asyncio
import json
from random import Random

import pytest
from proplet_fakes import (
    COORDINATOR,
    URLS,
    FakeHttp,
    FakeImages,
    FakeLog,
    FakeRuntime,
    in_virtual_time,
    unavailable,
)

from propeller.bus.memory import MemoryBroker, MemoryBus
from propeller.errors import Conflict, Denied
from propeller.ports import BusSession, GuestDone, GuestFailed, Message
from propeller.proplet.offload import at_once
from propeller.proplet.place import Identity, PropletPorts
from propeller.proplet.services import Services
from propeller.proplet.shell import Proplet
from propeller.proplet.spool import MemorySpool
from propeller.wire import codec
from propeller.wire.messages import Ack, AckItem, Invoke, Start, Stop, Welcome
from propeller.wire.rounds import Verdict
from propeller.wire.topics import FromManager, Topics

TOPICS = Topics("d", "c")
ROUND = {"ROUND_ID": "r-1", "MODEL_URI": "fl/models/global_model_v0"}
UPDATE = GuestDone(stdout='{"update":{"w":[1]},"num_samples":3}', stderr="")


class Manager:
    """Welcomes everybody, keeps what it hears, acknowledges if told to."""

    def __init__(self, broker):
        self.bus = MemoryBus(broker, "manager", random=Random(2))  # noqa: S311 - backoff
        self.heard = []
        self.acks = True
        self.welcomes = True

    async def run(self):
        """Listen to proplets."""
        await self.bus.run(BusSession(subscriptions=("m/d/c/c/control/proplet/#",)), self.hear)

    async def hear(self, message):
        """Keep it; answer what wants an answer."""
        kind = message.topic.removeprefix("m/d/c/c/control/proplet/").partition("/")[0]
        body = json.loads(message.payload)
        self.heard.append((kind, body))
        if kind == "create" and self.welcomes:
            await self.send(FromManager.WELCOME, Welcome(heartbeat_s=5.0))
        if kind in {"events", "results"} and self.acks:
            item = AckItem(
                task_id=body["task_id"],
                run=body["run"],
                attempt=body["attempt"],
                kind=body.get("kind", "finished"),
            )
            await self.send(FromManager.ACK, Ack(events=[item]))

    async def send(self, kind, message):
        """Something for p-1."""
        payload = message if isinstance(message, bytes) else codec.encode(message)
        await self.bus.publish(Message(TOPICS.from_manager(kind, "p-1"), payload))

    async def start(self, task="t", run=1, attempt=1, **fields):
        """A start of an image."""
        given = {"image_url": "localhost:5000/x"} | fields
        await self.send(FromManager.START, Start(id=task, name="n", run=run, attempt=attempt, **given))

    def told(self, kind):
        """The bodies heard of one kind."""
        return [body for heard, body in self.heard if heard == kind]


class World:
    """A broker, a manager and one proplet that may crash and come again."""

    def __init__(self, clock):
        self.clock = clock
        self.broker = MemoryBroker()
        self.manager = Manager(self.broker)
        self.http, self.images, self.runtime = FakeHttp(), FakeImages(), FakeRuntime()
        self.spool, self.log = MemorySpool(), FakeLog()
        self.proplet = self.task = None
        self.slots = 1
        self.listening = asyncio.ensure_future(self.manager.run())

    def boot(self):
        """A new process of the proplet."""
        ports = PropletPorts(
            bus=MemoryBus(self.broker, "p-1", random=Random(3)),  # noqa: S311 - backoff
            http=self.http,
            images=self.images,
            runtime=self.runtime,
            spool=self.spool,
            clock=self.clock,
            random=Random(4),  # noqa: S311 - jitter
            offload=at_once,
            log=self.log,
        )
        identity = Identity(id="p-1", topics=TOPICS, slots=self.slots)
        self.proplet = Proplet(identity, ports, services=Services(URLS))
        self.task = asyncio.ensure_future(self.proplet.run())

    async def crash(self):
        """The process is killed."""
        self.broker.disconnect("p-1")
        self.proplet.crash(self.task)
        await asyncio.wait([self.task])

    async def end(self):
        """A clean end of everything."""
        for task in (self.task, self.listening):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])


def world(scenario):
    """Run a scenario in a world whose proplet is up and welcome."""

    async def main(clock):
        here = World(clock)
        here.boot()
        await asyncio.sleep(1.5)
        try:
            await scenario(here)
        finally:
            await here.end()

    in_virtual_time(main)


def test_a_task_goes_from_start_to_acknowledged_result():
    """Announcement, welcome, heartbeat, accepted, started, finished; then the spool is empty."""

    async def scenario(here):
        await here.manager.start()
        await asyncio.sleep(2)
        manager = here.manager
        assert manager.told("create")[0]["protocol"] == 2
        assert manager.told("alive")[0]["attempts"] == []
        assert [body["kind"] for body in manager.told("events")] == ["accepted", "started"]
        (result,) = manager.told("results")
        assert (result["results"], result.get("error", "")) == ("hello", "")
        assert here.proplet.running_tasks == 0
        spooled = await _reopen(here)
        assert (spooled.held, len(spooled.done)) == ((), 1)
        counters = here.proplet.counters
        assert (counters.started, counters.completed, counters.failed) == (1, 1, 0)

    world(scenario)


async def _reopen(here):
    """What the spool holds after the proplet is gone."""
    here.task.cancel()
    await asyncio.wait([here.task])
    spooled = await here.spool.load()
    here.spool.close()
    return spooled


def test_heartbeats_carry_the_inventory_at_the_welcomes_interval():
    """Every five seconds, with what is held."""

    async def scenario(here):
        here.runtime.takes_s = 100
        await here.manager.start()
        await asyncio.sleep(20)
        alive = here.manager.told("alive")
        assert 4 <= len(alive) <= 6
        held = {"task_id": "t", "run": 1, "attempt": 1, "state": "running"}
        assert alive[-1]["attempts"] == [held]
        assert len({body["boot"] for body in alive}) == 1

    world(scenario)


def test_a_stop_kills_the_guest_at_once():
    """The runtime's call is cancelled and the result says stopped."""

    async def scenario(here):
        here.runtime.takes_s = 1000
        await here.manager.start()
        await asyncio.sleep(1)
        await here.manager.send(FromManager.STOP, Stop(id="t", run=1, attempt=1, reason="round over"))
        await asyncio.sleep(0.1)
        (result,) = here.manager.told("results")
        assert (result["failure"], result["error"]) == ("stopped", "round over")
        assert (here.runtime.killed, here.runtime.running) == (1, 0)

    world(scenario)


def test_a_stop_before_the_first_step_of_the_work_frees_the_slot():
    """Start and stop in one breath: nothing runs, the next task does."""

    async def scenario(here):
        await here.manager.start("a")
        await here.manager.send(FromManager.STOP, Stop(id="a", run=1, attempt=1))
        await here.manager.start("b")
        await asyncio.sleep(3)
        results = {body["task_id"]: body.get("failure", "") for body in here.manager.told("results")}
        assert results == {"a": "stopped", "b": ""}
        assert here.proplet.running_tasks == 0

    world(scenario)


def test_unacknowledged_results_are_repeated_until_they_are():
    """With backoff, the same bytes each time, and never after the acknowledgement."""

    async def scenario(here):
        here.manager.acks = False
        await here.manager.start()
        await asyncio.sleep(60)
        results = here.manager.told("results")
        assert 5 <= len(results) <= 8
        assert all(result == results[0] for result in results)
        here.manager.acks = True
        await asyncio.sleep(20)
        heard = len(here.manager.told("results"))
        await asyncio.sleep(100)
        assert len(here.manager.told("results")) == heard

    world(scenario)


def test_a_killed_proplet_runs_its_work_again_even_while_cut_off():
    """The spool alone is enough to go on; the result is told when the broker is back."""

    async def scenario(here):
        here.runtime.takes_s = 10
        await here.manager.start()
        await asyncio.sleep(3)
        here.broker.stop()
        await here.crash()
        here.boot()
        await asyncio.sleep(15)
        assert len(here.runtime.jobs) == 2
        assert here.manager.told("results") == []
        here.broker.start()
        await asyncio.sleep(40)
        assert [body["results"] for body in here.manager.told("results")] == ["hello"]

    world(scenario)


def test_a_killed_proplet_sends_its_saved_update_and_does_not_train_again():
    """The guest ran once; the update of before the crash is the one delivered."""

    async def scenario(here):
        here.runtime.ends = UPDATE
        here.http.answers[f"POST {COORDINATOR}/update"] = unavailable()
        await here.manager.start(env=ROUND, update_token="secret")
        await asyncio.sleep(5)
        await here.crash()
        here.http.answers[f"POST {COORDINATOR}/update"] = b"{}"
        here.boot()
        await asyncio.sleep(20)
        assert len(here.runtime.jobs) == 1
        (result,) = here.manager.told("results")
        assert result["results"]["status"] == "accepted"
        assert here.http.asked[-1][2]["X-Update-Token"] == "secret"

    world(scenario)


def test_an_update_by_mqtt_is_accepted_by_a_verdict():
    """With no HTTP to the coordinator the whole way goes over the bus."""

    async def scenario(here):
        here.runtime.ends = UPDATE
        here.http.answers[f"POST {COORDINATOR}/update"] = unavailable()
        await here.manager.start(env=ROUND)
        await asyncio.sleep(1.5)
        verdict = Verdict(round_id="r-1", status=200)
        topic = TOPICS.round_verdict("r-1", "p-1")
        await here.manager.bus.publish(Message(topic, codec.encode(verdict)))
        await asyncio.sleep(1)
        (result,) = here.manager.told("results")
        assert (result["results"]["via"], result["results"]["num_samples"]) == ("mqtt", 3)

    world(scenario)


def test_the_guest_never_sees_the_update_token():
    """It is the proplet's proof, not the guest's."""

    async def scenario(here):
        here.runtime.ends = UPDATE
        await here.manager.start(env=ROUND, update_token="secret-token")
        await asyncio.sleep(3)
        (job,) = here.runtime.jobs
        assert "secret-token" not in repr(job)
        assert "secret-token" not in repr(here.log.lines)

    world(scenario)


def test_failures_of_guests_and_defects_end_the_attempt_and_not_the_proplet():
    """A trap is a typed failure, a defect an internal one; the next task runs."""

    async def scenario(here):
        async def told(task):
            await here.manager.start(task)
            await asyncio.sleep(3)
            return next(body for body in here.manager.told("results") if body["task_id"] == task)

        here.runtime.ends = GuestFailed(kind="trap", message="unreachable", stderr="at f")
        trap = await told("a")
        assert (trap["failure"], trap["error"], trap["stderr"]) == ("trap", "unreachable", "at f")
        here.runtime.ends = lambda _job: 1 / 0
        assert (await told("b"))["failure"] == "internal"
        here.runtime.ends = GuestDone(stdout="x" * 600_000, stderr="")
        assert (await told("c"))["failure"] == "output"
        here.runtime.ends = GuestDone(stdout="no update", stderr="why")
        await here.manager.start("d", env=ROUND)
        await asyncio.sleep(3)
        bad = here.manager.told("results")[-1]
        assert (bad["failure"], bad["stderr"]) == ("invalid_update", "why")
        here.runtime.ends = GuestDone(stdout="", stderr="", value="42")
        assert (await told("e"))["results"] == "42"
        assert "defect while working on an attempt" in [line[1] for line in here.log.lines]

    world(scenario)


def test_a_full_spool_refuses_the_start_and_takes_it_later():
    """Not accepted, killed at once, counted; then not even begun, until a later send finds room."""

    async def scenario(here):
        here.spool.room_bytes = 10
        for tries in (1, 2):
            await here.manager.start()
            await asyncio.sleep(2)
            assert here.manager.told("events") == []
            assert (len(here.runtime.jobs), here.runtime.killed) == (1, 1)
            assert here.proplet.counters.spool_errors == tries
            assert here.proplet.counters.ignored == {"unsaved": tries}
            assert here.proplet.running_tasks == 0
        here.spool.room_bytes = 1 << 20
        await here.manager.start()
        await asyncio.sleep(2)
        assert len(here.manager.told("results")) == 1

    world(scenario)


def test_a_short_task_is_saved_once_and_forgotten_with_what_is_saved_next():
    """Its end comes before its acceptance had to be on disk; nothing of it is said before that."""

    async def scenario(here):
        here.runtime.takes_s = 0.001
        saves, save = [], here.spool.save

        async def noted(*records, buried=()):
            assert here.manager.told("results") == []
            saves.append(([record.state for record in records], list(buried)))
            await save(*records, buried=buried)

        here.spool.save = noted
        await here.manager.start("a")
        await asyncio.sleep(0.1)
        here.spool.save = save
        assert saves == [(["finished"], [])]
        assert here.manager.told("events") == []
        assert [body["task_id"] for body in here.manager.told("results")] == ["a"]

    world(scenario)


def test_a_stop_takes_back_work_that_waits_for_a_full_spool():
    """What was not begun for want of room is not begun after its stop either, and its slot is free."""

    async def scenario(here):
        here.spool.room_bytes = 10
        await here.manager.start("a")
        await asyncio.sleep(1)
        await here.manager.start("b")
        await here.manager.send(FromManager.STOP, Stop(id="b", run=1, attempt=1))
        here.spool.room_bytes = 1 << 20
        await asyncio.sleep(2)
        assert [job.name for job in here.runtime.jobs] == ["n"]
        assert [body["failure"] for body in here.manager.told("results")] == ["stopped"]
        assert here.proplet.running_tasks == 0

    world(scenario)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (FromManager.START, b"\xff"),
        (FromManager.START, b'{"id":"t","name":"n"}'),
        (FromManager.START, b'{"id":"../x","name":"n","run":1,"attempt":1}'),
        (FromManager.START, b'{"id":"t","name":"n","run":-1,"attempt":1}'),
        (FromManager.STOP, b'{"id":"a/b"}'),
        (FromManager.ACK, b'{"events":[{"task_id":"t"}]}'),
        (FromManager.WELCOME, b'{"heartbeat_s":"soon"}'),
        (FromManager.INVOKE, b"{}"),
    ],
)
def test_poison_is_counted_and_nothing_else(kind, payload):
    """A message that means nothing leaves the proplet as it was; the next one is handled."""

    async def scenario(here):
        await here.manager.send(kind, payload)
        await here.manager.start("good")
        await asyncio.sleep(3)
        assert sum(here.proplet.counters.ignored.values()) == 1
        assert [body["task_id"] for body in here.manager.told("results")] == ["good"]

    world(scenario)


def test_a_clean_end_says_so_and_leaves_the_work_in_the_spool():
    """The last message is offline; what ran is there for the next process."""

    async def scenario(here):
        here.runtime.takes_s = 100
        await here.manager.start()
        await asyncio.sleep(2)
        spooled = await _reopen(here)
        await asyncio.sleep(1)
        assert here.manager.told("alive")[-1]["status"] == "offline"
        assert [held.state for held in spooled.held] == ["accepted"]
        assert here.runtime.running == 0

    world(scenario)


def test_the_last_will_speaks_for_a_killed_proplet():
    """Offline on the directed topic, by the broker."""

    async def scenario(here):
        await here.crash()
        await asyncio.sleep(0.1)
        assert here.manager.told("alive")[-1]["status"] == "offline"
        assert here.manager.told("alive")[-1]["proplet_id"] == "p-1"

    world(scenario)


def test_without_a_welcome_only_announcements_go_out():
    """They repeat until somebody answers."""

    async def scenario(here):
        await here.crash()
        here.manager.welcomes = False
        here.manager.heard.clear()
        here.boot()
        await asyncio.sleep(30)
        assert {kind for kind, _ in here.manager.heard} == {"create"}
        assert 5 <= len(here.manager.heard) <= 7

    world(scenario)


def test_two_slots_run_two_guests_at_once():
    """Slots are announced and used."""

    async def scenario(here):
        await here.crash()
        here.slots, here.runtime.takes_s = 2, 10
        here.boot()
        await asyncio.sleep(2)
        for name in "abc":
            await here.manager.start(name)
        await asyncio.sleep(5)
        assert here.runtime.running == 2
        assert here.manager.told("create")[-1]["slots"] == 2
        await asyncio.sleep(20)
        assert len(here.manager.told("results")) == 3

    world(scenario)


def test_a_second_process_with_the_same_spool_is_refused():
    """One identity, one process."""

    async def scenario(here):
        second = World(here.clock)
        second.spool = here.spool
        second.boot()
        with pytest.raises(Conflict):
            await second.task
        await second.end()

    world(scenario)


def test_bad_credentials_end_the_proplet_with_their_error():
    """One clear error, not a group of them."""

    async def main(clock):
        here = World(clock)
        here.broker = MemoryBroker(verify=lambda _id, _password: False)
        here.boot()
        with pytest.raises(Denied):
            await here.task
        here.listening.cancel()
        await asyncio.wait([here.listening])

    in_virtual_time(main)


def test_lines_about_a_round_carry_its_id():
    """The log of a federated task can be found by its round."""

    async def scenario(here):
        here.runtime.ends = UPDATE
        await here.manager.start(env=ROUND)
        await asyncio.sleep(3)
        lines = [(event, fields.get("round_id")) for _, event, fields in here.log.lines if "task" in fields]
        assert lines == [
            ("start received", "r-1"),
            ("guest started", "r-1"),
            ("update made", "r-1"),
            ("attempt completed", "r-1"),
        ]

    world(scenario)


def test_a_flood_of_messages_does_not_silence_the_heartbeat():
    """Timers go before messages."""

    async def scenario(here):
        for number in range(3000):
            await here.manager.send(FromManager.STOP, Stop(id=f"t{number}"))
        before = len(here.manager.told("alive"))
        await asyncio.sleep(11)
        assert len(here.manager.told("alive")) - before >= 2

    world(scenario)


def test_a_latent_task_is_loaded_called_and_stopped():
    """It runs without a guest, answers calls on its directed topic, takes no slot, and ends by a stop."""

    async def scenario(here):
        await here.manager.start("f", latent=True)
        await asyncio.sleep(2)
        assert [body["kind"] for body in here.manager.told("events")][-1] == "started"
        assert here.proplet.running_tasks == 0
        await here.manager.send(FromManager.INVOKE, Invoke(id="f", invocation_id="i-1", inputs=["3"]))
        await here.manager.start("plain")
        await asyncio.sleep(3)
        (answer,) = here.manager.told("invoke_results")
        assert answer == {
            "task_id": "f", "invocation_id": "i-1", "proplet_id": "p-1", "results": "hello",
        }  # fmt: skip
        assert here.manager.told("results")[-1]["task_id"] == "plain"
        await here.manager.send(FromManager.INVOKE, Invoke(id="f", invocation_id="i-2"))
        await here.manager.send(FromManager.STOP, Stop(id="f"))
        await here.manager.send(FromManager.INVOKE, Invoke(id="f", invocation_id="i-3"))
        await asyncio.sleep(2)
        answers = here.manager.told("invoke_results")
        assert {answer["failure"] for answer in answers[1:]} == {"stopped", "not_ready"}
        assert here.manager.told("results")[-1]["failure"] == "stopped"

    world(scenario)


def test_a_latent_task_is_loaded_again_after_a_crash():
    """The spool remembers that it runs; the next process loads it and answers calls again."""

    async def scenario(here):
        await here.manager.start("f", latent=True)
        await asyncio.sleep(2)
        await here.crash()
        here.boot()
        await asyncio.sleep(3)
        await here.manager.send(FromManager.INVOKE, Invoke(id="f", invocation_id="i-1"))
        await asyncio.sleep(3)
        assert [answer["results"] for answer in here.manager.told("invoke_results")] == ["hello"]

    world(scenario)


def test_runs_of_a_service_live_side_by_side():
    """A newer run of a daemon leaves the older one alone; a newer attempt of a run replaces it."""

    async def scenario(here):
        here.runtime.takes_s = 1e6
        for run, attempt in ((1, 1), (2, 1), (2, 2)):
            await here.manager.start("d", run, attempt, daemon=True)
            await asyncio.sleep(1)
        assert [job.endless for job in here.runtime.jobs] == [True, True, True]
        assert (here.runtime.running, here.runtime.killed) == (2, 1)

    async def main(clock):
        here = World(clock)
        here.slots = 3
        here.boot()
        await asyncio.sleep(1.5)
        await scenario(here)
        await here.end()

    in_virtual_time(main)


def test_what_a_guest_prints_goes_to_the_manager_while_it_runs():
    """Chunks on the directed topic, before the result; a round's standard output stays at home."""

    def printing(job):
        job.on_output("stdout", b"out\n", 0)
        job.on_output("stderr", b"err\n", 0)
        return UPDATE if "ROUND_ID" in job.env else GuestDone(stdout="out\n", stderr="err\n")

    async def scenario(here):
        here.runtime.ends = printing
        await here.manager.start("plain")
        await asyncio.sleep(3)
        await here.manager.start("round", env=ROUND)
        await asyncio.sleep(3)
        logs = here.manager.told("logs")
        assert [
            (c["task_id"], c.get("stream", "stdout"), c.get("text")) for c in logs if not c.get("last")
        ] == [
            ("plain", "stdout", "out\n"),
            ("plain", "stderr", "err\n"),
            ("round", "stderr", "err\n"),
        ]
        assert [c["task_id"] for c in logs if c.get("last")] == ["plain", "round"]

    world(scenario)
