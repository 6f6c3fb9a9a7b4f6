"""Launches and closings of rounds that something came between: users, full disks, strangers."""

import asyncio
import json

import pytest
from test_manager_api import ROUND, Api, in_world, with_data

from propeller.bus.memory import MemoryBus
from propeller.errors import StorageFull
from propeller.fl.launch import LaunchState
from propeller.ports import BusSession, Message
from propeller.simulation.world.guests import ECHO_IMAGE, TRAINER_IMAGE
from propeller.simulation.world.world import COORDINATOR, TOPICS


class Full:
    """A manager's store without room for its next changes."""

    def __init__(self, store, times: int) -> None:
        self._store = store
        self.times = times

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    async def commit(self, changes):
        """Fail `times` times, then commit."""
        if self.times:
            self.times -= 1
            raise StorageFull("no room")
        await self._store.commit(changes)


async def closed(api: Api, round_id: str) -> None:
    """Return when the launch of that round is closed; fail after a virtual minute."""
    for _ in range(120):
        launch = await api.world.manager_store.launch(round_id)
        if launch.state is LaunchState.CLOSED:
            return
        await asyncio.sleep(0.5)
    raise AssertionError(f"the launch of {round_id} never closes")


def cut_short(api: Api) -> None:
    """Let the manager die at the first start of the launch that is about to begin."""

    async def die(*_args, **_fields):
        api.world.crash("manager", down_s=3.0)
        await asyncio.Event().wait()

    api.world.manager.tasks.start = die


@pytest.mark.parametrize("gone", ["task", "proplet"])
def test_a_launch_is_finished_without_what_its_user_removed(gone):
    """After a crash in mid-launch a held task or a participant may be gone: the others start."""

    async def story(api: Api):
        await with_data(api)
        cut_short(api)
        asking = asyncio.create_task(api.ask("POST", "/fl/experiments", {**ROUND, "k_of_n": 2}))
        await asyncio.sleep(1)
        launch = await api.world.manager_store.launch("r-1")
        assert launch.state is LaunchState.INTENT
        if gone == "task":
            del api.world.manager_store.tasks_by_id[launch.tasks["proplet-3"]]
        else:
            del api.world.manager_store._proplets["proplet-3"]
            api.world.nodes["proplet-3"].crash()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(5)
        said = await api.completed("r-1")
        assert said["num_updates"] == 2
        await closed(api, "r-1")
        api.world.check_alive()

    in_world(story)


def test_a_round_closes_though_its_user_deleted_a_task():
    """The end of the round is acknowledged, not repeated for a day."""

    async def story(api: Api):
        await with_data(api)
        api.world.nodes["proplet-3"].crash()
        await asyncio.sleep(1)
        await api.ask("POST", "/fl/experiments", {**ROUND, "k_of_n": 3, "timeout_s": 30})
        launch = await api.world.manager_store.launch("r-1")
        await api.ask("POST", f"/tasks/{launch.tasks['proplet-3']}/stop")
        assert (await api.ask("DELETE", f"/tasks/{launch.tasks['proplet-3']}"))[0] == 204
        await closed(api, "r-1")

    in_world(story)


def test_a_launch_that_met_a_full_disk_is_finished_when_there_is_room():
    """507 to the caller, who need not come back: the stored intent is carried out without a restart."""

    async def story(api: Api):
        await with_data(api)
        shell = api.world.manager.shell
        shell._store = Full(shell._store, times=2)
        status, _ = await api.ask("POST", "/fl/experiments", ROUND)
        assert status == 507
        assert (await api.completed("r-1"))["num_updates"] == 3

    in_world(story)


def test_an_experiment_repeated_is_answered_alike_whatever_became_of_its_proplets():
    """The same request again, in another spelling, after a participant was forgotten: 200, as before."""

    async def story(api: Api):
        await with_data(api)
        answer = await api.ask("POST", "/fl/experiments", ROUND)
        assert answer[0] == 200
        await api.completed("r-1")
        api.world.nodes["proplet-3"].crash()
        await asyncio.sleep(60)
        assert (await api.ask("DELETE", "/proplets/proplet-3"))[0] == 204
        turned = {**ROUND, "hyperparams": {"lr": 0.01, "epochs": 1}, "rounds": 0}
        assert await api.ask("POST", "/fl/experiments", turned) == answer

    in_world(story)


def test_nobody_ends_the_coordinators_round_by_asking_for_another_of_its_id():
    """A start with other participants is not launched, and the coordinator's own is not called off."""

    async def story(api: Api):
        said = []

        async def hear(message: Message) -> None:
            said.append(json.loads(message.payload))

        spy = MemoryBus(api.world.broker, "spy", random=api.world._random("spy"))
        session = BusSession(subscriptions=(f"{TOPICS.base}/fl/rounds/+/launched",))
        listening = asyncio.create_task(spy.run(session, hear))
        await with_data(api)
        await api.world.calm_http.request(
            "POST", f"{COORDINATOR}/experiments", body=json.dumps(ROUND).encode()
        )
        start = {"model_uri": "m", "task_wasm_image": "i", "participants": ["proplet-1", "ghost"]}
        for round_id in ("r-1", "unknown", "a/b#"):
            payload = json.dumps({**start, "round_id": round_id}).encode()
            api.world.broker.publish("operator", Message(TOPICS.rounds_start(), payload))
        await asyncio.sleep(5)
        listening.cancel()
        assert [(one["round_id"], bool(one["refused"])) for one in said] == [("unknown", True)]

    in_world(story)


@pytest.mark.parametrize("version", [0, 7])
def test_a_start_by_message_outlives_a_coordinator_that_is_away(version):
    """Nobody repeats it: the round begins once the coordinator is back, or is refused then."""

    async def story(api: Api):
        said = []

        async def hear(message: Message) -> None:
            said.append(json.loads(message.payload))

        spy = MemoryBus(api.world.broker, "spy", random=api.world._random("spy"))
        session = BusSession(subscriptions=(f"{TOPICS.base}/fl/rounds/+/launched",))
        listening = asyncio.create_task(spy.run(session, hear))
        await with_data(api)
        api.world.crash("coordinator", down_s=20.0)
        start = {
            "round_id": "r-1",
            "model_uri": f"fl/models/global_model_v{version}",
            "task_wasm_image": TRAINER_IMAGE,
            "participants": ROUND["participants"],
            "timeout_s": 30,
        }
        api.world.broker.publish("operator", Message("fl/rounds/start", json.dumps(start).encode()))
        await asyncio.sleep(10)
        assert said == []
        await asyncio.sleep(20)
        if version:
            assert [(one["round_id"], "global_model_v7" in one["refused"]) for one in said] == [("r-1", True)]
            assert (await api.ask("GET", "/tasks"))[1]["total"] == 0
        else:
            await closed(api, "r-1")
            assert said[0]["tasks"] == len(ROUND["participants"])
            assert (await api.completed("r-1"))["model_version"] == 1
        listening.cancel()

    in_world(story)


def test_a_flood_of_round_messages_is_bounded():
    """Each may wait for the coordinator; beyond the bound they are dropped, and the manager serves on."""

    async def story(api: Api):
        api.world.nodes["coordinator"].crash()
        start = {"model_uri": "m", "task_wasm_image": "i", "participants": ["proplet-1"]}
        for number in range(2000):
            payload = json.dumps({**start, "round_id": f"r-{number}"}).encode()
            api.world.broker.publish("operator", Message(TOPICS.rounds_start(), payload))
        await asyncio.sleep(0)
        assert len(api.world.manager._background) <= 256
        assert (await api.ask("GET", "/proplets"))[0] == 200

    in_world(story)


def test_a_coordinator_that_does_not_answer_holds_up_nobody_elses_messages():
    """However many starts wait to join a round, a plain task is sent at once."""

    async def story(api: Api):
        async def hang(*_args):
            await asyncio.Event().wait()

        api.world.nodes["coordinator"].crash()
        await asyncio.sleep(1)
        api.world.http.register(COORDINATOR, hang)
        env = {"ROUND_ID": "r", "MODEL_URI": "fl/models/global_model_v0"}
        for number in range(1, 12):
            body = {"id": f"t-{number}", "name": "x", "image_url": TRAINER_IMAGE, "env": env}
            await api.ask("POST", "/tasks", {**body, "proplet_id": f"proplet-{number}"})
        starts = [api.ask("POST", f"/tasks/t-{number}/start") for number in range(1, 12)]
        assert await asyncio.gather(*starts) == [(200, {"started": True})] * 11
        await asyncio.sleep(30)
        await api.ask("POST", "/tasks", {"name": "x", "id": "plain", "image_url": ECHO_IMAGE})
        await api.ask("POST", "/tasks/plain/start")
        began_s = api.world.clock.now().mono_s
        assert (await api.ended("plain"))["state"] == 3
        assert api.world.clock.now().mono_s - began_s < 10

    in_world(story, proplets=12)


def test_a_round_by_the_older_applications_topics_alone():
    """A root `fl/rounds/start` launches tasks for each participant, and the round ends with a new model.

    An update that a stranger's device sends by its root topic goes on to `fml/updates`, under the name that
    its topic says; what is no JSON does not.
    """

    async def story(api: Api):
        await with_data(api)
        said: list[Message] = []

        async def hear(message: Message) -> None:
            said.append(message)

        bus = MemoryBus(api.world.broker, "watcher", random=api.world._random("watcher"))
        listening = asyncio.create_task(bus.run(BusSession(subscriptions=("fl/#", "fml/#")), hear))
        proplets = ["proplet-1", "proplet-2", "proplet-3"]
        start = {
            "round_id": "old-1",
            "model_uri": "fl/models/global_model_v0",
            "task_wasm_image": TRAINER_IMAGE,
            "participants": proplets,
            "hyperparams": {"epochs": 1, "lr": 0.1, "batch_size": 4},
            "k_of_n": 2,
            "timeout_s": 30,
        }
        api.world.broker.publish("operator", Message("fl/rounds/start", json.dumps(start).encode()))
        update = b'{"round_id":"?","proplet_id":"?","num_samples":1,"update":{"w":[1],"b":0}}'
        api.world.broker.publish("operator", Message("fl/rounds/old-1/updates/device", update))
        api.world.broker.publish("operator", Message("fl/rounds/old-1/updates/device", b"no JSON"))
        await asyncio.sleep(2)
        await closed(api, "old-1")
        heard = {
            message.topic: json.loads(message.payload) for message in said if message.payload != b"no JSON"
        }
        assert heard["fl/rounds/next"]["new_model_version"] == 1
        assert heard["fl/models/global_model_v1"]["version"] == 1
        assert heard["fl/models/publish"] == heard["fl/models/global_model_v1"]
        assert heard["fl/rounds/old-1/complete"]["num_updates"] >= 2
        (forwarded,) = [json.loads(one.payload) for one in said if one.topic == "fml/updates"]
        assert (forwarded["round_id"], forwarded["proplet_id"]) == ("old-1", "device")
        assert forwarded["update"] == {"w": [1], "b": 0}
        assert forwarded["forwarded_at"].endswith("+00:00")
        listening.cancel()

    in_world(story)
