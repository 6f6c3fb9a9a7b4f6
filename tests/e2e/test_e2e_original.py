"""The whole system with the original's clients and devices alone: its SDK, and a round on its devices."""

import asyncio
import json
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from walk_system import IMAGE as PUSHED
from walk_system import TRAINER, System, started

from original_peers import Device, Sdk, beating

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
IMAGE = "http://198.51.100.1/train.wasm"
BEAT_S = 5.0


class Site:
    """A system without a proplet of ours, and two identities for devices of the original."""

    def __init__(self, system: System, directory: Path) -> None:
        self.system = system
        keys = directory / "devices.toml"
        system.cli(
            "provision", "--data-dir", str(system.data), "add-proplets", "2", "--legacy", "-f", str(keys)
        )
        with keys.open("rb") as text:
            self.sections = [one for name, one in tomllib.load(text).items() if name.startswith("proplet")]

    def device(self, kind: str, index: int) -> Device:
        """A device with that identity."""
        me = self.sections[index]
        base = f"m/{me['domain_id']}/c/{me['channel_id']}"
        address = ("localhost", self.system.ports["mqtt"])
        return Device(kind, address, me["client_id"], me["client_key"], base)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Everything but proplets."""
    directory = tmp_path_factory.mktemp("original")
    with started(directory / "data", proplets=0) as system:
        yield Site(system, directory)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that nobody of ours wrote."""
    async with aiohttp.ClientSession() as session:
        yield session


async def test_every_call_of_the_sdk_is_answered_as_it_decodes(
    site: Site, http: aiohttp.ClientSession
) -> None:
    """Status and types of each answer, a device of the original behind them (defects 4.1, 4.12, 4.13)."""
    sdk = Sdk(site.system.url("manager"), http)
    rust, trainer = site.device("rust_proplet", 0), site.device("rust_proplet", 1)
    await rust.switch_on()
    async with beating(rust, BEAT_S):
        await _until(sdk, rust.me)
        assert (await sdk.call("GetHealth"))["status"] == "pass"
        await _tasks(sdk, rust)
        await _calls(sdk, rust)
        await _flows(sdk, rust)
    await trainer.switch_on()
    await _until(sdk, trainer.me)
    await _rounds(sdk, rust, trainer)
    await trainer.leave()
    await rust.leave()
    assert not sdk.untried - {"DeleteProplet"}


async def _until(sdk: Sdk, me: str) -> None:
    await sdk.until("ListProplets", lambda page: me in [one["id"] for one in page["proplets"]])


async def _tasks(sdk: Sdk, rust: Device) -> None:
    task = (await sdk.call("CreateTask"))["id"]
    assert (await sdk.call("UpdateTask", task=task))["priority"] == 90
    assert (await sdk.call("GetTask", task=task))["name"] == "add"
    await sdk.call("CreateTask")
    page = await sdk.call("ListTasksOfTeam")
    assert [one["id"] for one in page["tasks"]] == [task]
    await sdk.call("ListTasks")
    assert (await sdk.call("GetTaskResults", task=task))["results"] is None
    await sdk.call("StartTask", task=task)
    await rust.takes("B/control/manager/start")
    await rust.say("metrics")
    await rust.say("task_metrics", task=task)
    await rust.say("result", task=task, result="42")
    await sdk.until("GetTaskResults", lambda said: said["results"] == "42", task=task)
    await sdk.until("GetTaskMetrics", lambda page: page["metrics"], task=task)
    await sdk.until("GetPropletMetrics", lambda page: page["metrics"], proplet=rust.me)
    assert (await sdk.call("GetTask", task=task))["state"] == 3
    await sdk.call("UploadTaskFile", task=task, upload=b"\0asm\x01\0\0\0")
    await sdk.call("GetProplet", proplet=rust.me)
    await sdk.call("GetPropletAliveHistory", proplet=rust.me)
    await sdk.call("GetPropletSDF", proplet=rust.me)
    await sdk.call("DeleteTask", task=task)


async def _calls(sdk: Sdk, rust: Device) -> None:
    task = (await sdk.call("CreateLatentTask"))["id"]
    await sdk.call("StartTask", task=task)
    await rust.takes("B/control/manager/start")
    for name in ("InvokeTask", "InvokeTaskPlain"):
        asked = asyncio.create_task(sdk.call(name, task=task))
        call = await rust.takes("B/control/manager/invoke")
        await rust.say("invoke_result", task=task, call=call["invocation_id"], result="3")
        assert (await asked)["results"] == "3"
    await sdk.call("StopTask", task=task)
    await rust.takes("B/control/manager/stop")
    await rust.say("failure", task=task)


async def _flows(sdk: Sdk, rust: Device) -> None:
    job = (await sdk.call("CreateJob"))["job_id"]
    assert job in [one["job_id"] for one in (await sdk.call("ListJobs"))["jobs"]]
    await sdk.call("StartJob", job=job)
    task = (await rust.takes("B/control/manager/start"))["id"]
    await sdk.call("GetJob", job=job)
    await sdk.call("StopJob", job=job)
    await rust.takes("B/control/manager/stop")
    await rust.say("failure", task=task)
    first, second = (await sdk.call("CreateWorkflow"))["tasks"]
    await sdk.call("StartTask", task=first["id"])
    await rust.takes("B/control/manager/start")
    await rust.say("result", task=first["id"], result="1")
    start = await rust.takes("B/control/manager/start")
    assert start["id"] == second["id"]
    assert start["parent_results"] == {first["id"]: "1"}
    await rust.say("result", task=second["id"], result="2")


async def _completed(sdk: Sdk, round_id: str) -> dict:
    said = await sdk.until("GetRoundStatus", lambda said: said["status"]["completed"], round=round_id)
    return said["status"]


async def _rounds(sdk: Sdk, *devices: Device) -> None:
    participants = [one.me for one in devices]
    configured = await sdk.call("ConfigureExperiment", round="sdk-1", participants=participants, image=IMAGE)
    assert configured["status"] == "configured"
    task = (await sdk.call("GetFLTask", round="sdk-1", proplet=participants[0]))["task"]
    assert task["hyperparams"] == {"epochs": 1, "lr": 0.01, "batch_size": 16}
    begun = [await _start_for(device) for device in devices]
    await sdk.call("PostFLUpdate", round="sdk-1", proplet=participants[0])
    await sdk.call("PostFLUpdateCBOR", round="sdk-1", proplet=participants[1])
    status = await _completed(sdk, "sdk-1")
    assert (status["num_updates"], status["k_of_n"]) == (2, 2)
    for device, start in zip(devices, begun, strict=True):
        await device.say("round_result", task=start["id"], round="sdk-1", result="e30=")
        await sdk.until("GetTask", lambda task: task["state"] == 3, task=start["id"])


async def test_a_round_on_devices_of_the_original(site: Site, http: aiohttp.ClientSession) -> None:
    """One posts its update over HTTP, one by MQTT alone (4.13); the image comes in chunks (defect 4.20)."""
    system = site.system
    rust, board = site.device("rust_proplet", 0), site.device("embedded_proplet", 1)
    for device in (rust, board):
        await device.switch_on()
    sdk = Sdk(system.url("manager"), http)
    names = [rust.me, board.me]
    for me in names:
        await _until(sdk, me)
    system.push()
    await sdk.call("ConfigureExperiment", round="old-1", participants=names, image=PUSHED)
    begun = {device.me: await _start_for(device) for device in (rust, board)}
    env = begun[rust.me]["env"]
    assert env["ROUND_ID"] == "old-1"
    assert json.loads(env["HYPERPARAMS"])["lr"] == 0.01
    assert await rust.image(begun[rust.me]["image_url"]) == TRAINER.read_bytes()
    async with http.get(f"{env['MODEL_REGISTRY_URL']}/models/0") as answer:
        assert set(await answer.json()) >= {"w", "b"}
    update = {
        "round_id": "old-1",
        "proplet_id": rust.me,
        "base_model_uri": env["MODEL_URI"],
        "num_samples": 64,
        "metrics": {"loss": 0.6},
        "update": {"w": [0.1, 0.2, 0.3], "b": 0.5},
    }
    async with http.post(f"{env['MANAGER_COORDINATOR_URL']}/update", json=update) as answer:
        assert (answer.status, (await answer.json())["status"]) == (200, "accepted")
    await rust.say("round_result", task=begun[rust.me]["id"], round="old-1", result="e30=")
    await board.say("round_update", round="old-1")
    version = (await _completed(sdk, "old-1"))["model_version"]
    model = (await asyncio.to_thread(system.get, "model-registry", f"/models/{version}")).body
    assert [round(value, 9) for value in (*model["w"], model["b"])] == [0.2, 0.2, 0.2, 1.0]
    ended = [await asyncio.to_thread(system.ended, begun[me]["id"]) for me in names]
    assert [one["state"] for one in ended] == [3, 3]
    assert ended[0]["results"]["update_b64"] == "e30="
    for device in (rust, board):
        await device.leave()


async def _start_for(device: Device) -> dict:
    """The start that names this device; the others on the shared topic are not its business."""
    while True:
        start = await device.takes("B/control/manager/start")
        if start.get("proplet_id") == device.me:
            return start
