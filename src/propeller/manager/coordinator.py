"""The manager's view of the coordinator: a few HTTP calls, every one of them safe to repeat.

An answer of 4xx becomes the error that it names, so that the manager's own caller reads the coordinator's
reason; no answer, 429 and 5xx become `PeerUnavailable`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from propeller import limits
from propeller.core.task import Task
from propeller.errors import (
    BadInput,
    CallerError,
    Conflict,
    DecodeError,
    Denied,
    NotFound,
    PeerRefused,
    PeerUnavailable,
    TooLarge,
)
from propeller.ports import Http, Response
from propeller.wire import codec
from propeller.wire.joining import DrawnBody, JoinBody, LostBody
from propeller.wire.models import ModelPulled, PullModel

_ERRORS: dict[int, type[CallerError]] = {
    400: BadInput,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
}
_TOO_MANY = 429
_SERVER_SIDE = 500


class _Said(msgspec.Struct):
    error: str = ""
    code: str = ""


class KnownRound(msgspec.Struct, frozen=True):
    """What the manager needs of a round's record."""

    round_id: str
    state: str
    participants: list[str]
    base_model: str
    base_version: int

    @property
    def closed(self) -> bool:
        """Whether its set of updates is complete."""
        return self.over or self.state == "aggregating"

    @property
    def over(self) -> bool:
        """Whether no update can count any more."""
        return self.state in {"completed", "failed"}


class KnownExperiment(msgspec.Struct, frozen=True):
    """What the manager shows of an experiment."""

    experiment_id: str
    state: str
    reason: str
    round: int
    rounds: int
    model_ref: str
    created_at: str
    ended_at: str | None
    metrics: dict[str, float] = {}

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state not in {"running", "paused"}


class CoordinatorClient:
    """Calls one coordinator at `base_url` (no trailing slash)."""

    def __init__(self, http: Http, base_url: str) -> None:
        self._http = http
        self._base_url = base_url

    async def register(self, body: bytes) -> dict[str, Any]:
        """Register an experiment (or one round). Repeating it is harmless."""
        answer = await self.forward("POST", "/experiments", body)
        return codec.decode(dict[str, Any], answer.body, what="the coordinator's answer")

    async def join(self, task: Task, participant: str) -> None:
        """Make `participant` part of the round that `task` names, registering a manual round if need be."""
        body = JoinBody(
            proplet_id=participant,
            model_uri=task.env.get("MODEL_URI", ""),
            image=task.image_url or f"sha256:{task.file_sha256}",
        )
        await self.forward("POST", f"/rounds/{task.round_id}/join", codec.encode(body))

    async def round(self, round_id: str, *, timeout_s: float = limits.HTTP_TIMEOUT_S) -> KnownRound | None:
        """The round, or None if the coordinator does not know it."""
        try:
            answer = await self.forward("GET", f"/rounds/{round_id}", timeout_s=timeout_s)
        except NotFound:
            return None
        return codec.decode(KnownRound, answer.body, what="the round", limit_bytes=limits.HTTP_BODY_BYTES_MAX)

    async def drawn(self, round_id: str, participants: Iterable[str], k: int) -> None:
        """Say who takes part in a round. Repeating it is harmless; raises `Conflict` if others do."""
        body = DrawnBody(participants=list(participants), k_of_n=k)
        await self.forward("POST", f"/rounds/{round_id}/participants", codec.encode(body))

    async def lost(self, round_id: str, reasons: Mapping[str, str]) -> None:
        """Say that these participants will not send. Repeating it is harmless."""
        body = LostBody(participants=dict(reasons))
        await self.forward("POST", f"/rounds/{round_id}/lost", codec.encode(body))

    async def experiment(self, experiment_id: str) -> KnownExperiment | None:
        """The newest experiment of that id, or None if the coordinator does not know it."""
        try:
            answer = await self.forward("GET", f"/experiments/{experiment_id}")
        except NotFound:
            return None
        most = limits.HTTP_BODY_BYTES_MAX
        return codec.decode(KnownExperiment, answer.body, what="the experiment", limit_bytes=most)

    async def pull(self, reference: str) -> ModelPulled:
        """Have an OCI registry's artefact made a version of a model. Repeating it is harmless."""
        body = codec.encode(PullModel(reference=reference))
        answer = await self.forward("POST", "/models/import", body, timeout_s=limits.HTTP_STREAM_S)
        return codec.decode(ModelPulled, answer.body, what="the pulled model")

    async def stop(self, experiment_id: str) -> None:
        """End an experiment; one that has ended stays as it is."""
        await self.forward("POST", f"/experiments/{experiment_id}/stop")

    async def forward(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        content_type: str = "application/json",
        token: str | None = None,
        timeout_s: float = limits.HTTP_TIMEOUT_S,
    ) -> Response:
        """One request; returns a 2xx answer, raises what any other one stands for."""
        headers = {"content-type": content_type} if body else {}
        if token:
            headers["x-update-token"] = token
        answer = await self._http.request(
            method, self._base_url + path, headers=headers, body=body, timeout_s=timeout_s
        )
        if answer.status < 300:  # noqa: PLR2004 - the class of HTTP status
            return answer
        raise _error(answer, f"{method} {path}")


def _error(answer: Response, what: str) -> Exception:
    try:
        said = codec.decode(_Said, answer.body, what="the coordinator's error")
    except DecodeError:
        said = _Said(error=f"the coordinator answered {answer.status} to {what}")
    if answer.status == _TOO_MANY or answer.status >= _SERVER_SIDE:
        return PeerUnavailable(f"the coordinator cannot now: {said.error}", code=said.code or None)
    kind = _ERRORS.get(answer.status)
    if kind is None:
        return PeerRefused(said.error or f"{what}: {answer.status}", status=answer.status)
    return kind(said.error or f"{what}: {answer.status}", code=said.code or None)
