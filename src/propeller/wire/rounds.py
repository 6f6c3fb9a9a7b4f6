"""MQTT messages of federated rounds, and of models that devices take from the broker.

They read as `messages` says. What is asked of rounds over HTTP is in `experiments`.
"""

from typing import Any, Literal

from msgspec import Struct

from propeller.wire.experiments import LateBody, SelectorBody
from propeller.wire.messages import NonNegative, Wire


class RoundStart(Wire, frozen=True):
    """`B/fl/rounds/start`: launch one round. Extra fields over the original's default when absent."""

    round_id: str
    model_uri: str
    task_wasm_image: str
    participants: list[str]
    hyperparams: dict[str, Any] | None = None
    k_of_n: NonNegative = 0
    timeout_s: float = 0.0
    experiment_id: str = ""
    seed: int = 0
    """The experiment's seed, from which each trainer's own is derived."""
    selector: SelectorBody | None = None
    """With it, the manager draws the participants, from `participants` if there are any."""
    mode: Literal["train", "infer"] = "train"
    data_part: Literal["", "train", "test"] = ""
    update_format: str = ""
    files: bool = False
    late: LateBody | None = None


class RoundLaunched(Wire, frozen=True):
    """The manager has the round's tasks on disk."""

    round_id: str
    tasks: NonNegative = 0
    refused: str = ""
    """Why the round can never be launched (an unknown participant, say); empty if it was."""


class RoundComplete(Wire, frozen=True):
    """A round's end, well or not; repeated until the manager says `closed`."""

    round_id: str
    state: Literal["completed", "failed"]
    reason: str = ""
    model_version: int | None = None
    model_topic: str = ""
    num_updates: NonNegative = 0
    contributors: list[str] = []  # noqa: RUF012 - msgspec copies it
    """Participants whose tasks are left alone: their updates count, or may yet count later."""
    stragglers: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    """Tasks of earlier rounds that are of no more use: participant → the round that asked for them."""
    total_samples: NonNegative = 0
    completed_at: str = ""


class RoundClosed(Wire, frozen=True):
    """The manager stopped what was left of the round."""

    round_id: str


class RoundNext(Struct, frozen=True, kw_only=True):
    """`fl/rounds/next`: a new global model exists (the original's fields, all of them, always)."""

    round_id: str
    new_model_version: int
    model_uri: str
    timestamp: str
    status: str = "complete"
    next_round_available: bool = True


class UpdateManifest(Wire, frozen=True):
    """`B/fl/rounds/{round}/manifests/{proplet}`: an update too large for a message comes in pieces.

    Together they are an update's JSON, or with another `format` than `json-f64` the file that `update_b64`
    would hold; what is said beside a file is said here, as in an update's JSON.
    """

    bytes: NonNegative
    piece_bytes: NonNegative
    """Of each piece but the last, which has the rest."""
    sha256: list[str]
    """Of each piece, in order: a piece is known by it."""
    base_model_uri: str = ""
    base_hash: str = ""
    num_samples: Any = None
    metrics: Any = None
    format: str = ""
    trainer_hash: str = ""


class Verdict(Wire, frozen=True):
    """The coordinator's answer to an update that came by MQTT; `status` mirrors the HTTP status.

    With 202 it wants more pieces of an update, by their places in its manifest.
    """

    round_id: str
    status: int
    error: str = ""
    reason: str = ""
    wanted: list[NonNegative] = []  # noqa: RUF012 - msgspec copies it


class ModelManifest(Struct, frozen=True, kw_only=True):
    """What is retained of a model too large for a message: its safetensors file comes in `chunks` pieces.

    `sha256` is the version's content hash, of its tensors and not of the file.
    """

    model_uri: str
    version: int
    sha256: str
    bytes: int
    chunk_bytes: int
    chunks: int
    format: Literal["safetensors"] = "safetensors"


class ModelWish(Struct, frozen=True, kw_only=True):
    """Asks for piece number `chunk` of a model's file; without one for what its topic retains.

    With `as_file` for its manifest, whatever its size.
    """

    model_uri: str
    chunk: NonNegative | None = None
    as_file: bool = False
