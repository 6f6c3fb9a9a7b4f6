"""What a task costs where it runs: a real proplet and its sandboxes, under a manager of nearly no cost.

The manager here is this program: it sends starts, as many at once as the proplet has slots, acknowledges
every end, and keeps nothing. So the figures are the proplet's own: its agent's processor time, and that of
its sandboxes.
"""

import asyncio
import hashlib
import time
from collections import deque

import machine
import peers
import report
from lifecycles import ANSWER
from system import System
from wasmtime import wat2wasm

from propeller.wire import codec
from propeller.wire.messages import Ack, AckItem, AttemptFinished, ModuleRef, Start, Welcome
from propeller.wire.topics import FromManager, FromProplet

PATIENCE_S = 60.0


class LightManager:
    """A manager of one proplet that hands out starts and acknowledges ends."""

    def __init__(self, system: System, module: bytes) -> None:
        self._system = system
        self._topics = system.topics
        self._proplet = system.config.identity("proplet1").client_id
        self._link: peers.MqttConnection | None = None
        self._module = ModuleRef(
            sha256=hashlib.sha256(module).hexdigest(), url=f"http://127.0.0.1:{system.http_port}/module"
        )
        self._left: deque[str] = deque()
        self._sent_s: dict[str, float] = {}
        self._wrong: list[AttemptFinished] = []
        self.seconds: list[float] = []
        self.welcomed, self.idle = asyncio.Event(), asyncio.Event()

    async def join(self) -> None:
        """Connect as the manager."""
        me = self._system.config.identity("manager")
        wanted = f"{self._topics.base}/control/proplet/#"
        self._link = await peers.join(
            self._system.mqtt_port, me.client_id, me.client_key, wanted, self._heard
        )

    def leave(self) -> None:
        """Disconnect."""
        if self._link is not None:
            self._link.close()

    async def run(self, names: list[str], at_once: int) -> None:
        """Have tasks of these names run, so many at a time, until all have ended."""
        self._left.extend(names)
        self.seconds.clear()
        self.idle.clear()
        for _ in range(min(at_once, len(names))):
            self._start(self._left.popleft())
        async with asyncio.timeout(PATIENCE_S):
            await self.idle.wait()
        if self._wrong:
            raise RuntimeError(f"a task did not complete with its result: {self._wrong[0]}")

    def _start(self, name: str) -> None:
        self._sent_s[name] = time.perf_counter()
        start = Start(id=name, name="answer", proplet_id=self._proplet, run=1, attempt=1, module=self._module)
        self._say(FromManager.START, codec.encode(start))

    def _say(self, kind: FromManager, payload: bytes) -> None:
        if self._link is not None:
            self._link.publish(self._topics.from_manager(kind, self._proplet), payload)

    def _heard(self, topic: str, payload: bytes) -> None:
        parsed = self._topics.parse_control(topic)
        if parsed is None:
            return
        if parsed.kind is FromProplet.CREATE:
            self._say(FromManager.WELCOME, codec.encode(Welcome()))
            self.welcomed.set()
        elif parsed.kind is FromProplet.RESULTS:
            self._ended(codec.decode(AttemptFinished, payload, what="a result"))

    def _ended(self, end: AttemptFinished) -> None:
        if end.error or bytes(end.results) != b'"42"':
            self._wrong.append(end)
        item = AckItem(task_id=end.task_id, run=end.run, attempt=end.attempt, kind="finished")
        self._say(FromManager.ACK, codec.encode(Ack(events=[item])))
        began_s = self._sent_s.pop(end.task_id, None)
        if began_s is None:
            return  # said twice
        self.seconds.append(time.perf_counter() - began_s)
        if self._left:
            self._start(self._left.popleft())
        elif not self._sent_s:
            self.idle.set()


async def measure(system: System, rounds: int, count: int, slots: int) -> list[report.Row]:
    """One row for each round of `count` tasks. The system is to have one proplet, and nothing runs yet."""
    module = bytes(wat2wasm(ANSWER))
    server = await asyncio.start_server(
        lambda _, writer: _serve(writer, module), "127.0.0.1", system.http_port
    )
    manager = LightManager(system, module)
    system.start_broker()
    await system.until_broker()
    await manager.join()
    system.start_proplet(1, slots)
    async with asyncio.timeout(PATIENCE_S):
        await manager.welcomed.wait()
    await manager.run([f"warm-{number}" for number in range(max(10, count // 10))], slots)
    rows = [await _round(system, manager, number, count, slots) for number in range(rounds)]
    manager.leave()
    server.close()
    return rows


async def _serve(writer: asyncio.StreamWriter, module: bytes) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(module)}\r\nconnection: close\r\n\r\n".encode())
    writer.write(module)
    await writer.drain()
    writer.close()


async def _round(system: System, manager: LightManager, number: int, count: int, slots: int) -> report.Row:
    names = [f"task-{number}-{one}" for one in range(count)]
    before, began_s = _spent_s(system), time.perf_counter()
    await manager.run(names, slots)
    took_s = time.perf_counter() - began_s
    spent = {part: after - before[part] for part, after in _spent_s(system).items()}
    return {
        "broker": system.broker,
        "tasks": count,
        "slots": slots,
        "tasks_per_s": count / took_s,
        **report.spread_ms(manager.seconds),
        **{f"{part}_cpu_ms": cpu_s / count * 1000 for part, cpu_s in spent.items()},
        "worker_task_cpu_ms": sum(spent.values()) / count * 1000,
    }


def _spent_s(system: System) -> dict[str, float]:
    """Processor seconds of the proplet's agent and of its sandboxes."""
    agent, *sandboxes = system.pids("proplet1")
    return {"agent": machine.cpu_s([agent]), "sandbox": machine.cpu_s(sandboxes)}
