"""The embedded broker against clients that misbehave, and over its own restarts."""

import asyncio
import contextlib
import gc
import itertools
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from propeller import limits
from propeller.broker.connect import Connect, Will
from propeller.broker.credentials import CredentialStore
from propeller.broker.embedded import EmbeddedBroker
from propeller.broker.principals import Kind
from propeller.bus.mqtt import MqttBus
from propeller.errors import PortInUse, StorageBroken
from propeller.ports import BusSession, Message
from propeller.wire.packets import encode_length, encode_publish, encode_text
from propeller.wire.topics import Topics

T = Topics("dom", "ch")
RESULTS = T.from_proplet("results", "p1")
CONNACK_OK = b"\x20\x02\0\0"
DEADLINE_S = 10.0


class Site:
    """A broker, its keys, and whoever is connected to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = CredentialStore.create(directory / "credentials", T.domain, T.channel)
        self.keys = {
            name: self.store.add(kind, name)
            for name, kind in {
                "m1": Kind.MANAGER,
                "c1": Kind.COORDINATOR,
                "p1": Kind.PROPLET,
                "p2": Kind.PROPLET,
                "o1": Kind.OPERATOR,
            }.items()
        }
        self.broker = self.new_broker()

    def new_broker(self, port: int = 0) -> EmbeddedBroker:
        """A broker over these credentials, with a data directory."""
        return EmbeddedBroker(self.store, port=port, data_dir=self.directory / "broker")

    def connect(
        self, name: str, *, keep_alive_s: int = 60, will: Will | None = None, clean: bool = True
    ) -> bytes:
        """A CONNECT packet as `name`."""
        return Connect(
            client_id=name,
            clean=clean,
            keep_alive_s=keep_alive_s,
            will=will,
            username=name,
            password=self.keys[name],
        ).encode()


class Raw:
    """A client that sends what bytes it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def dial(cls, site: Site, hello: bytes = b"") -> "Raw":
        """Open a connection and send `hello`."""
        raw = cls(*await asyncio.open_connection("127.0.0.1", site.broker.port))
        raw.writer.write(hello)
        return raw

    @classmethod
    async def enter(cls, site: Site, name: str, **details: object) -> "Raw":
        """Connect as `name` and read the CONNACK."""
        raw = await cls.dial(site, site.connect(name, **details))  # type: ignore[arg-type]
        assert await raw.take(4) == CONNACK_OK
        return raw

    async def take(self, count: int) -> bytes:
        """Exactly that many bytes."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(count)

    async def ended(self) -> bytes:
        """What came until the broker closed the connection."""
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
        return b""

    async def close(self) -> None:
        """Close without a word."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Watcher:
    """The manager's bus, remembering what it hears; proves that others are undisturbed."""

    def __init__(self, site: Site, name: str = "m1", *filters: str) -> None:
        self.site = site
        self.bus = MqttBus(
            "127.0.0.1",
            site.broker.port,
            name,
            site.keys[name],
            name,
            random=random.Random(1),  # noqa: S311 - backoff
        )
        self.heard: list[Message] = []
        self.greetings = 0
        self.changed = asyncio.Event()
        session = BusSession(subscriptions=filters or (f"{T.base}/#",))
        self.task = asyncio.create_task(self.bus.run(session, self._hear, self._greet))

    async def _hear(self, message: Message) -> None:
        self.heard.append(message)
        self.changed.set()

    async def _greet(self) -> None:
        self.greetings += 1
        self.changed.set()

    async def greeted(self, times: int = 1) -> "Watcher":
        """Wait for that many connections."""
        async with asyncio.timeout(DEADLINE_S):
            while self.greetings < times:
                self.changed.clear()
                await self.changed.wait()
        return self

    async def hears(self, payload: bytes) -> Message:
        """Wait for a message with this payload."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := [message for message in self.heard if message.payload == payload]):
                self.changed.clear()
                await self.changed.wait()
        return found[0]

    async def close(self) -> None:
        """Leave."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A running broker."""
    site = Site(tmp_path)
    async with site.broker:
        yield site


@pytest.fixture
async def watcher(site: Site) -> AsyncIterator[Watcher]:
    """A manager that is connected and listens to everything."""
    watcher = await Watcher(site).greeted()
    yield watcher
    await watcher.close()


async def _still_serves(site: Site, watcher: Watcher, sign: bytes) -> None:
    """A new client gets in and its message to the watcher, which was never thrown out."""
    raw = await Raw.enter(site, "p2")
    raw.writer.write(encode_publish(T.from_proplet("events", "p2"), sign, packet_id=7, retain=False))
    assert await raw.take(4) == b"\x40\x02\0\x07"
    await watcher.hears(sign)
    await raw.close()
    assert watcher.greetings == 1


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x00\x00",
    b"\xf0\x00",
    b"\x10\xff\xff\xff\xff\xff",
    b"\x10\xff\xff\xff\x7f",
    b"\x10\x00",
    b"\x10\x0a\x00\x04MQTT\x04\x01\x00\x3c",
    b"\x30\x03\x00\x01a",
    b"\xc0\x00",
    bytes(range(256)),
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_bytes_that_are_no_connect_end_the_connection(
    site: Site, watcher: Watcher, garbage: bytes
) -> None:
    """Whoever does not begin with a CONNECT is cut off unanswered, and others notice nothing."""
    raw = await Raw.dial(site, garbage)
    assert await raw.ended() == b""
    await raw.close()
    await _still_serves(site, watcher, b"sign")


MALFORMED = [
    b"\x00\x00",
    b"\xf0\x00",
    b"\x20\x02\x00\x00",
    b"\xd0\x00",
    b"\x30\xff\xff\xff\xff\x01",
    b"\x30\x02\x00\x09",
    b"\x30\x04\x00\x02a+",
    b"\x36\x05\x00\x01a\x00\x01",
    b"\x32\x05\x00\x01a\x00\x00",
    b"\x82\x02\x00\x01",
    b"\x82\x06\x00\x01\x00\x01#\x03",
    b"\x80\x06\x00\x01\x00\x01#\x01",
    b"\xa2\x05\x00\x01\x00\x09a",
    b"\x40\x03\x00\x01\x00",
    b"\x82\xff\xff\xff\x7f",
    b"\xc1\x00",
]


@pytest.mark.parametrize("packet", MALFORMED)
async def test_a_malformed_packet_ends_its_senders_connection_only(
    site: Site, watcher: Watcher, packet: bytes
) -> None:
    """A proven client that breaks the protocol is cut off, its will is sent, and others notice nothing."""
    will = Will(topic=T.from_proplet("alive", "p1"), payload=b"will", qos=0, retain=False)
    raw = await Raw.enter(site, "p1", will=will)
    raw.writer.write(packet)
    await raw.ended()
    await raw.close()
    await watcher.hears(b"will")
    await _still_serves(site, watcher, b"sign")
    assert site.broker.traffic.malformed == 1


async def test_a_second_connect_ends_the_connection(site: Site, watcher: Watcher) -> None:
    """A client cannot change its identity on the way."""
    raw = await Raw.enter(site, "p1")
    raw.writer.write(site.connect("m1"))
    assert await raw.ended() == b""
    await raw.close()
    await _still_serves(site, watcher, b"sign")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=200), inside=st.booleans())
def test_fuzzed_bytes_never_reach_anybody_else(tmp_path: Path, *, data: bytes, inside: bool) -> None:
    """Any bytes, before or after a CONNECT, leave the broker serving and without a stray task."""

    async def scene() -> None:
        site = Site(tmp_path)
        async with site.broker:
            raw = await Raw.enter(site, "p1") if inside else await Raw.dial(site)
            raw.writer.write(data)
            raw.writer.write_eof()
            await raw.ended()
            await raw.close()
            other = await Raw.enter(site, "p2")
            other.writer.write(b"\xc0\x00")
            assert await other.take(2) == b"\xd0\x00"
            await other.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scene())


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_an_oversized_message_is_dropped_and_acknowledged(
    site: Site, watcher: Watcher, qos: int
) -> None:
    """Its sender may go on, and does not repeat it for ever; the drop is counted."""
    raw = await Raw.enter(site, "p1")
    name = encode_text(RESULTS) + (b"\0\x05" if qos else b"")
    length = len(name) + limits.MQTT_MESSAGE_BYTES_MAX + 1
    raw.writer.write(bytes([0x30 | qos << 1]) + encode_length(length) + name)
    for _ in range(16):
        raw.writer.write(bytes(limits.MQTT_MESSAGE_BYTES_MAX // 16))
        await raw.writer.drain()
    raw.writer.write(b"x")
    if qos:
        assert await raw.take(4) == bytes([0x40 if qos == 1 else 0x50, 2, 0, 5])
    if qos == 2:
        raw.writer.write(b"\x62\x02\0\x05")
        assert await raw.take(4) == b"\x70\x02\0\x05"
    raw.writer.write(encode_publish(RESULTS, b"small", packet_id=None, retain=False))
    await watcher.hears(b"small")
    assert len(watcher.heard) == 1
    assert site.broker.traffic.oversized == 1
    await raw.close()


async def test_exactly_once_publishers_are_served(site: Site, watcher: Watcher) -> None:
    """A message with quality of service 2, as the original publishes, is delivered once, at its release."""
    raw = await Raw.enter(site, "p1")
    body = encode_text(RESULTS) + b"\0\x09" + b"exactly once"
    raw.writer.write(bytes([0x34]) + encode_length(len(body)) + body)
    assert await raw.take(4) == b"\x50\x02\0\x09"
    raw.writer.write(bytes([0x3C]) + encode_length(len(body)) + body)
    assert await raw.take(4) == b"\x50\x02\0\x09"
    raw.writer.write(b"\x62\x02\0\x09")
    assert await raw.take(4) == b"\x70\x02\0\x09"
    raw.writer.write(b"\x62\x02\0\x09")
    assert await raw.take(4) == b"\x70\x02\0\x09"
    raw.writer.write(encode_publish(RESULTS, b"after", packet_id=None, retain=False))
    await watcher.hears(b"after")
    assert [message.payload for message in watcher.heard] == [b"exactly once", b"after"]
    await raw.close()


async def test_what_was_published_before_leaving_is_delivered(site: Site, watcher: Watcher) -> None:
    """Publishing a burst and disconnecting at once loses nothing, acknowledged or not."""
    for turn in range(5):
        burst = [
            encode_publish(RESULTS, b"%d-%d" % (turn, number), packet_id=number or None, retain=False)
            for number in range(100)
        ]
        raw = await Raw.dial(site, site.connect("p1") + b"".join(burst) + b"\xe0\x00")
        await raw.ended()
        await raw.close()
        await watcher.hears(b"%d-99" % turn)
    assert [message.payload for message in watcher.heard] == [
        b"%d-%d" % (turn, number) for turn in range(5) for number in range(100)
    ]


async def test_disconnect_voids_the_will_even_in_the_first_burst(site: Site, watcher: Watcher) -> None:
    """A client that says goodbye in its first breath is not declared dead."""
    will = Will(topic=T.from_proplet("alive", "p1"), payload=b"will", qos=0, retain=False)
    for _ in range(20):
        raw = await Raw.dial(site, site.connect("p1", will=will) + b"\xe0\x00")
        await raw.ended()
        await raw.close()
    await _still_serves(site, watcher, b"sign")
    assert [message.payload for message in watcher.heard] == [b"sign"]


async def test_silence_beyond_the_keep_alive_ends_the_connection(site: Site, watcher: Watcher) -> None:
    """A client that vanished without a word is found out after 1.5 keep-alives, and its will is sent."""
    will = Will(topic=T.from_proplet("alive", "p1"), payload=b"will", qos=1, retain=False)
    raw = await Raw.enter(site, "p1", keep_alive_s=1, will=will)
    began_s = asyncio.get_running_loop().time()
    await watcher.hears(b"will")
    assert 1.4 < asyncio.get_running_loop().time() - began_s < 4.0
    assert await raw.ended() == b""
    await raw.close()


async def test_a_stranger_cannot_end_anothers_connection(site: Site, watcher: Watcher) -> None:
    """A CONNECT with somebody's client id and a wrong key, or another's name, disturbs nobody."""
    site.keys["m1"], right = "wrong", site.keys["m1"]
    raw = await Raw.dial(site, site.connect("m1"))
    assert await raw.ended() == b"\x20\x02\0\x05"
    await raw.close()
    site.keys["m1"] = right
    disguised = Connect(
        client_id="m1", clean=True, keep_alive_s=0, will=None, username="p1", password=site.keys["p1"]
    )
    raw = await Raw.dial(site, disguised.encode())
    assert await raw.take(4) == CONNACK_OK
    await _still_serves(site, watcher, b"sign")
    await raw.close()


async def test_operators_may_open_several_consoles(site: Site, watcher: Watcher) -> None:
    """Two tools with an operator's credentials and client ids of their own work side by side."""
    consoles = []
    for name in ("a", "b"):
        hello = Connect(
            client_id=name, clean=True, keep_alive_s=0, will=None, username="o1", password=site.keys["o1"]
        )
        raw = await Raw.dial(site, hello.encode())
        assert await raw.take(4) == CONNACK_OK
        consoles.append(raw)
    for raw in consoles:
        raw.writer.write(b"\xc0\x00")
        assert await raw.take(2) == b"\xd0\x00"
        await raw.close()


async def test_other_protocol_versions_are_told_so(site: Site) -> None:
    """MQTT 5 and 3.1 get the return code that names the reason."""
    for body in (b"\0\4MQTT\5\2\0\x3c\0\0\0", b"\0\6MQIsdp\3\2\0\x3c\0\0"):
        raw = await Raw.dial(site, b"\x10" + encode_length(len(body)) + body)
        assert await raw.ended() == b"\x20\x02\0\x01"
        await raw.close()


async def test_a_client_that_does_not_read_costs_nobody_else(site: Site, watcher: Watcher) -> None:
    """Messages for a full outbox are dropped and counted; everybody else gets everything."""
    coordinator = await Watcher(site, "c1", "fml/#").greeted()
    deaf = await Raw.enter(site, "p1")
    body = b"\0\1" + encode_text(f"{T.base}/fl/models/#") + b"\1"
    deaf.writer.write(b"\x82" + encode_length(len(body)) + body)
    assert await deaf.take(5) == b"\x90\x03\0\1\1"
    model = bytes(1_000_000)
    for number in range(60):
        assert await coordinator.bus.publish(Message(f"{T.base}/fl/models/v{number}", model))
    assert len([message for message in watcher.heard if message.payload == model]) <= 60
    await coordinator.bus.publish(Message(f"{T.base}/fl/models/last", b"last"))
    await watcher.hears(b"last")
    assert len(watcher.heard) == 61
    assert site.broker.traffic.dropped >= 30
    backlog = site.broker._connections["p1"].outbox.backlog
    assert backlog <= limits.MQTT_OUTBOX_BYTES_MAX
    await deaf.close()
    await coordinator.close()


async def test_subscriptions_of_one_client_are_bounded(site: Site) -> None:
    """One client cannot fill the broker with subscriptions; the one too many is refused."""
    raw = await Raw.enter(site, "m1")
    codes = []
    for number in range(limits.MQTT_SUBSCRIPTIONS_MAX + 1):
        body = b"\0\1" + encode_text(f"{T.base}/x/{number}") + b"\0"
        raw.writer.write(b"\x82" + encode_length(len(body)) + body)
        codes.append((await raw.take(5))[-1])
    assert codes == [0] * limits.MQTT_SUBSCRIPTIONS_MAX + [0x80]
    await raw.close()


async def test_credentials_change_under_a_running_broker(site: Site, watcher: Watcher) -> None:
    """Another process adds a proplet, which gets in at once; removed or with a new key, it is put out."""
    elsewhere = CredentialStore(site.store.directory)
    site.keys["p9"] = elsewhere.add(Kind.PROPLET, "p9")
    raw = await Raw.enter(site, "p9")
    site.keys["p9"] = elsewhere.add(Kind.PROPLET, "p9")
    assert await raw.ended() == b""
    await raw.close()
    raw = await Raw.enter(site, "p9")
    elsewhere.remove("p9")
    assert await raw.ended() == b""
    await raw.close()
    await _still_serves(site, watcher, b"sign")


async def test_a_kept_session_does_not_keep_old_rights(site: Site, watcher: Watcher) -> None:
    """Who subscribed as a manager and comes back as a proplet hears only what a proplet may."""
    everything = b"\0\1" + encode_text(f"{T.base}/#") + b"\0"
    site.keys["x1"] = site.store.add(Kind.MANAGER, "x1")
    raw = await Raw.enter(site, "x1", clean=False)
    raw.writer.write(b"\x82" + encode_length(len(everything)) + everything)
    assert await raw.take(5) == b"\x90\x03\0\1\0"
    await raw.close()
    site.store.remove("x1")
    site.keys["x1"] = site.store.add(Kind.PROPLET, "x1")
    raw = await Raw.dial(site, site.connect("x1", clean=False))
    assert await raw.take(4) == b"\x20\x02\1\0"
    assert await watcher.bus.publish(Message(T.from_manager("start", "p1"), b"not for x1"))
    assert await watcher.bus.publish(Message(T.from_manager("start", "x1"), b"for x1"))
    expected = encode_publish(T.from_manager("start", "x1"), b"for x1", packet_id=None, retain=False)
    assert await raw.take(len(expected)) == expected
    await raw.close()


async def test_retained_messages_outlive_the_broker(tmp_path: Path) -> None:
    """Stopped and started on the same data, the broker gives what was retained and not what was cleared."""
    site = Site(tmp_path)
    async with site.broker:
        coordinator = await Watcher(site, "c1").greeted()
        for number in range(5):
            message = Message(f"{T.base}/fl/models/v{number}", b"model \n %d" % number, retain=True)
            assert await coordinator.bus.publish(message)
        await coordinator.bus.publish(Message(f"{T.base}/fl/models/v0", b"newer", retain=True))
        await coordinator.bus.publish(Message(f"{T.base}/fl/models/v4", b"", retain=True))
        await coordinator.close()
    site.broker = site.new_broker()
    async with site.broker:
        reader = await Watcher(site, "p1", f"{T.base}/fl/models/#").greeted()
        await reader.hears(b"model \n 3")
        await _settle(reader, 4)
        heard = {message.topic.rpartition("/")[2]: message.payload for message in reader.heard}
        assert heard == {"v0": b"newer", "v1": b"model \n 1", "v2": b"model \n 2", "v3": b"model \n 3"}
        assert all(message.retain for message in reader.heard)
        await reader.close()


async def _settle(watcher: Watcher, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while len(watcher.heard) < count:
            watcher.changed.clear()
            await watcher.changed.wait()


async def test_clients_come_back_after_a_restart(tmp_path: Path) -> None:
    """A broker that was away for a moment has its clients and their subscriptions again by itself."""
    site = Site(tmp_path)
    await site.broker.start()
    watcher = await Watcher(site).greeted()
    proplet = await Watcher(site, "p1", *T.proplet_subscriptions("p1")).greeted()
    await site.broker.stop()
    site.broker = site.new_broker(site.broker.port)
    async with site.broker:
        await watcher.greeted(2)
        await proplet.greeted(2)
        assert await watcher.bus.publish(Message(T.from_manager("start", "p1"), b"order"))
        await proplet.hears(b"order")
        await watcher.close()
        await proplet.close()


async def test_stopping_sends_no_wills_and_leaves_nothing(tmp_path: Path) -> None:
    """With clients in every phase, stop is quick, retains no will, and leaves no task and no socket."""
    site = Site(tmp_path)
    before = len(asyncio.all_tasks())
    will = Will(topic=T.from_proplet("alive", "p1"), payload=b"will", qos=1, retain=True)
    await site.broker.start()
    clients = [await Raw.dial(site), await Raw.dial(site, b"\x10")]
    clients += [await Raw.enter(site, "p1", will=will), await Raw.enter(site, "p2", clean=False)]
    async with asyncio.timeout(5):
        await site.broker.stop()
        await site.broker.stop()
    assert len(asyncio.all_tasks()) == before
    assert list((tmp_path / "broker" / "retained").iterdir()) == []
    for raw in clients:
        await raw.close()
    gc.collect()


async def test_a_damaged_retained_message_is_named(tmp_path: Path) -> None:
    """The broker refuses to start on a data directory that lies, and listens on nothing then."""
    site = Site(tmp_path)
    retained = tmp_path / "broker" / "retained"
    retained.mkdir(parents=True)
    (retained / "0123").write_bytes(b"nonsense")
    with pytest.raises(StorageBroken, match="0123"):
        await site.broker.start()
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection("127.0.0.1", site.broker.port)


async def test_a_taken_port_is_one_clear_line(site: Site) -> None:
    """The message names the port and the flag that changes it."""
    second = EmbeddedBroker(site.store, port=site.broker.port, flag="--broker-port")
    with pytest.raises(PortInUse, match=rf"port {site.broker.port} .*--broker-port"):
        await second.start()


async def test_small_packets_are_not_held_back(site: Site) -> None:
    """TCP_NODELAY is set on the broker's side of every connection."""
    raw = await Raw.enter(site, "p1")
    transport = site.broker._connections["p1"].outbox._transport
    assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await raw.close()


async def test_a_flood_leaves_the_loop_its_turns(site: Site, watcher: Watcher) -> None:
    """While one client floods, everybody else gets a turn every few packets, and nothing is lost."""
    raw = await Raw.enter(site, "p1")
    flood = b"".join(
        encode_publish(RESULTS, b"%d" % number, packet_id=None, retain=False) for number in range(5000)
    )
    seen: list[int] = []

    async def count_at_each_turn() -> None:
        while True:
            seen.append(site.broker.traffic.published)
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_at_each_turn())
    raw.writer.write(flood)
    await watcher.hears(b"4999")
    counting.cancel()
    assert len(watcher.heard) == 5000
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= 64
    await raw.close()
