"""Rounds in which a proplet hands files to its trainer and packs what comes back, with the real sandbox.

Services are the real ones over memory; the trainer is the shipped perceptron.
"""

import asyncio
import hashlib
import json
from random import Random

import numpy as np
import pytest
from coordinator_world import SECRET, World
from test_trainer_mlp import perceptron, rows_of

from propeller.bus.memory import MemoryBroker, MemoryBus
from propeller.clock import SystemClock
from propeller.fl.tensors import Tensors, from_safetensors, to_safetensors
from propeller.ports import GuestLimits, ImageModule
from propeller.proplet.data import LocalData
from propeller.proplet.delivery import Courier, Verdicts
from propeller.proplet.job import Supply
from propeller.proplet.model import plain
from propeller.proplet.offload import in_thread
from propeller.proplet.packing import PackOrder, at_once, in_a_process
from propeller.proplet.records import AttemptState, Held
from propeller.proplet.services import Services
from propeller.proplet.settings import ServiceUrls
from propeller.proplet.work import Bench, deliver_update, run_guest
from propeller.proplet.workspace import Workspace
from propeller.runtime.pool import WorkerPool
from propeller.wire.messages import AttemptKey, Start
from propeller.wire.topics import Topics
from trainer_builds import PERCEPTRON

URI = "fl/models/net_v0"
FILE = {"content-type": "application/vnd.safetensors"}
URLS = ServiceUrls(
    manager="http://manager",
    coordinator="http://coordinator",
    model_registry="http://registry",
    data_store="http://data",
)


class OneModule:
    """The perceptron for every reference."""

    async def fetch(self, reference):
        """Its bytes."""
        content = PERCEPTRON.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return ImageModule(reference=reference, manifest_digest=digest, digest=digest, content=content)


class Same:
    """Observes nothing."""

    def __init__(self, job):
        self.job = job

    def __enter__(self):
        return self.job

    def __exit__(self, *_):
        return None


class Device:
    """What attempts are worked on with, on this machine's real clock and threads."""

    def __init__(self, world, root, pack=at_once):
        self.world = world
        self.workspace = Workspace(root / "files")
        self.runtime = WorkerPool(root / "compiled", 1, compile_s=180)
        (root / "data.csv").write_text(_table(*rows_of(30, 6, 3)))
        services = Services(URLS, ())
        self.bench = Bench(
            supply=Supply(
                proplet_id="p1",
                http=world.http,
                images=OneModule(),
                services=services,
                data=LocalData(root / "data.csv"),
                limits=GuestLimits(),
                offload=in_thread,
                workspace=self.workspace,
                pack=pack,
            ),
            courier=Courier(
                proplet_id="p1",
                http=world.http,
                bus=MemoryBus(MemoryBroker(), "p1", random=Random(1)),  # noqa: S311 - backoff
                topics=Topics("d", "c"),
                services=services,
                verdicts=Verdicts(),
                workspace=self.workspace,
            ),
            runtime=self.runtime,
            clock=SystemClock(),
            random=Random(2),  # noqa: S311 - jitter
            offload=in_thread,
            functions=None,
            observe=lambda _key, _start, job: Same(job),
            fetched=lambda _: None,
            failed=print,
        )

    async def attempt(self, round_id="r1", number=1, **env):
        """One start, worked on to its end; what the guest's end was, and what delivering came to."""
        env = {"ROUND_ID": round_id, "MODEL_URI": URI, "HYPERPARAMS": '{"lr":0.1}', **env}
        start = Start(id="t", name="fl-round-x", image_url="x/y", run=1, attempt=number, env=env, seed=5)
        key = AttemptKey("t", 1, number)
        held = Held(key=key, state=AttemptState.RUNNING, order=1, start=start)
        made = await run_guest(held, self.bench, lambda _: None)
        if not hasattr(made, "update"):
            return made, None
        held = Held(
            key=key, state=AttemptState.RUNNING, order=1, start=start, update=made.update, form=made.form
        )
        return made, (await deliver_update(held, self.bench)).outcome


def _table(x, y):
    lines = [",".join([*(f"x{i}" for i in range(x.shape[1])), "y"])]
    lines += [",".join(map(repr, [*row.tolist(), int(label)])) for row, label in zip(x, y, strict=True)]
    return "\n".join(lines)


@pytest.fixture
def lived(tmp_path):
    """Runs a scenario with a coordinator, a 6-4-3 perceptron as `net`, and a device."""

    def run(scenario, pack=at_once):
        async def main():
            world = World(asyncio.get_running_loop(), token_secret=SECRET)
            world.clock = SystemClock()
            await world.services.seed()
            await world.start()
            model = to_safetensors(Tensors(perceptron(6, 4, 3)))
            await world.services.raw("POST", "http://registry/models?name=net", model, **FILE)
            device = Device(world, tmp_path, pack)
            try:
                await scenario(world, device)
            finally:
                await device.runtime.close()
                await world.kill()

        asyncio.run(main())

    return run


async def _register(world, round_id="r1"):
    status, answer = await world.register(round_id, ["p1"], model_ref="fl/models/net_v0")
    assert status == 201, answer


async def _made(world, version):
    ask = {"accept": "application/vnd.safetensors"}
    answer = await world.services.raw("GET", f"http://registry/models/net/versions/{version}", **ask)
    return from_safetensors(answer.body, "x")


def test_every_format_and_both_abis_make_the_same_model(lived):
    """The trainer's update by text and by files, packed in each format, lands within the format's error."""

    async def scenario(world, device):
        wanted = None
        for number, (form, abi) in enumerate(
            [
                ("", ""),
                ("", "files"),
                ("safetensors", ""),
                ("f32-delta", "files"),
                ("f16-delta", ""),
                ("int8-delta", "files"),
                ("topk-delta:1", ""),
            ],
            1,
        ):
            round_id = f"r{number}"
            await _register(world, round_id)
            made, outcome = await device.attempt(round_id, number, FL_FORMAT=form, FL_ABI=abi)
            assert outcome is not None, made
            assert not outcome.error, outcome
            assert json.loads(outcome.results)["status"] == "accepted"
            assert (await world.settle(round_id, 0.3))["completed"]
            got = await _made(world, number)
            wanted = wanted or got
            assert got.keys() == wanted.keys()
            for name, array in got.items():
                moved = np.abs(wanted[name] - perceptron(6, 4, 3)[name]).max()
                atol = 1.01 * moved / 127 if form == "int8-delta" else 1e-6 + moved / 1000
                np.testing.assert_allclose(array, wanted[name], atol=atol)
            _, shown = await world.ask("GET", f"/rounds/{round_id}")
            if made.form:
                size = device.workspace.packed(AttemptKey("t", 1, number)).stat().st_size
                assert shown["updates"][0]["bytes"] == size
            assert not device.workspace.folder(AttemptKey("t", 1, number)).exists()

    lived(scenario)


def test_what_is_packed_survives_until_it_is_forgotten(lived):
    """The file is there for another delivery, which counts once, and gone when the attempt is."""

    async def scenario(world, device):
        await _register(world)
        made, _ = await device.attempt(FL_FORMAT="int8-delta")
        key = AttemptKey("t", 1, 1)
        device.workspace.sweep([key])
        held = Held(
            key=key,
            state=AttemptState.RUNNING,
            order=1,
            update=made.update,
            form=made.form,
            start=Start(
                id="t", name="n", run=1, attempt=1, env={"ROUND_ID": "r1", "MODEL_URI": "fl/models/net_v0"}
            ),
        )
        again = await deliver_update(held, device.bench)
        assert json.loads(again.outcome.results)["status"] == "accepted"
        device.workspace.sweep([])
        assert not device.workspace.packed(key).exists()
        gone = await deliver_update(held, device.bench)
        assert "is gone" in gone.outcome.error

    lived(scenario)


def test_a_format_that_nobody_knows_fails_before_the_training(lived):
    """The task's environment is checked first: nothing is trained in vain."""

    async def scenario(world, device):
        ended, _ = await device.attempt(FL_FORMAT="zip")
        assert (ended.outcome.failure, "zip" in ended.outcome.error) == ("configuration", True)

    lived(scenario)


def test_packing_in_a_process_of_its_own(tmp_path):
    """The production packer writes what the one in this process does, and brings the trainer's mistakes."""
    (tmp_path / "base.json").write_text('{"w": [0, 0], "b": 0}')
    (tmp_path / "good.json").write_text('{"w": [1, 2], "b": 3}')
    (tmp_path / "bad.json").write_text('{"w": [1, 2, 3], "b": 3}')

    def order(update, out):
        return PackOrder(
            base=str(tmp_path / "base.json"),
            update=str(tmp_path / update),
            out=str(tmp_path / out),
            form="int8-delta",
            round_id="r",
            participant="p",
        )

    async def main():
        await in_a_process(order("good.json", "one"))
        await at_once(order("good.json", "two"))
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
        with pytest.raises(Exception, match="shape") as refused:
            await in_a_process(order("bad.json", "three"))
        assert refused.value.reason == "invalid_update"

    asyncio.run(main())


def test_a_guest_cannot_send_somebody_elses_file(lived, tmp_path):
    """A link in place of the update is no update."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "link").symlink_to(secret)
    (tmp_path / "hard").hardlink_to(secret)
    assert not plain(tmp_path / "link")
    assert not plain(tmp_path / "hard")
