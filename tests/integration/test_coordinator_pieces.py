"""Updates that come by MQTT in pieces: in any order, more than once, over deaths, and beside HTTP."""

import asyncio
import hashlib
import json
import random

import numpy as np
import pytest
from coordinator_world import TOPICS, run, update
from test_coordinator_large import SIZE, lived, made, register, send

from propeller import limits
from propeller.fl.tensors import Tensors, to_safetensors
from propeller.ports import Message

PIECE = 100_000


def model(value):
    """A model that is nowhere the same, `value` above another."""
    return Tensors({"w": np.arange(SIZE, dtype="f4") + np.float32(value), "b": np.array([value], "f4")})


def mean(*values):
    """What the coordinator makes of such models."""
    return model(sum(values) / len(values))


class Device:
    """Sends one update as a proplet does that has only the broker."""

    def __init__(self, world, participant, content, *, round_id="r1", piece=PIECE, **said):
        self.world, self.content, self.piece = world, content, piece
        self.manifest_topic = TOPICS.round_manifest(round_id, participant)
        self.pieces_topic = TOPICS.round_pieces(round_id, participant)
        self.verdict_topic = TOPICS.round_verdict(round_id, participant)
        self.pieces = [content[at : at + piece] for at in range(0, len(content), piece)]
        self.manifest = {
            "bytes": len(content),
            "piece_bytes": piece,
            "sha256": [hashlib.sha256(one).hexdigest() for one in self.pieces],
            "num_samples": 10,
            **said,
        }

    async def announce(self, **changes):
        """The verdict on the manifest."""
        return await self._said(self.manifest_topic, json.dumps(self.manifest | changes).encode())

    async def send(self, place):
        """The verdict that follows a piece, or None."""
        return await self._said(self.pieces_topic, self.pieces[place])

    async def _said(self, topic, payload):
        before = len(self.world.heard(self.verdict_topic))
        assert await self.world.bus.publish(Message(topic, payload))
        await asyncio.sleep(0.1)
        heard = self.world.heard(self.verdict_topic)[before:]
        return {"wanted": [], **heard[-1]} if heard else None

    async def deliver(self, verdict=None):
        """Everything that is wanted until there is a verdict; how many pieces that took."""
        verdict, sent = verdict or await self.announce(), 0
        while verdict["status"] == 202:
            heard = [await self.send(place) for place in verdict["wanted"]]
            sent += len(heard)
            verdict = heard[-1]
        return verdict["status"], sent


def test_an_update_in_pieces_counts_as_any_other(tmp_path):
    """A file whose pieces are asked for a few at a time; afterwards no piece is left."""

    async def scenario(world):
        await register(world)
        device = Device(world, "p1", to_safetensors(model(1)), format="safetensors")
        assert (await device.announce())["wanted"] == [0, 1, 2, 3]
        assert await device.deliver() == (200, len(device.pieces))
        assert (await send(world, "p2", model(3)))[0] == 200
        assert (await world.settle())["model_version"] == 1
        assert await made(world, 1) == mean(1, 3)
        assert await world.pieces.digests() == []

    lived(scenario, tmp_path)


def test_order_and_repetition_of_pieces_do_not_matter(tmp_path):
    """Strangers' pieces, pieces before the manifest, backwards and twice: each counts once."""

    async def scenario(world):
        await register(world)
        device = Device(world, "p1", to_safetensors(model(1)), format="safetensors")
        stranger = Device(world, "p2", b"x" * PIECE)
        assert await device.send(0) is None
        assert await stranger.send(0) is None
        places = list(range(len(device.pieces))) * 2
        random.Random(1).shuffle(places)  # noqa: S311 - it must repeat
        await device.announce()
        assert await world.pieces.digests() == []
        for place in places:
            await device.send(place)
        assert await device.deliver() == (200, 0), "who missed the verdict hears it again"
        assert await world.pieces.digests() == []
        assert (await world.ask("GET", "/rounds/r1"))[1]["num_updates"] == 1

    lived(scenario, tmp_path)


def test_who_is_killed_in_the_middle_goes_on_where_it_was(tmp_path):
    """A coordinator that comes back has every piece that it had; only the others are wanted."""

    async def scenario(world):
        await register(world)
        device = Device(world, "p1", to_safetensors(model(1)), format="safetensors")
        wanted = (await device.announce())["wanted"]
        for place in wanted:
            await device.send(place)
        await world.kill()
        await world.start()
        await asyncio.sleep(1)
        verdict = await device.announce()
        assert verdict["wanted"] == [4, 5, 6, 7]
        assert await device.deliver(verdict) == (200, len(device.pieces) - len(wanted))

    lived(scenario, tmp_path)


def test_an_update_that_comes_both_ways_counts_once(tmp_path):
    """First by HTTP, then in pieces, and the other way round; another content is refused."""

    async def scenario(world):
        await register(world)
        for participant in ("p1", "p2"):
            device = Device(world, participant, to_safetensors(model(1)), format="safetensors")
            if participant == "p1":
                assert (await send(world, "p1", model(1)))[1] == {"status": "accepted"}
                assert (await device.deliver())[0] == 200
            else:
                other = Device(world, "p1", to_safetensors(model(2)), format="safetensors")
                assert (await other.deliver())[0] == 409
                assert (await device.deliver())[0] == 200
                assert (await send(world, "p2", model(1)))[1] == {"status": "accepted", "duplicate": True}
        done = await world.settle()
        assert (done["num_updates"], done["model_version"]) == (2, 1)
        assert (await device.deliver())[0] == 200, "the same again is no mistake, even after the end"
        assert await world.pieces.digests() == []

    lived(scenario, tmp_path)


def test_equal_pieces_are_sent_once(tmp_path):
    """An update of zeros is one piece many times over, and a shorter last one."""

    async def scenario(world):
        await register(world)
        zeros = Tensors({"w": np.zeros(SIZE, "f4"), "b": np.zeros(1, "f4")})
        assert await Device(world, "p1", to_safetensors(zeros), format="safetensors").deliver() == (200, 3)

    lived(scenario, tmp_path)


def test_json_in_pieces():
    """An update of numbers as text, in pieces of a few bytes."""

    async def scenario(world):
        await world.register(participants=["p1"])
        device = Device(world, "p1", json.dumps(update("p1", 3)).encode(), piece=50)
        assert (await device.deliver())[0] == 200
        assert (await world.settle())["model_version"] == 1

    run(scenario)


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"piece_bytes": 0}, 400, "bad_input"),
        ({"piece_bytes": limits.MQTT_MESSAGE_BYTES_MAX + 1}, 400, "bad_input"),
        ({"bytes": 1}, 400, "bad_manifest"),
        ({"sha256": []}, 400, "bad_manifest"),
        ({"sha256": ["x" * 64] * 3}, 400, "undecodable"),
        ({"sha256": "no list"}, 400, "undecodable"),
        ({"format": "f99"}, 400, "bad_update_format"),
        ({"bytes": 10**9, "piece_bytes": 10**6, "sha256": ["0" * 64] * 1000}, 413, "too_large"),
    ],
)
def test_what_is_no_manifest_is_refused_before_anything_is_sent(changes, status, reason):
    """With HTTP's status and the reason, and no piece is wanted."""

    async def scenario(world):
        await world.register(participants=["p1"])
        device = Device(world, "p1", b"x" * 150, piece=50)
        verdict = await device.announce(**changes)
        assert (verdict["status"], verdict["reason"], verdict["wanted"]) == (status, reason, [])

    run(scenario)


def test_who_may_not_send_hears_so_at_the_manifest():
    """Strangers, unknown rounds and rounds that are over; nothing is stored for any of them."""

    async def scenario(world):
        await world.register(participants=["p1"])
        cases = [("p9", "r1", 403), ("p1", "r9", 404)]
        assert (await world.submit("p1"))[0] == 200
        await world.settle()
        await world.register("r2", participants=["p1", "p2"], timeout_s=5, k_of_n=1)
        assert (await world.submit("p1", round_id="r2"))[0] == 200
        await world.settle("r2")
        cases.append(("p2", "r2", 409))
        for participant, round_id, status in cases:
            device = Device(world, participant, b"x" * 150, piece=50, round_id=round_id)
            assert (await device.announce())["status"] == status, (participant, round_id)
            await device.send(0)
        assert await world.pieces.digests() == []

    run(scenario)


def test_pieces_that_make_no_update_are_refused_and_forgotten():
    """The whole is read like any other update: rubbish is 400; a wrong sum of sizes too."""

    async def scenario(world):
        await world.register(participants=["p1"])
        assert (await Device(world, "p1", b"x" * 150, piece=50).deliver())[0] == 400
        short = Device(world, "p1", json.dumps(update("p1", 3)).encode(), piece=50)
        short.manifest["bytes"] -= 1
        assert (await short.deliver())[0] == 400
        assert await world.pieces.digests() == []
        assert (await world.ask("GET", "/rounds/r1"))[1]["num_updates"] == 0

    run(scenario)


def test_many_at_once_have_a_bound_and_the_forgotten_leave_nothing():
    """Over the bound of pieces on their way: 503, announce again. What nobody goes on with is swept."""

    async def scenario(world):
        names = [f"p{number}" for number in range(6)]
        await world.register(participants=names, timeout_s=100)
        devices = [Device(world, name, json.dumps(update(name, 3)).encode(), piece=30) for name in names]
        verdicts = [await device.announce() for device in devices]
        assert [len(one["wanted"]) for one in verdicts] == [4, 4, 4, 4, 0, 0]
        assert [one["status"] for one in verdicts[4:]] == [503, 503]
        await devices[0].send(0)
        assert len(await world.pieces.digests()) == 1
        await asyncio.sleep(limits.UPDATE_PIECES_WAIT_S + 1)
        assert (await devices[4].deliver())[0] == 200
        await asyncio.sleep(2 * limits.UPDATE_PIECES_SWEEP_S + 1)
        assert await world.pieces.digests() == [], "their round has ended"

    run(scenario)
