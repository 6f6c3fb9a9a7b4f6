"""The whole matrix of principals, topics and actions, by real connections to both brokers that check it."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest

from broker_hubs import PRINCIPALS, Hub, Peer, T, open_hub
from propeller.broker.principals import Action
from propeller.ports import Message
from propeller.wire.topics import FromManager, FromProplet

TOPICS = [
    *(T.from_proplet(kind, sender) for kind in FromProplet for sender in (None, "p1", "p2", "l1", "m1")),
    *(T.from_manager(kind, to) for kind in FromManager for to in (None, "p1", "p2", "l1")),
    *(
        spelled
        for topic in (
            T.rounds_start(),
            T.rounds_next(),
            T.round_launched("r1"),
            T.round_complete("r1"),
            T.round_closed("r1"),
            *(T.round_update("r1", sender) for sender in ("p1", "p2", "l1")),
            *(T.round_verdict("r1", to) for to in ("p1", "l1")),
            f"{T.base}/fl/models/global_model_v1",
        )
        for spelled in (topic, T.root(topic))
    ),
    f"{T.base}/registry/proplet",
    f"{T.base}/registry/server",
    f"{T.base}/anything/else",
    "fml/updates",
]
"""Every topic of the system, in both spellings, addressed to and sent by each other's ids."""
WIDE = ["#", "+/#", f"{T.base}/#", f"{T.base}/control/#", f"{T.base}/control/manager/+/+", "fl/#", "fml/#"]
"""Filters that reach too far for most."""
SENTINELS = {
    "m1": T.from_manager("ack", "p1"),
    "c1": T.round_complete("r1"),
    "p1": T.from_proplet("events", "p1"),
    "p2": T.from_proplet("events", "p2"),
    "l1": T.from_proplet("results"),
    "l2": T.from_proplet("results"),
    "o1": T.rounds_start(),
}
"""A topic that each may publish on and the manager hears."""
LAST = {
    "m1": T.rounds_start(),
    "c1": T.rounds_start(),
    "o1": T.rounds_start(),
    "p1": T.from_manager("ack", "p1"),
    "p2": T.from_manager("ack", "p2"),
    "l1": T.from_manager("stop"),
    "l2": T.from_manager("stop"),
}
"""A topic by which the manager reaches each."""


@pytest.fixture(params=["embedded", "mosquitto"])
async def hub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Hub]:
    """A broker of each kind that has an ACL of its own."""
    async with open_hub(request.param, tmp_path) as hub:
        yield hub


def _may(hub: Hub, name: str, action: Action, topic: str) -> bool:
    rights = hub.store.rights(name)
    assert rights
    return rights.permits(action, topic)


def _everybodys_filters(hub: Hub) -> list[str]:
    """What each may listen to, all together: for each of them, the others' too."""
    every = (rights.rules for name in PRINCIPALS if (rights := hub.store.rights(name)))
    return sorted({rule.pattern for rules in every for rule in rules if Action.RECEIVE in rule.actions})


async def _say_everything(peer: Peer, name: str) -> None:
    """Publish on every topic, and lastly the sentinel: what is denied is acknowledged and swallowed."""
    for topic in TOPICS:
        assert await peer.bus.publish(Message(topic, name.encode()))
    assert await peer.bus.publish(Message(SENTINELS[name], b"sentinel of " + name.encode()))


async def test_the_matrix(hub: Hub) -> None:
    """Everybody listens to everything and says everything; each hears exactly what speaker and hearer may."""
    peers = {name: await hub.join(name, *WIDE, *_everybodys_filters(hub)).ready() for name in PRINCIPALS}
    for name, peer in peers.items():
        await _say_everything(peer, name)
        await peers["m1"].hears(b"sentinel of " + name.encode())
    for name, topic in LAST.items():
        await peers["m1"].bus.publish(Message(topic, b"last for " + name.encode()))
        await peers[name].hears(b"last for " + name.encode())
    for hearer, peer in peers.items():
        heard = {(message.topic, message.payload.decode()) for message in peer.heard}
        expected = {
            (topic, speaker)
            for topic in TOPICS
            for speaker in PRINCIPALS
            if _may(hub, speaker, Action.PUBLISH, topic) and _may(hub, hearer, Action.RECEIVE, topic)
        }
        assert {pair for pair in heard if pair[1] in PRINCIPALS} == expected, hearer
        assert expected, "a hearer without anything to hear would prove nothing"


async def test_the_embedded_broker_refuses_each_subscription_by_name(tmp_path: Path) -> None:
    """Its SUBACK tells for every principal and filter whether it was granted, unlike Mosquitto's."""
    async with open_hub("embedded", tmp_path) as hub:
        filters = [*WIDE, *_everybodys_filters(hub), *TOPICS, "$SYS/#", f"$share/g/{T.base}/#"]
        for name, key in hub.keys.items():
            async with aiomqtt.Client(*hub.address, username=name, password=key, identifier=name) as client:
                for text in filters:
                    (code,) = await client.subscribe(text, qos=2)
                    granted = _may(hub, name, Action.SUBSCRIBE, text)
                    assert getattr(code, "value", code) == (1 if granted else 0x80), (name, text)
                    if granted:
                        await client.unsubscribe(text)


@pytest.mark.parametrize("text", ["#", "$share/g/#", "+/+/+/+/control/proplet/results/+"])
async def test_a_greedy_subscriber_hears_nothing(hub: Hub, text: str) -> None:
    """However a proplet words its filter, another's results do not reach it."""
    spy = await hub.join("p2", text, *T.proplet_subscriptions("p2")).ready()
    manager = await hub.join("m1", f"{T.base}/#").ready()
    proplet = await hub.join("p1").ready()
    await proplet.bus.publish(Message(T.from_proplet("results", "p1"), b"private"))
    await manager.hears(b"private")
    await manager.bus.publish(Message(T.from_manager("ack", "p2"), b"sentinel"))
    await spy.hears(b"sentinel")
    assert [message.payload for message in spy.heard] == [b"sentinel"]


async def test_a_retained_message_is_not_for_everybody(hub: Hub) -> None:
    """Retained messages pass the same check as live ones."""
    coordinator = await hub.join("c1", f"{T.base}/fl/#").ready()
    await coordinator.bus.publish(Message(T.round_verdict("r1", "p1"), b"private", retain=True))
    await coordinator.hears(b"private")
    spy = await hub.join("p2", f"{T.base}/#", "#", *T.proplet_subscriptions("p2")).ready()
    await coordinator.bus.publish(Message(T.round_verdict("r1", "p2"), b"sentinel"))
    await spy.hears(b"sentinel")
    assert [message.payload for message in spy.heard] == [b"sentinel"]
