"""Defects of the original that no other test of the manager shows gone; docs/robustness.md lists them all."""

import asyncio

import pytest
from manager_world import ECHO, Api, echo, in_world, module

from propeller.bus.memory import MemoryBus
from propeller.ports import BusSession, Message
from propeller.simulation.world.world import TOPICS
from propeller.wire import codec
from propeller.wire.messages import Alive, Create, Invoke, InvokeResult
from propeller.wire.topics import FromManager, FromProplet

BEAT_S = 5.0
"""What the worlds' proplets beat at."""


class Old:
    """A device of the original on the world's shared topics."""

    def __init__(self, api: Api, name: str = "old") -> None:
        self.api = api
        self.name = name
        self.calls: asyncio.Queue[Invoke] = asyncio.Queue()
        self.bus = MemoryBus(api.world.broker, name, random=api.world._random(name))
        session = BusSession(subscriptions=(TOPICS.from_manager(FromManager.INVOKE),))
        self.task = asyncio.create_task(self.bus.run(session, self._hear))

    async def _hear(self, message: Message) -> None:
        self.calls.put_nowait(codec.decode(Invoke, message.payload, what="a call"))

    async def say(self, kind: FromProplet, body: object) -> None:
        """Publish on a shared topic."""
        await self.bus.publish(Message(TOPICS.from_proplet(kind), codec.encode(body)))
        await asyncio.sleep(0.1)

    async def beat(self) -> None:
        """One heartbeat."""
        await self.say(FromProplet.ALIVE, Alive(proplet_id=self.name))

    async def join(self) -> None:
        """Announce itself and beat."""
        await asyncio.sleep(0.1)
        await self.say(FromProplet.CREATE, Create(proplet_id=self.name))
        await self.beat()


def test_finished_work_blocks_no_deletion():
    """A proplet's task_count is what it has now; offline and idle it can be deleted (defect 4.2)."""

    async def story(api: Api):
        for number in range(3):
            await api.good("POST", "/tasks", echo(f"t{number}", proplet_id="proplet-1"))
            await api.good("POST", f"/tasks/t{number}/start")
            await api.ended(f"t{number}")
        assert (await api.good("GET", "/proplets/proplet-1"))["task_count"] == 0
        api.world.nodes["proplet-1"].crash()
        await asyncio.sleep(1)
        assert (await api.ask("DELETE", "/proplets/proplet-1"))[0] == 204
        assert (await api.ask("GET", "/proplets/proplet-1"))[0] == 404

    in_world(story)


def test_an_upload_leaves_the_schedule():
    """Only the module changes; the original cleared schedule and next run (defect 4.4)."""

    async def story(api: Api):
        body = echo("t", schedule="0 3 * * *", is_recurring=True, timezone="Europe/Berlin", priority=7)
        before = await api.good("POST", "/tasks", body)
        content = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.wasm"\r\n\r\n'
        content += ECHO + b"\r\n--b--\r\n"
        answer = await api.world.calm_http.request(
            "PUT",
            "http://manager:7070/tasks/t/upload",
            body=content,
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        assert answer.status == 200
        after = await api.good("GET", "/tasks/t")
        kept = ("schedule", "is_recurring", "timezone", "next_run", "priority")
        assert [after[name] for name in kept] == [before[name] for name in kept]
        assert after["file"] == module(ECHO)

    in_world(story)


def test_schedule_and_priority_survive_the_manager():
    """They are stored with the task; the original's SQL storage lost them (defect 4.3)."""

    async def story(api: Api):
        body = echo("t", schedule="0 3 * * *", is_recurring=True, timezone="Europe/Berlin", priority=7)
        before = await api.good("POST", "/tasks", body)
        api.world.nodes["manager"].crash()
        await asyncio.sleep(1)
        api.world.nodes["manager"].start()
        await asyncio.sleep(5)
        assert await api.good("GET", "/tasks/t") == before

    in_world(story)


@pytest.mark.parametrize("status", ["offline", "alive"])
def test_a_farewell_is_no_heartbeat_and_makes_no_proplet(status):
    """The wills of managers and proxies travel on the same topic: they register nobody (defect 4.6)."""

    async def story(api: Api):
        old = Old(api)
        await old.join()
        await old.say(FromProplet.ALIVE, Alive(proplet_id="some-manager", status=status))
        shown, _ = await api.ask("GET", "/proplets/some-manager")
        assert shown == (404 if status == "offline" else 200)
        seen = (await api.good("GET", "/proplets/old"))["last_alive_at"]
        await asyncio.sleep(1)
        await old.say(FromProplet.ALIVE, Alive(proplet_id="old", status="offline"))
        after = await api.good("GET", "/proplets/old")
        assert (after["alive"], after["last_alive_at"]) == (False, seen)

    in_world(story)


def test_a_heartbeat_may_be_late_or_lost():
    """Alive for three intervals, so that a healthy proplet never flickers (defect 4.7)."""

    async def story(api: Api):
        old = Old(api)
        await old.join()
        await asyncio.sleep(2.8 * BEAT_S)
        assert (await api.good("GET", "/proplets/old"))["alive"]
        await asyncio.sleep(0.4 * BEAT_S)
        assert not (await api.good("GET", "/proplets/old"))["alive"]

    in_world(story)


def test_a_slow_call_is_still_answered():
    """After twenty seconds, which the original's server had cut at fifteen (defect 4.27)."""

    async def story(api: Api):
        old = Old(api)
        await old.join()
        await api.good("POST", "/tasks", echo("t", latent=True, proplet_id="old"))
        await api.good("POST", "/tasks/t/start")
        calling = asyncio.create_task(api.ask("POST", "/tasks/t/invoke", {"inputs": ["1"]}))
        call = await old.calls.get()
        for _ in range(4):
            await asyncio.sleep(5)
            await old.beat()
        said = InvokeResult(task_id="t", invocation_id=call.invocation_id, results="late")
        await old.say(FromProplet.INVOKE_RESULTS, said)
        assert await calling == (200, {"results": "late", "invoked": True})
        asked_s = api.world.clock.now().mono_s
        status, said = await api.ask("POST", "/tasks/t/invoke", {"inputs": ["2"]})
        assert (status, said["code"]) == (503, "timeout")
        assert api.world.clock.now().mono_s - asked_s < 30

    in_world(story)


def test_a_users_header_opens_nothing():
    """What a caller says of itself changes nothing; encrypted work is refused (defects 4.23, 4.24)."""

    async def story(api: Api):
        headers = {"x-user-id": "system", "authorization": "Bearer nothing"}
        answer = await api.world.calm_http.request("GET", "http://manager:7070/proplets", headers=headers)
        plain = await api.world.calm_http.request("GET", "http://manager:7070/proplets")
        assert (answer.status, len(answer.body)) == (200, len(plain.body))
        status, said = await api.ask("POST", "/tasks", echo("t", encrypted=True))
        assert (status, said["code"]) == (400, "not_offered")
        status, said = await api.ask("POST", "/tasks", echo("t", monitoring_profile={"enabled": True}))
        assert (status, said["code"]) == (400, "not_offered"), said

    in_world(story)
