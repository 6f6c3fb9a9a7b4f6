"""One run of `propeller emulate`: a federated experiment on a fleet of emulated devices.

It starts the services and a QEMU for each device; gives each an address, credentials and its part of the
data; runs rounds over the same HTTP and MQTT that any user has; takes everything down.
"""

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom
from statistics import median
from time import monotonic
from typing import Any, Final

import msgspec
from rich.console import Console

from propeller.client import AsyncClient
from propeller.emulation import energy
from propeller.emulation.boards import Board, Image, memory_mb
from propeller.emulation.chaos import Weather, forwarded
from propeller.emulation.consoles import consoles
from propeller.emulation.fleet import Fleet, Identity, Plan, mac_of
from propeller.emulation.network import BridgeNetwork, Network, UserNetwork, tcp_resent
from propeller.emulation.share import limited
from propeller.emulation.status import counters
from propeller.roles.demo_system import endpoints, own_system
from propeller.roles.emulate_rounds import Rounds, RoundSeen
from propeller.roles.emulate_wishes import Wishes
from propeller.roles.identity import Config, read_config
from propeller.roles.layout import DataDir, Running

POLL_S: Final = 0.2
MIB: Final = 1024 * 1024


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one run: a row of a sweep, and what `--json` prints. `mb` are 2**20 bytes of the host."""

    devices: int
    devices_ready: int
    rounds: int
    rounds_failed: int
    accuracy: float
    loss: float
    round_s_p50: float
    round_s_max: float
    update_s_p50: float
    boot_s_max: float
    connect_s: float
    device_mb: float
    device_mb_max: float
    device_cpu_s: float
    updates: int
    died: int
    returned: int
    panics: int
    sent_bytes: int
    received_bytes: int
    tcp_dropped: int
    tcp_resent: int
    host_tcp_resent: int
    energy_j: float
    energy_model: str
    network: str
    loss_by: str
    wall_s: float
    settings: dict[str, Any]
    failures: dict[str, str]
    history: list[RoundSeen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a run takes place: made once, also for a sweep of many runs. `images` are by board."""

    directory: Path
    network: Network
    images: dict[str, Image]
    show: Console


async def run_once(stage: Stage, wishes: Wishes) -> Outcome:
    """One run, from services to their end."""
    started_s, resent_before = monotonic(), tcp_resent()
    data = DataDir(stage.directory / "system")
    shutil.rmtree(data.root, ignore_errors=True)
    broker = "mosquitto" if shutil.which("mosquitto") else "embedded"
    more = ("--broker", broker, "--heartbeat", f"{wishes.heartbeat_s:g}s")
    stage.show.print(f"starting the services and {wishes.devices} devices ({stage.network.name} network) …")
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            own_system(
                data, wishes.devices if wishes.plain else 0, wishes.seed, identities=wishes.devices, more=more
            )
        )
        client = await stack.enter_async_context(AsyncClient(endpoints(running)))
        await stack.enter_async_context(_way(stage, wishes, running))
        share = stack.enter_context(limited(wishes.cpu_share))
        config = read_config(data.config)
        plans = [] if wishes.plain else _plans(stage, wishes, running, config)
        fleet = Fleet(plans, stage.network, stage.directory, share)
        stack.push_async_callback(fleet.close)
        await stack.enter_async_context(consoles(fleet, stage.directory))
        ids = [one.client_id for one in config.proplets().values()]
        rounds = Rounds(client, fleet, ids, wishes, running, stage.show)
        await rounds.prepare()
        boot_s = monotonic()
        await fleet.boot()
        await rounds.ready()
        connect_s = monotonic() - boot_s
        ready = len(await rounds.alive())
        stage.show.print(f"{ready} of {wishes.devices} devices ready after {connect_s:.1f} s")
        seen = await rounds.run()
        return await _outcome(stage, wishes, fleet, rounds, seen, ready, connect_s, started_s, resent_before)


@contextlib.asynccontextmanager
async def _way(stage: Stage, wishes: Wishes, running: Running) -> AsyncIterator[None]:
    """How devices reach the services: a user network leads to loopback by itself, a bridge by a forwarder."""
    if isinstance(stage.network, UserNetwork):
        yield
        return
    weather = Weather(
        delay_s=wishes.delay_s,
        bytes_per_s=wishes.bytes_per_s,
        loss=wishes.loss if wishes.loss_by == "proxy" else 0.0,
    )
    losing = (
        BridgeNetwork.losing(wishes.loss)
        if wishes.loss and wishes.loss_by == "iptables"
        else contextlib.nullcontext()
    )
    with losing:
        async with forwarded(stage.network.host, _ports(running), weather, Random(wishes.seed)):  # noqa: S311 - weather
            yield


def _ports(running: Running) -> list[int]:
    return [int(url.rpartition(":")[2]) for url in (*running.urls.values(), running.mqtt_address)]


def _plans(stage: Stage, wishes: Wishes, running: Running, config: Config) -> list[Plan]:
    random = SystemRandom()
    me = config.proplets()
    port = running.mqtt_address.rpartition(":")[2]
    plans = []
    for number, board in enumerate(wishes.fleet(), start=1):
        identity = me[f"proplet{number}"]
        plans.append(
            Plan(
                number=number,
                board=board,
                image=stage.images[board.name],
                memory_mb=memory_mb(board, wishes.memory_mb),
                mac=mac_of(random),
                identity=Identity(
                    id=identity.client_id,
                    key=identity.client_key,
                    domain=identity.domain_id,
                    channel=identity.channel_id,
                    broker=f"{stage.network.host}:{port}",
                    urls=_gateway_settings(board, running),
                ),
            )
        )
    return plans


def _gateway_settings(board: Board, running: Running) -> dict[str, str]:
    if not board.gateway:
        return {}
    return {name.replace("-", "_"): url for name, url in running.urls.items()}


async def _outcome(
    stage: Stage,
    wishes: Wishes,
    fleet: Fleet,
    rounds: Rounds,
    seen: list[RoundSeen],
    ready: int,
    connect_s: float,
    started_s: float,
    resent_before: int,
) -> Outcome:
    total = rounds.counted + await counters(fleet.devices.values())
    memory = fleet.pss_bytes() or [0]
    wall_s = monotonic() - started_s
    cpu_s = fleet.cpu_s() / wishes.devices
    whole = [one for one in seen if one.state == "completed"]
    seconds = [one.seconds for one in whole] or [0.0]
    return Outcome(
        devices=wishes.devices,
        devices_ready=ready,
        rounds=len(whole),
        rounds_failed=len(seen) - len(whole),
        accuracy=whole[-1].accuracy if whole else 0.0,
        loss=whole[-1].loss if whole else 0.0,
        round_s_p50=median(seconds),
        round_s_max=max(seconds),
        update_s_p50=median([one.update_s for one in whole] or [0.0]),
        boot_s_max=max((one.boot_s for one in fleet.devices.values()), default=0.0),
        connect_s=connect_s,
        device_mb=sum(memory) / len(memory) / MIB,
        device_mb_max=max(memory) / MIB,
        device_cpu_s=cpu_s,
        updates=sum(one.updates for one in seen),
        died=rounds.died,
        returned=rounds.returned,
        panics=fleet.panics(),
        sent_bytes=total.sent,
        received_bytes=total.received,
        tcp_dropped=total.tcp_dropped,
        tcp_resent=total.tcp_resent,
        host_tcp_resent=tcp_resent() - resent_before if stage.network.name == "bridge" else 0,
        energy_j=energy.joules(cpu_s, wall_s),
        energy_model=energy.MODEL,
        network=stage.network.name,
        loss_by=wishes.loss_by if wishes.loss else "",
        wall_s=wall_s,
        settings=wishes.settings(),
        failures={f"device{number}": why for number, why in fleet.failures.items()},
        history=seen,
    )
