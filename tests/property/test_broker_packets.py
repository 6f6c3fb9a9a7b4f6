"""The gate's codec: total on arbitrary bytes, and in agreement with what it encodes."""

import asyncio
import contextlib

import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.publish import PublishPacket
from hypothesis import given
from hypothesis import strategies as st

from propeller.broker.connect import Connect, ForeignProtocol, Will, parse_connect
from propeller.errors import DecodeError
from propeller.wire.filters import is_topic
from propeller.wire.packets import (
    Head,
    Packet,
    check_body,
    encode_length,
    encode_publish,
    parse_head,
    publish_head_bytes,
)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
topics = texts.filter(is_topic)
wills = st.builds(
    Will, topic=topics, payload=st.binary(max_size=40), qos=st.integers(0, 2), retain=st.booleans()
)
connects = st.builds(
    Connect,
    client_id=texts,
    clean=st.booleans(),
    keep_alive_s=st.integers(0, 65_535),
    will=st.none() | wills,
    username=texts,
    password=texts,
)


def _body(packet: bytes) -> bytes:
    at = 1
    while packet[at] & 0x80:
        at += 1
    return packet[at + 1 :]


@given(connects)
def test_a_connect_survives_encoding(connect: Connect) -> None:
    """What is encoded is parsed back the same."""
    assert parse_connect(_body(connect.encode())) == connect


@given(connects)
def test_the_engine_reads_a_connect_as_we_do(connect: Connect) -> None:
    """The engine sees in our rewritten CONNECT what we put there: to differ would be a way around."""
    seen = asyncio.run(ConnectPacket.from_stream(BufferReader(connect.encode())))
    assert (seen.username, seen.password) == (connect.username, connect.password)
    assert seen.client_id == connect.client_id or not connect.client_id
    assert seen.clean_session_flag == connect.clean
    assert bool(seen.will_flag) == bool(connect.will)
    if connect.will:
        assert (seen.will_topic, bytes(seen.will_message)) == (connect.will.topic, connect.will.payload)


@given(connects, st.data())
def test_a_damaged_connect_is_a_decode_error(connect: Connect, data: st.DataObject) -> None:
    """Bytes changed, cut or added make another CONNECT or a `DecodeError`, and nothing else."""
    body = bytearray(_body(connect.encode()))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(DecodeError):
        parse_connect(bytes(body))


@pytest.mark.parametrize(("name", "level"), [(b"MQIsdp", 3), (b"MQTT", 5), (b"MQTT", 3)])
def test_other_versions_are_told_apart(name: bytes, level: int) -> None:
    """Another version of MQTT is foreign, not broken: it gets an answer."""
    with pytest.raises(ForeignProtocol):
        parse_connect(len(name).to_bytes(2, "big") + name + bytes([level, 2, 0, 60]))


@given(st.integers(0, 255), st.binary(max_size=60))
def test_checking_is_total(first: int, body: bytes) -> None:
    """Any first byte with any body passes or is a `DecodeError`."""
    with contextlib.suppress(DecodeError):
        check_body(parse_head(first), body)


@given(
    topic=topics,
    payload=st.binary(max_size=300),
    packet_id=st.none() | st.integers(1, 65_535),
    retain=st.booleans(),
)
def test_a_publish_is_what_the_engine_would_read(
    topic: str, payload: bytes, packet_id: int | None, *, retain: bool
) -> None:
    """Our PUBLISH passes our own check and means the same to amqtt."""
    packet = encode_publish(topic, payload, packet_id=packet_id, retain=retain)
    head, body = parse_head(packet[0]), _body(packet)
    check_body(head, body)
    assert body[publish_head_bytes(body, head.qos) :] == payload

    async def decode() -> PublishPacket:
        reader = BufferReader(packet)
        return await PublishPacket.from_stream(reader, await MQTTFixedHeader.from_stream(reader))

    seen = asyncio.run(decode())
    assert (seen.topic_name, bytes(seen.data), seen.retain_flag) == (topic, payload, retain)
    assert seen.qos == (1 if packet_id else 0)


@pytest.mark.parametrize("length", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455])
def test_lengths_at_the_edges(length: int) -> None:
    """A length takes as many bytes as the standard says, and reads back the same."""
    encoded = encode_length(length)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded)) == length
    assert len(encoded) == 1 + (length >= 128) + (length >= 16_384) + (length >= 2_097_152)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (Head(Packet.PUBLISH, 0), b"\0\1#x"),
        (Head(Packet.PUBLISH, 0), b"\0\0x"),
        (Head(Packet.PUBLISH, 2), b"\0\1a\0\0x"),
        (Head(Packet.PUBLISH, 2), b"\0\1a"),
        (Head(Packet.PUBLISH, 0), b"\0\2\xff\xfe"),
        (Head(Packet.SUBSCRIBE, 2), b"\0\1"),
        (Head(Packet.SUBSCRIBE, 2), b"\0\1\0\1a\3"),
        (Head(Packet.SUBSCRIBE, 2), b"\0\1\0\0\1"),
        (Head(Packet.UNSUBSCRIBE, 2), b"\0\1\0\1"),
        (Head(Packet.PUBACK, 0), b"\0\1\0"),
        (Head(Packet.PINGREQ, 0), b"x"),
        (Head(Packet.DISCONNECT, 0), b"x"),
    ],
)
def test_inconsistent_bodies_are_refused(head: Head, body: bytes) -> None:
    """A body that disagrees with its packet never reaches the engine."""
    with pytest.raises(DecodeError):
        check_body(head, body)
