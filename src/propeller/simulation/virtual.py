"""Virtual clients: a federation whose participants are data sets, and whose trainer is the devices' own Wasm.

Every update is what the module prints, read, checked and folded by the same code as a coordinator's. What is
left out is what a machine without a network has no need of: tasks, messages, deadlines, storage. So a
thousand clients fit into one process with a worker or two. The same recipe gives the same models, bit for
bit, with any number of workers. It knows no particular runtime, data set or model.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from propeller import limits
from propeller.errors import BadInput, PeerRefused
from propeller.fl import update as updates
from propeller.fl.aggregation import aggregate
from propeller.fl.launch import trainer_seed
from propeller.fl.model_ref import ModelRef
from propeller.fl.plan import generated_id
from propeller.fl.selection import Selection, draw
from propeller.fl.strategies.base import Contribution
from propeller.fl.strategies.options import Options
from propeller.fl.strategies.registry import strategy, told
from propeller.fl.tensors import EMPTY, Tensors, content_hash, to_json
from propeller.fl.update import Terms, Update
from propeller.ports import GuestDone, GuestJob, Runtime
from propeller.wire import codec
from propeller.wire.experiments import UpdateBody

MODEL = "virtual"
"""The model's name; version n is what n rounds made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained, and how. The module's hyperparameters are JSON values."""

    module: bytes
    hyperparams: Mapping[str, Any] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    strategy: str = ""
    options: Options = field(default_factory=dict)
    seed: int = 0
    name: str = "virtual"
    """The experiment's id: rounds are called after it, and seeds depend on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundMade:
    """One round's outcome."""

    round_id: str
    participants: tuple[str, ...]
    model: Tensors
    metrics: Mapping[str, float]
    """What trainers reported, weighted by samples."""
    samples: int


class VirtualFederation:
    """A model under training; call `advance` for each round.

    `clients` are data set documents by participant: `{"data": [{"x": [0.5, 1], "y": 0}], "size": 1}`.
    """

    def __init__(
        self,
        runtime: Runtime,
        recipe: Recipe,
        clients: Mapping[str, Mapping[str, Any]],
        model: Tensors,
        *,
        workers: int = 1,
    ) -> None:
        if not clients:
            raise BadInput("a federation needs a client; give at least one data set", code="no_clients")
        self.model = model
        self.rounds = 0
        self._runtime = runtime
        self._recipe = recipe
        self._strategy = strategy(recipe.strategy)
        self._hyperparams = told(self._strategy, recipe.options, recipe.hyperparams)
        self._data = {name: codec.encode(document).decode() for name, document in clients.items()}
        self._digest = sha256(recipe.module).hexdigest()
        self._state = EMPTY
        # More at once would only wait inside the pool, with all their texts in memory.
        self._room = asyncio.Semaphore(max(1, workers))

    async def advance(self) -> RoundMade:
        """Run one round. Raises `PeerRefused` if a guest failed, `CallerError` if an update is refused."""
        round_id = generated_id(self._recipe.name, self.rounds + 1)
        drawn = draw(
            self._recipe.selection, self._data, self._data, seed=self._recipe.seed, round_id=round_id
        )
        if drawn is None:
            raise BadInput(
                f"the selection wants more than the {len(self._data)} clients that there are",
                code="bad_selector",
            )
        terms = Terms(
            round_id=round_id,
            participants=frozenset(drawn.participants),
            base=ModelRef(name=MODEL, version=self.rounds),
            base_hash=content_hash(self.model),
        )
        text = codec.encode(to_json(self.model)).decode()
        try:
            async with asyncio.TaskGroup() as tasks:
                training = [tasks.create_task(self._train(name, text, terms)) for name in drawn.participants]
        except ExceptionGroup as group:
            # The first one ended the others; one reason is enough for a round.
            raise group.exceptions[0] from group
        return self._fold(terms, drawn.participants, [one.result() for one in training])

    def _fold(self, terms: Terms, participants: tuple[str, ...], made: Sequence[Update]) -> RoundMade:
        done = aggregate(
            self._strategy,
            [
                Contribution(participant=one.participant, samples=one.samples, tensors=one.tensors)
                for one in made
            ],
            base=self.model,
            state=self._state,
            options=self._recipe.options,
        )
        self.model, self._state, self.rounds = done.model, done.state, self.rounds + 1
        return RoundMade(
            round_id=terms.round_id,
            participants=participants,
            model=done.model,
            metrics=updates.mean_metrics((one.samples, one.metrics) for one in made),
            samples=done.samples,
        )

    async def _train(self, name: str, model: str, terms: Terms) -> Update:
        job = GuestJob(
            module=self._recipe.module,
            digest=self._digest,
            env={
                "ROUND_ID": terms.round_id,
                "PROPLET_ID": name,
                "MODEL_URI": terms.base.uri,
                "SEED": str(trainer_seed(self._recipe.seed, terms.round_id, name)),
                "HYPERPARAMS": codec.encode(self._hyperparams or {}).decode(),
                "MODEL_DATA": model,
                "DATASET_DATA": self._data[name],
            },
        )
        async with self._room:
            ended = await self._runtime.run(job)
        if not isinstance(ended, GuestDone):
            raise PeerRefused(f"client {name!r} did not train in {terms.round_id}: {ended.message}")
        return updates.admit(_read(ended, name, terms), terms, self._strategy.expects(self.model))


def _read(ended: GuestDone, name: str, terms: Terms) -> updates.Draft:
    said = ended.stdout.encode() if ended.result is None else ended.result
    body = codec.decode(UpdateBody, said, what=f"what {name!r} printed", limit_bytes=limits.UPDATE_BYTES_MAX)
    return updates.read(
        round_id=terms.round_id,
        participant=name,
        samples=body.num_samples,
        update=body.update,
        metrics=body.metrics,
        base_uri=body.base_model_uri or "",
        base_hash=body.base_hash or "",
    )
