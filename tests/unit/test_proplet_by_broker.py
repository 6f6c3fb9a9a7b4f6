"""Models and modules by the broker alone: pieces lost, repeated, out of order, and what is never accepted."""

import asyncio
import base64
import json
from random import Random

import numpy as np
import pytest
from proplet_fakes import in_virtual_time

from propeller.bus.memory import MemoryBroker, MemoryBus
from propeller.errors import BadInput, PeerRefused, PeerUnavailable
from propeller.fl.tensors import Tensors, content_hash, to_safetensors
from propeller.ports import BusSession, Message
from propeller.proplet.arrays import hash_safetensors
from propeller.proplet.by_broker import ByBroker
from propeller.proplet.ear import Ear
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.offload import at_once
from propeller.proplet.pieces import BrokerImages
from propeller.proplet.services import Patience
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.telemetry.logs import logger
from propeller.wire.topics import Topics

T = Topics("d", "c")
URI = "fl/models/big_v3"
MODEL = Tensors(
    {"w": np.arange(5000, dtype=np.float32), "b": np.zeros((2, 3), np.float64), "i": np.int8([1])}
)
FILE = to_safetensors(MODEL)
PIECE = 1000
MANIFEST = {
    "model_uri": URI,
    "version": 3,
    "sha256": content_hash(MODEL),
    "bytes": len(FILE),
    "chunk_bytes": PIECE,
    "chunks": -(-len(FILE) // PIECE),
    "format": "safetensors",
}


class Site:
    """A proplet's ear, and on the other side whoever answers: `answer` gets each wish."""

    def __init__(self, clock, answer):
        self.broker, self.clock, self.answer, self.wishes = MemoryBroker(), clock, answer, []
        self.theirs = MemoryBus(self.broker, "them", random=Random(1))  # noqa: S311 - backoff
        self.ours = MemoryBus(self.broker, "p", random=Random(2))  # noqa: S311 - backoff
        self.ear = Ear(self.ours, T)
        self.fetch = ByBroker(bus=self.ours, topics=T, ear=self.ear, offload=at_once, clock=clock)
        self.images = BrokerImages(self.ours, T, self.ear, MemoryBlobs(), logger())

    async def __aenter__(self):
        wishes = BusSession(subscriptions=(T.model_wishes(), T.image_wishes()))
        self.tasks = [
            asyncio.create_task(self.theirs.run(wishes, self._wished)),
            asyncio.create_task(self.ours.run(BusSession(subscriptions=()), self._hear)),
        ]
        await asyncio.sleep(1)
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _hear(self, message):
        assert self.ear.hear(message)

    async def _wished(self, message):
        wish = json.loads(message.payload)
        self.wishes.append(wish)
        await self.answer(self, wish)

    async def say(self, topic, payload, *, retain=False):
        """Publish, as JSON unless it is bytes."""
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        await self.theirs.publish(Message(topic, raw, retain))

    def patience(self, seconds=60.0):
        """Until then."""
        return Patience(self.clock, Random(3), self.clock.now().mono_s + seconds)  # noqa: S311 - jitter

    async def model(self, folder=None, **more):
        """The model, by its URI."""
        return await self.fetch.model(URI, self.patience(), folder and (lambda: folder), **more)


def lived(scenario, answer=None):
    """What `scenario(site)` returns, in virtual time."""

    async def silent(_site, _wish):
        return

    async def main(clock):
        async with Site(clock, answer or silent) as site:
            return await scenario(site)

    return in_virtual_time(main)


async def every_piece(site, wish):
    """Answers as the coordinator does."""
    if wish["chunk"] is None:
        await site.say(T.model_manifest(URI) if wish["as_file"] else T.model(URI), MANIFEST)
    else:
        begin = wish["chunk"] * PIECE
        await site.say(T.model_chunk(URI, wish["chunk"]), FILE[begin : begin + PIECE])


def test_a_small_model_is_what_is_retained():
    """Its JSON, text as it is; nobody is asked for anything."""

    async def scenario(site):
        await site.say(T.model(URI), b'{"w": [1.50], "version": 3}', retain=True)
        assert await site.model() == '{"w": [1.50], "version": 3}'
        assert site.wishes == []
        await site.say(T.model(URI), b"late", retain=True)  # nobody waits, nothing happens

    lived(scenario)


@pytest.mark.parametrize("retained", [True, False])
def test_a_large_model_is_collected_into_a_file(tmp_path, retained):
    """By the retained manifest, or by one that is wished for: bit by bit the file."""

    async def scenario(site):
        if retained:
            await site.say(T.model(URI), MANIFEST, retain=True)
        path = await site.model(tmp_path)
        assert path.read_bytes() == FILE
        numbers = [wish["chunk"] for wish in site.wishes if wish["chunk"] is not None]
        assert numbers == list(range(MANIFEST["chunks"])), "each piece is wished for once"

    lived(scenario, every_piece)


def test_a_small_model_can_be_had_as_a_file(tmp_path):
    """What packs its update needs the model's types, which text does not carry."""

    async def scenario(site):
        await site.say(T.model(URI), b'{"w": [1.50], "version": 3}', retain=True)
        assert (await site.model(tmp_path, as_file=True)).read_bytes() == FILE

    lived(scenario, every_piece)


def test_pieces_may_be_lost_repeated_and_out_of_order(tmp_path):
    """In a broker that loses a third and delays the rest, the file comes whole."""
    draw = Random(4)  # noqa: S311 - the weather of a test

    async def scenario(site):
        site.broker.decide = lambda _: [draw.uniform(0, 3) for _ in range(draw.choice((0, 1, 2)))]
        return (await site.model(tmp_path)).read_bytes() == FILE

    assert lived(scenario, every_piece)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sha256": "0" * 64}, "not what it should be"),
        ({"chunks": 3}, "manifest"),
        ({"chunk_bytes": 0}, "manifest"),
        ({"bytes": 1 << 60, "chunks": 1 << 60, "chunk_bytes": 1}, "manifest"),
        ({"chunk_bytes": 1001, "chunks": -(-len(FILE) // 1001)}, "not whole"),
    ],
)
def test_what_is_not_the_model_is_refused(tmp_path, changes, says):
    """A manifest that does not fit itself, pieces that do not fit it, and a whole that is another."""

    async def scenario(site):
        await site.say(T.model(URI), MANIFEST | changes, retain=True)
        with pytest.raises(AttemptFailed, match=says) as caught:
            await site.model(tmp_path)
        assert caught.value.kind == "model"

    lived(scenario, every_piece)


def test_a_model_that_nobody_has_is_given_up_with_the_topic(tmp_path):
    """After the patience of an attempt, whether nothing came or only a part."""

    async def half(site, wish):
        if (wish["chunk"] or 0) < 5:
            await every_piece(site, wish)

    async def scenario(site):
        with pytest.raises(AttemptFailed, match=f"nobody shows {URI} on m/d/c/c/{URI}"):
            await site.model(tmp_path)
        site.answer = half
        with pytest.raises(AttemptFailed, match=r"pieces of .* never came"):
            await site.model(tmp_path)

    lived(scenario)


def test_the_hash_of_a_file_is_the_registrys(tmp_path):
    """Computed without numpy, of every type; what is no such file is bad input."""
    path = tmp_path / "model.safetensors"
    codes = ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1")
    every = Tensors({f"t/{code[1:]}": np.arange(6).reshape(2, 3).astype(code) for code in codes})
    for model in (MODEL, every, Tensors({"s": np.array(2.0)})):
        path.write_bytes(to_safetensors(model))
        assert hash_safetensors(path) == content_hash(model)
    for rubbish in (b"", b"\xff" * 20, FILE[:40], b"\2\0\0\0\0\0\0\0{}"[:9]):
        path.write_bytes(rubbish)
        with pytest.raises(BadInput):
            hash_safetensors(path)


MODULE = bytes(range(256)) * 20


def image_pieces(name, content=MODULE, size=1000):
    """A module as the manager sends it."""
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return [
        {
            "app_name": name,
            "chunk_idx": number,
            "total_chunks": len(parts),
            "data": base64.b64encode(part).decode(),
        }
        for number, part in enumerate(parts)
    ]


async def whole_module(site, wish):
    """Backwards, twice, with another's pieces and a cut of another manager's in between."""
    for piece in [
        *image_pieces("other"),
        image_pieces(wish["app_name"], size=700)[0],
        *reversed(image_pieces(wish["app_name"])),
        *image_pieces(wish["app_name"]),
    ]:
        await site.say(T.image_chunks(), piece)
        await asyncio.sleep(0.01)


def test_a_module_comes_in_any_order():
    """Only its own pieces count; a pinned image is fetched once, one of a tag each time."""

    async def scenario(site):
        assert (await site.images.fetch("http://m/files/1")).content == MODULE
        pinned = f"r:5000/a@sha256:{'0' * 64}"
        for name, asked in ((pinned, 2), (pinned, 2), ("r:5000/a:latest", 3), ("r:5000/a:latest", 4)):
            await asyncio.sleep(1)
            assert (await site.images.fetch(name)).content == MODULE
            assert len(site.wishes) == asked, name

    lived(scenario, whole_module)


def test_why_there_is_no_module_is_passed_on():
    """A reason of the manager ends it; one that passes, and silence, may be tried again."""

    async def no(site, wish):
        failure = {"gone": "unknown_image", "later": "peer_unavailable"}[wish["app_name"]]
        await site.say(
            T.image_chunks(), {"app_name": wish["app_name"], "error": "because", "failure": failure}
        )

    async def scenario(site):
        with pytest.raises(PeerRefused, match="because"):
            await site.images.fetch("gone")
        with pytest.raises(PeerUnavailable, match="because"):
            await site.images.fetch("later")
        site.broker.disconnect("them")
        site.tasks[0].cancel()
        with pytest.raises(PeerUnavailable, match="sends no module"):
            await site.images.fetch("gone")

    lived(scenario, no)
