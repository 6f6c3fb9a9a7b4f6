"""The original's sample application, by hand: a client with nothing but MQTT starts rounds and hears of them.

The client is a plain MQTT one with the operator's credentials of the env file, as another program would be.
"""

import asyncio
import contextlib
import json
import tomllib
from collections.abc import AsyncIterator, Iterator

import aiomqtt
import pytest
from walk_system import IMAGE, System, need, started

from original_peers import Device

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
WAIT_S = 60.0


class Trigger:
    """The external application: publishes what starts a round, and remembers all that it hears."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._said: dict[str, list[dict]] = {}
        self._news = asyncio.Condition()

    async def listen(self) -> None:
        """Hear until cancelled."""
        async for message in self._client.messages:
            with contextlib.suppress(ValueError):
                async with self._news:
                    self._said.setdefault(str(message.topic), []).append(json.loads(message.payload))
                    self._news.notify_all()

    async def start(self, topic: str, **fields) -> None:
        """Publish `rounds/start`."""
        await self._client.publish(topic, json.dumps(fields), qos=1)

    async def hears(self, topic: str, **wanted) -> dict:
        """The first message said on that topic that has these fields."""
        async with asyncio.timeout(WAIT_S), self._news:
            while True:
                for body in self._said.get(topic, []):
                    if wanted.items() <= body.items():
                        return body
                await self._news.wait()


@contextlib.asynccontextmanager
async def connected(system: System, name: str, *topics: str) -> AsyncIterator[Trigger]:
    """A client of that name that has subscribed to these topics."""
    env = system.env
    client = aiomqtt.Client(
        env["MQTT_HOST"],
        int(env["MQTT_PORT"]),
        identifier=name,
        username=env["MQTT_USERNAME"],
        password=env["MQTT_PASSWORD"],
        protocol=aiomqtt.ProtocolVersion.V311,
    )
    async with client:
        trigger = Trigger(client)
        for topic in topics:
            await client.subscribe(topic, qos=1)
        listening = asyncio.create_task(trigger.listen())
        try:
            yield trigger
        finally:
            listening.cancel()
            await asyncio.wait([listening])


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def system(request, tmp_path_factory) -> Iterator[System]:
    """`propeller up --proplets 2`, once per broker, with the trainer in its registry."""
    if request.param == "mosquitto":
        need("mosquitto", "mosquitto")
    with started(
        tmp_path_factory.mktemp("trigger") / "data", "--broker", request.param, proplets=2
    ) as running:
        running.push()
        yield running


def base(system: System) -> str:
    """`B` of this system."""
    return f"m/{system.env['DOMAIN_ID']}/c/{system.env['CHANNEL_ID']}"


def told(round_id: str, version: int, participants: list[str], **more) -> dict:
    """What the sample application publishes."""
    return {
        "round_id": round_id,
        "model_uri": f"fl/models/global_model_v{version}",
        "task_wasm_image": IMAGE,
        "participants": participants,
        "hyperparams": {"epochs": 1, "lr": 0.01, "batch_size": 16},
        "k_of_n": len(participants),
        "timeout_s": 60,
        **more,
    }


async def test_rounds_are_started_by_message_and_each_from_the_model_that_the_last_one_made(system):
    """From the trigger, root or below `B`, to the retained next model, and `complete` and `next` in both.

    Said again, a start begins nothing; whoever comes later finds the model on its topic.
    """
    b, proplets = base(system), system.proplets
    async with connected(system, "application", "fl/#", f"{b}/fl/#") as trigger:
        version = 0
        for round_id, spelled in (("t-1", "fl"), ("t-2", f"{b}/fl")):
            body = told(round_id, version, proplets)
            for _ in range(2):
                await trigger.start(f"{spelled}/rounds/start", **body)
            for prefix in ("fl", f"{b}/fl"):
                done = await trigger.hears(f"{prefix}/rounds/{round_id}/complete")
                assert (done["state"], done["num_updates"]) == ("completed", 2), done
                following = await trigger.hears(f"{prefix}/rounds/next", round_id=round_id)
                made = await trigger.hears(f"{prefix}/models/global_model_v{version + 1}")
                assert await trigger.hears(f"{prefix}/models/publish", version=version + 1) == made
            assert following["model_uri"] == f"fl/models/global_model_v{version + 1}"
            version = following["new_model_version"]
            tasks = (await asyncio.to_thread(system.get, "manager", "/tasks")).body["tasks"]
            names = sorted(one["name"] for one in tasks if f"-{round_id}-" in one["name"])
            assert names == sorted(f"fl-round-{round_id}-{one}" for one in proplets)
    stored = (await asyncio.to_thread(system.get, "model-registry", f"/models/{version}")).body
    info = await asyncio.to_thread(
        system.get, "model-registry", f"/models/global_model/versions/{version}/info"
    )
    assert (info.body["parent"], info.body["participants"]) == (1, sorted(proplets))
    for prefix in ("fl", f"{b}/fl"):
        topic = f"{prefix}/models/global_model_v{version}"
        async with connected(system, "latecomer", topic) as latecomer:
            retained = await latecomer.hears(topic)
            assert {"w": retained["w"], "b": retained["b"]} == stored


async def switched_on(board: Device) -> None:
    """Switch it on once the broker knows it: Mosquitto reads new credentials a moment after they came."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await board.switch_on()
            except aiomqtt.MqttError:
                await asyncio.sleep(0.1)


async def test_a_device_of_the_original_takes_part_by_the_root_topics_alone(system, tmp_path):
    """The model comes retained, the update goes out on its root topic and on to `fml/updates`, and counts."""
    b, keys = base(system), tmp_path / "devices.toml"
    provision = (
        "provision",
        "--data-dir",
        str(system.data),
        "add-proplets",
        "1",
        "--legacy",
        "-f",
        str(keys),
    )
    await asyncio.to_thread(system.cli, *provision)
    (me,) = [one for name, one in tomllib.loads(keys.read_text()).items() if name.startswith("proplet")]
    address = ("localhost", system.ports["mqtt"])
    board = Device("embedded_proplet", address, me["client_id"], me["client_key"], b)
    await switched_on(board)
    async with connected(system, "application", "fl/#", "fml/updates") as trigger:
        await trigger.hears("fl/models/global_model_v0")
        participants = [board.me, system.proplets[0]]
        await trigger.start("fl/rounds/start", **told("t-board", 0, participants))
        while (await board.takes("B/control/manager/start"))["proplet_id"] != board.me:
            pass
        await board.say("round_update", round="t-board")
        forwarded = await trigger.hears("fml/updates", round_id="t-board")
        assert (forwarded["proplet_id"], forwarded["update"]["b"]) == (board.me, 1.5)
        done = await trigger.hears("fl/rounds/t-board/complete")
    assert (done["num_updates"], done["contributors"]) == (2, sorted(participants)), done
    await board.leave()


async def test_what_cannot_start_is_refused_on_the_rounds_own_topic(system):
    """A participant that nobody knows: its name is in the reason, and no task is left behind."""
    topic = f"{base(system)}/fl/rounds/t-nobody/launched"
    async with connected(system, "application", topic) as trigger:
        await trigger.start("fl/rounds/start", **told("t-nobody", 0, [system.proplets[0], "nobody"]))
        assert "participant nobody is not" in (await trigger.hears(topic))["refused"]
    tasks = (await asyncio.to_thread(system.get, "manager", "/tasks")).body["tasks"]
    assert not [one for one in tasks if "t-nobody" in one["name"]]
