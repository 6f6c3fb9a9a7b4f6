"""Light proplets: they speak the protocol over real connections and run nothing. Many fit into one process.

Each announces itself, sends heartbeats, accepts what it is told to start and reports its end at once. It
keeps no spool: what is measured with it is the broker and the manager, never the proplet.
"""

import asyncio
import json
from collections.abc import Callable, Mapping

import peers

from propeller.wire.topics import FromManager, FromProplet, Topics

Started = Callable[[str], None]
HEARTBEAT_S = 10.0
_ANNOUNCE_S = 5.0
"""Announced again until it is welcomed, as real ones do."""


class LightProplet:
    """One of them. `started` hears of every start message, with the task's id."""

    def __init__(self, topics: Topics, name: str, started: Started) -> None:
        self._topics = topics
        self._name = name
        self._started = started
        self._link: peers.MqttConnection | None = None
        self._alive = topics.from_proplet(FromProplet.ALIVE, name)
        self._results = topics.from_proplet(FromProplet.RESULTS, name)
        self._held: dict[tuple[str, int, int], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._welcomed = False
        self._starts = topics.from_manager(FromManager.START, name)
        self._acks = topics.from_manager(FromManager.ACK, name)
        self._welcomes = topics.from_manager(FromManager.WELCOME, name)

    async def join(self, port: int, key: str) -> None:
        """Connect and announce."""
        wanted = f"{self._topics.base}/control/manager/+/{self._name}"
        self._link = await peers.join(port, self._name, key, wanted, self._heard)
        self._announce()

    def leave(self) -> None:
        """Disconnect."""
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            self._link.close()

    def _announce(self) -> None:
        if self._link is None:
            return
        said = {"proplet_id": self._name, "protocol": 2, "metadata": {"os": "linux", "cpu_arch": "x86_64"}}
        self._link.publish(self._topics.from_proplet(FromProplet.CREATE), json.dumps(said).encode())
        self._timer = asyncio.get_running_loop().call_later(_ANNOUNCE_S, self._announce)

    def _heard(self, topic: str, payload: bytes) -> None:
        if topic == self._starts:
            self._start(payload)
        elif topic == self._acks:
            for item in json.loads(payload)["events"]:
                self._held.pop((item["task_id"], item["run"], item["attempt"]), None)
        elif topic == self._welcomes and not self._welcomed:
            self._welcomed = True
            if self._timer is not None:
                self._timer.cancel()
            self._beat()

    def _start(self, payload: bytes) -> None:
        start = json.loads(payload)
        self._started(start["id"])
        key = (start["id"], start["run"], start["attempt"])
        self._held[key] = None
        if self._link is not None:
            said = {"task_id": key[0], "run": key[1], "attempt": key[2], "results": "42"}
            self._link.publish(self._results, json.dumps(said).encode())

    def _beat(self) -> None:
        if self._link is None:
            return
        attempts = [
            {"task_id": task, "run": run, "attempt": attempt, "state": "finished"}
            for task, run, attempt in self._held
        ]
        said = {"proplet_id": self._name, "attempts": attempts, "boot": "1"}
        self._link.publish(self._alive, json.dumps(said).encode())
        self._timer = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)


async def join_all(
    topics: Topics, port: int, keys: Mapping[str, str], started: Started, *, at_once: int = 50
) -> list[LightProplet]:
    """A proplet for each key, joined in groups."""
    fleet = [LightProplet(topics, name, started) for name in keys]
    for first in range(0, len(fleet), at_once):
        group = zip(fleet[first : first + at_once], list(keys.values())[first : first + at_once], strict=True)
        await asyncio.gather(*(one.join(port, key) for one, key in group))
    return fleet
