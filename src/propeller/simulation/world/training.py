"""Experiments of every kind in a day beside the one whose models are known, and what must hold of them all.

An experiment that is evaluated, one that is paused and goes on, and ones that count late updates: FedBuff and
the mean. What only shows on the way is seen by `rounds_witness`; the rest is computed anew from the stores.
"""

import asyncio
import itertools
from collections.abc import Mapping
from random import Random
from typing import Any

import msgspec
import numpy as np

from propeller.fl.experiment import ExperimentState
from propeller.fl.round import RoundState
from propeller.fl.tensors import from_safetensors
from propeller.simulation.world.day import RETRY_S, Client
from propeller.simulation.world.guests import TRAINER_IMAGE
from propeller.simulation.world.witness import present, require
from propeller.simulation.world.world import World
from propeller.stores.coordinator import RoundRecord, StoredUpdate

_LIVE = {"running", "paused"}
_TAKEN = (200, 409)
"""409: the answer to the first try was lost, or the experiment has ended meanwhile."""


async def _experiment(client: Client, world: World, name: str, **more: Any) -> None:
    body = {
        "experiment_id": name,
        "model_ref": "fl/models/global_model_v0",
        "participants": world.proplet_ids,
        "timeout_s": 1200,
        "task_wasm_image": TRAINER_IMAGE,
        "seed": 3,
        **more,
    }
    await client.demand("POST", "/fl/experiments", body, lawful=_TAKEN)


async def _over(client: Client, name: str) -> None:
    while await _state(client, name) in _LIVE:  # noqa: ASYNC110 - a client can only ask
        await asyncio.sleep(RETRY_S)


async def _state(client: Client, name: str) -> str:
    answer = await client.demand("GET", f"/fl/experiments/{name}")
    return str(msgspec.json.decode(answer.body)["state"])


async def is_evaluated(client: Client, world: World, random: Random) -> None:
    """Each model is measured on the held-out rows of whoever is there."""
    every = random.choice((1, 2))
    await _experiment(client, world, "judged", rounds=2, evaluation={"every": every, "timeout_s": 300})
    await _over(client, "judged")


async def is_paused(client: Client, world: World, random: Random) -> None:
    """An experiment that is paused at any moment, more than once, and goes on; it is evaluated or not."""
    more = {"evaluation": {"every": 1}} if random.random() < 0.5 else {}  # noqa: PLR2004 - a coin
    await _experiment(client, world, "steered", rounds=3, **more)
    for _ in range(random.randint(1, 3)):
        await asyncio.sleep(random.uniform(0.0, 15.0))
        await client.demand("POST", "/fl/experiments/steered/pause", lawful=_TAKEN)
        await asyncio.sleep(random.uniform(0.0, 40.0))
        await client.demand("POST", "/fl/experiments/steered/resume", lawful=_TAKEN)
    await _over(client, "steered")


async def fills_buffers(client: Client, world: World, random: Random) -> None:
    """FedBuff: two updates close a round, the third comes late, or too late."""
    late = {"staleness_max": random.choice((1, 3))}
    chosen = {"name": "fedbuff", "options": {"server_learning_rate": random.choice((0.5, 1.0))}}
    await _experiment(client, world, "buffered", rounds=4, k_of_n=2, strategy=chosen, late=late)
    await _over(client, "buffered")


async def folds_late(client: Client, world: World, random: Random) -> None:
    """The mean, one update closing each round: most are late, perhaps while it is paused."""
    await _experiment(client, world, "folded", rounds=4, k_of_n=1, late={"staleness_max": 4})
    if random.random() < 0.5:  # noqa: PLR2004 - a coin
        await asyncio.sleep(random.uniform(0.0, 10.0))
        await client.demand("POST", "/fl/experiments/folded/pause", lawful=_TAKEN)
        await asyncio.sleep(random.uniform(0.0, 20.0))
        await client.demand("POST", "/fl/experiments/folded/resume", lawful=_TAKEN)
    await _over(client, "folded")


TRAINING = (is_evaluated, is_paused, fills_buffers, folds_late)
"""All of them; a day has one."""


async def check_training(world: World) -> None:
    """Every experiment ended as it must, its models are a chain, and its rounds weigh as they say."""
    if world.rounds.broken is not None:
        raise world.rounds.broken
    _, experiments = await world.coordinator_store.experiments(offset=0, limit=100)
    for one in experiments:
        spec = one.experiment.spec
        if spec.manual:
            continue
        _, found = await world.coordinator_store.rounds(offset=0, limit=100, experiment_id=spec.experiment_id)
        completed = one.experiment.state is ExperimentState.COMPLETED
        require(completed, "every experiment completes", one)
        rounds = sorted(found, key=lambda record: record.spec.number)
        trained = [record for record in rounds if record.spec.mode == "train"]
        require(len(trained) == spec.rounds, "every round is there", trained)
        _check_chain(trained)
        _check_evaluations([record for record in rounds if record.spec.mode == "evaluate"])
        for place, record in enumerate(trained):
            await _check_fold(world, record, spec.strategy, spec.options, place, trained)


def _check_chain(trained: list[RoundRecord]) -> None:
    """Each round starts from what the one before made."""
    for before, after in itertools.pairwise(trained):
        follows = after.spec.base.version == before.version and after.spec.base_hash == before.model_hash
        require(follows, "versions form a chain", (before, after))


def _check_evaluations(rounds: list[RoundRecord]) -> None:
    """They measure, and make nothing."""
    for record in rounds:
        require(record.version is None, "an evaluation makes no model", record)
        if record.state is RoundState.COMPLETED:
            require("loss" in record.metrics, "an evaluation has metrics", record)


async def _check_fold(
    world: World,
    record: RoundRecord,
    chosen: str,
    options: Mapping[str, object],
    place: int,
    trained: list[RoundRecord],
) -> None:
    """The model is what its stored updates come to, each as stale as the chain says."""
    updates = await world.coordinator_store.contents(record.spec.round_id)
    places = {one.spec.round_id: number for number, one in enumerate(trained)}
    for one in updates:
        behind = place - places[one.record.origin] if one.record.origin else 0
        require(one.record.staleness == behind, "staleness counts versions", (one.record, behind))
    made_version = present(record.version, "every round completes", record)
    models = [await _model(world, number) for number in (record.spec.base.version, made_version)]
    contents = [await _content(world, one) for one in updates]
    if b"" in [*models, *contents]:
        return  # swept after the round had ended, which `tidies` may; there is nothing left to add up
    base, made = (from_safetensors(content, "the model") for content in models)
    values = [from_safetensors(content, "an update") for content in contents]
    late = np.array([one.record.staleness for one in updates], float)
    samples = np.array([one.record.accepted.samples for one in updates], float)
    for name in made:
        moved = np.stack([value[name] for value in values])
        if chosen == "fedbuff":
            rate = float(str(options.get("server_learning_rate", 1.0)))
            step = np.tensordot((1 + late) ** -0.5, moved - base[name], 1) / len(values)
            wanted = base[name] + rate * step
        else:
            weights = samples / np.sqrt(1 + late)
            wanted = np.tensordot(weights / weights.sum(), moved, 1)
        close = np.allclose(made[name], wanted, rtol=1e-9, atol=1e-12)
        require(close, "updates weigh as stated", (record, name, made[name], wanted))


async def _content(world: World, update: StoredUpdate) -> bytes:
    """An update's tensors, nothing if they were swept."""
    inline = update.content.inline
    return inline if inline is not None else await world.coordinator_blobs.get(update.content.blob)


async def _model(world: World, version: int) -> bytes:
    """A version's file, nothing if it was deleted; its record is for ever."""
    found = present(await world.models.find("global_model", version), "no model is lost", version)
    if found.deleted_at_s is not None:
        return b""
    return await world.models.content("global_model", version)
