"""HTTP bodies of experiments, rounds and updates. Field names are the original's where it has the route.

A request may leave out or send as null whatever has a default here; unknown fields are ignored. What is typed
`Any` is checked by `fl`, which says which tensor or number is wrong.
"""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

_deterministic = msgspec.json.Encoder(order="deterministic")

NonNegative = Annotated[int, Meta(ge=0)]
_ZERO_COUNTS = frozenset({"round_failures_max"})
"""Fields whose zero says something else than their absence."""


class StrategyBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which strategy aggregates, with its options; an empty name is the default one."""

    name: str = ""
    options: dict[str, Any] | None = None


class SelectorBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How each round's participants are drawn: from `participants`, else from proplets with the labels."""

    labels: dict[str, str] = {}
    clients: NonNegative = 0
    fraction: float = 0.0
    min_connected: NonNegative = 0
    over_sampling: float = 1.0
    k_of_n: NonNegative = 0


class EvaluationBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Evaluate the new model on the devices' held-out rows after every so many rounds, and after the last."""

    every: NonNegative = 1
    timeout_s: float = 0.0


class StopBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When to end before the last round."""

    metric: str = ""
    direction: Literal["max", "min"] = "max"
    target: float | None = None
    patience: NonNegative = 0
    min_delta: float = 0.0
    wall_s: float = 0.0


class LateBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes of an update whose round has closed: it is dropped, or counts less in a later round."""

    policy: Literal["drop", "fold"] = "fold"
    staleness_max: NonNegative = 4
    """How many versions it may be behind."""


class ExperimentBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /experiments`. From `rounds` on the fields are ours: without them it is one round, as it was."""

    experiment_id: str | None = None
    round_id: str | None = None
    model_ref: str | None = None
    participants: list[str] | None = None
    hyperparams: dict[str, Any] | None = None
    k_of_n: NonNegative | None = None
    timeout_s: float | None = None
    task_wasm_image: str | None = None
    rounds: NonNegative | None = None
    strategy: StrategyBody | str | None = None
    seed: NonNegative | None = None
    min_updates: NonNegative | None = None
    mode: Literal["train", "infer"] | None = None
    selector: SelectorBody | None = None
    evaluation: EvaluationBody | bool | None = None
    stop: StopBody | None = None
    round_failures_max: NonNegative | None = None
    late: LateBody | None = None
    update_format: str | None = None
    files: bool | None = None
    """Trainers get their model in a file, however small it is, and can keep a state from round to round."""
    data_part: Literal["", "train", "test"] | None = None
    """Which part of their data participants train on; empty: all, or where there is evaluation, `train`."""
    privacy: Any = None
    """Reserved."""
    model_source: str | None = None
    """The artefact, with its digest, that `model_ref` was pulled from: said by who had it pulled."""

    @property
    def chosen(self) -> StrategyBody:
        """The strategy asked for; without a name if none was."""
        return (
            self.strategy
            if isinstance(self.strategy, StrategyBody)
            else StrategyBody(name=self.strategy or "")
        )

    @property
    def digest(self) -> str:
        """SHA-256 hex of what is asked: equal for equal requests, however they are spelled."""
        chosen = StrategyBody(name=self.strategy) if isinstance(self.strategy, str) else self.strategy
        said = {name: getattr(self, name) for name in self.__struct_fields__}
        said = {name: value for name, value in said.items() if value or (value == 0 and name in _ZERO_COUNTS)}
        said |= {"strategy": chosen} if chosen else {}
        return hashlib.sha256(_deterministic.encode(said)).hexdigest()


class ExperimentConfigured(Struct, frozen=True, kw_only=True):
    """Its answer; `model_version` is the version that the first round starts from."""

    experiment_id: str
    round_id: str
    model_version: int
    status: Literal["configured"] = "configured"


class UpdateBody(Struct, frozen=True, kw_only=True):
    """`POST /update`, and an update by MQTT: what a trainer prints. From `base_hash` on, fields are ours.

    An update of another `format` than `json-f64` is a file, in `update_b64` instead of `update`. What
    evaluates a model sends `metrics` and no `update`. `trainer_hash` is the SHA-256 of its module.
    """

    round_id: str | None = None
    proplet_id: str | None = None
    base_model_uri: str | None = None
    base_hash: str | None = None
    num_samples: Any = None
    metrics: Any = None
    update: Any = None
    format: str | None = None
    update_b64: str | None = None
    update_token: str | None = None
    trainer_hash: str | None = None


class UpdateAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Its answer; `duplicate` if this very update already counted."""

    status: str
    duplicate: bool = False


class RoundStatus(Struct, frozen=True, kw_only=True):
    """How far a round is. `completed` only once its model is stored."""

    round_id: str
    completed: bool
    state: str
    reason: str
    num_updates: int
    k_of_n: int
    model_version: int | None


class RoundStatusBoth(RoundStatus, frozen=True, kw_only=True):
    """The same flat and nested: the original's coordinator and manager each want one of them."""

    status: RoundStatus


class UpdateView(Struct, frozen=True, kw_only=True):
    """One accepted update of a round. `trainer_hash` is empty if its proplet does not say it."""

    participant: str
    samples: int
    bytes: int
    metrics: dict[str, float]
    content_hash: str
    received_at: str
    seconds: float
    trainer_hash: str = ""
    origin: str = ""
    """The round that asked for it, if it came late."""
    staleness: int = 0


class RefusalView(Struct, frozen=True, kw_only=True):
    """One update that does not count."""

    participant: str
    code: str
    message: str


class RoundView(Struct, frozen=True, kw_only=True):
    """One round. `seconds` is from its start to its end, or to now; `refused` counts refusals by code."""

    round_id: str
    experiment_id: str
    number: int
    state: str
    reason: str
    participants: list[str]
    k_of_n: int
    min_updates: int
    timeout_s: float
    manual: bool
    base_model: str
    base_version: int
    base_hash: str
    model_version: int | None
    model_hash: str
    num_updates: int
    total_samples: int
    metrics: dict[str, float]
    refused: dict[str, int]
    started_at: str
    ended_at: str | None
    seconds: float
    mode: str = "train"
    lost: dict[str, str] = {}
    """Participants whose tasks ended without an update, and why."""
    config_hash: str = ""
    """SHA-256 of the request that made the experiment."""
    base_source: str = ""
    """The artefact that the base was pulled from, `oci://…@sha256:…`, where the experiment named one."""


class RoundDetail(RoundView, frozen=True, kw_only=True):
    """One round with its updates, in participant order, and the first of what was refused."""

    bytes: int
    updates: list[UpdateView]
    refusals: list[RefusalView] = []
    trainer_hashes: list[str] = []
    """The modules that its updates come from: more than one if participants ran different ones."""


class RoundPage(Struct, frozen=True, kw_only=True):
    """Rounds, newest first."""

    offset: int
    limit: int
    total: int
    rounds: list[RoundView]


class ExperimentView(Struct, frozen=True, kw_only=True):
    """One experiment. `round_id` is its latest round, `model_version` its newest model."""

    experiment_id: str
    round_id: str
    state: str
    reason: str
    round: int
    rounds: int
    participants: list[str]
    k_of_n: int
    min_updates: int
    timeout_s: float
    task_wasm_image: str
    hyperparams: dict[str, Any] | None
    strategy: StrategyBody
    seed: int
    base_model: str
    model_ref: str
    model_version: int
    created_at: str
    ended_at: str | None
    mode: str = "train"
    phase: str = ""
    """While it lives: training, evaluating or between rounds."""
    selector: SelectorBody | None = None
    evaluation: EvaluationBody | None = None
    stop: StopBody = StopBody()
    round_failures_max: int = 0
    late: LateBody | None = None
    update_format: str = ""
    metrics: dict[str, float] = {}
    """What was measured last."""
    best: float | None = None
    best_version: int | None = None
    base_source: str = ""


class ExperimentDetail(ExperimentView, frozen=True, kw_only=True):
    """One experiment with the latest rounds of its id, newest first."""

    history: list[RoundView]


class ExperimentPage(Struct, frozen=True, kw_only=True):
    """Experiments, newest first."""

    offset: int
    limit: int
    total: int
    experiments: list[ExperimentView]


class MetricRow(Struct, frozen=True, kw_only=True):
    """One round in numbers."""

    round_id: str
    number: int
    mode: str
    state: str
    model_version: int | None
    metrics: dict[str, float]
    num_updates: int
    samples: int
    bytes: int
    seconds: float


class MetricRows(Struct, frozen=True, kw_only=True):
    """`GET /experiments/{id}/metrics`: rounds and evaluations, oldest first."""

    experiment_id: str
    rows: list[MetricRow]


class ParticipantRow(Struct, frozen=True, kw_only=True):
    """One participant over all rounds of an experiment."""

    participant: str
    asked: int
    """Rounds and evaluations that it was to take part in."""
    sent: int
    """Of these, how many its update counted in."""
    lost: int
    refused: int
    samples: int
    bytes: int
    seconds_mean: float
    """From a round's start to its update's arrival; 0 if it sent nothing."""
    metrics: dict[str, float]
    """Of its latest update."""


class ParticipantRows(Struct, frozen=True, kw_only=True):
    """`GET /experiments/{id}/participants`, in ascending order."""

    experiment_id: str
    participants: list[ParticipantRow]


class TaskConfig(Struct, frozen=True, kw_only=True):
    """For whom a task's description is."""

    proplet_id: str


class RoundTask(Struct, frozen=True, kw_only=True):
    """What a participant does in a round."""

    round_id: str
    model_ref: str
    config: TaskConfig
    hyperparams: dict[str, Any] | None


class RoundTaskAnswer(Struct, frozen=True, kw_only=True):
    """`GET /task`."""

    task: RoundTask


class NextRound(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`GET /rounds/next`: the newest model that a round made, if any did."""

    next_round_available: bool
    message: str = ""
    last_completed_round: str = ""
    new_model_version: int | None = None
    model_uri: str = ""
    status: str = ""
