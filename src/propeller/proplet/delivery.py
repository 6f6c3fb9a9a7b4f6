"""Delivers an update until the coordinator has answered for it. Knows nothing of what is in it.

An update goes by HTTP. Where that gets no answer, it goes by MQTT and by HTTP in turn until either answers or
the attempt's time is up; where nothing but the broker is within reach, by MQTT alone. What is too large for a
message goes in pieces. The coordinator counts it once however often and on whichever way it comes.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from propeller import limits
from propeller.errors import Bug, PeerUnavailable, PropellerError
from propeller.ports import Bus, HttpStreams, Response
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.job import env_of
from propeller.proplet.offload import Offload, at_once
from propeller.proplet.parcel import Parcel, Sizes, parcel
from propeller.proplet.records import Held, Outcome
from propeller.proplet.services import COORDINATOR, Patience, Services, come_again, reason
from propeller.proplet.update import text_of
from propeller.proplet.workspace import Workspace
from propeller.wire.messages import Start
from propeller.wire.rounds import Verdict
from propeller.wire.topics import Topics

TOKEN_HEADER = "X-Update-Token"  # noqa: S105 - the header's name
DELIVERY_LEAST_S = 10.0
"""An update has at least this long for its delivery, however much of the attempt's time the guest took."""
VERDICT_S = 2.0
"""A verdict on an update that went by MQTT is waited for at least this long before the next try."""
_GOOD = range(200, 300)
_WANTED = 202
"""A verdict that asks for pieces."""
_PIECE_BYTES = 1 << 20


class Verdicts:
    """The coordinator's answers that came by MQTT, for the deliveries that wait. Others are dropped."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Queue[Verdict]] = {}

    def open(self, round_id: str) -> "asyncio.Queue[Verdict]":
        """Collect the round's verdicts from now on, at most one at a time."""
        return self._waiting.setdefault(round_id, asyncio.Queue(maxsize=1))

    def close(self, round_id: str) -> None:
        """Collect no more of them."""
        self._waiting.pop(round_id, None)

    def put(self, verdict: Verdict) -> None:
        """Hand a verdict to whoever waits for it."""
        queue = self._waiting.get(verdict.round_id)
        if queue is not None and not queue.full():
            queue.put_nowait(verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Courier:
    """What delivering takes."""

    proplet_id: str
    http: HttpStreams
    bus: Bus
    topics: Topics
    services: Services
    verdicts: Verdicts
    workspace: Workspace | None = None
    offload: Offload = at_once
    by_broker: bool = False
    """Nothing but the broker is within reach."""
    sizes: Sizes = field(default_factory=Sizes)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A coordinator's word; `status` as in HTTP."""

    status: int
    why: str
    way: str


async def deliver(held: Held, courier: Courier, patience: Patience) -> Outcome:
    """Send a saved update until it is accepted or refused. Raises `AttemptFailed`."""
    start = held.start
    if start is None:
        raise Bug(f"an update without its start message: {held.key}")
    round_id = env_of(start)["ROUND_ID"]
    url = "" if courier.by_broker else courier.services.find(env_of(start), COORDINATOR) + "/update"
    verdicts = courier.verdicts.open(round_id)
    try:
        answer = await _insist(held, start, url, round_id, verdicts, courier, patience)
    finally:
        courier.verdicts.close(round_id)
    if answer.status not in _GOOD:
        raise AttemptFailed("update_refused", f"the coordinator refused the update: {answer.why}")
    return Outcome(results=_result(held, round_id, courier.proplet_id, answer.way), usage=held.usage)


async def _insist(
    held: Held,
    start: Start,
    url: str,
    round_id: str,
    verdicts: "asyncio.Queue[Verdict]",
    courier: Courier,
    patience: Patience,
) -> _Answer:
    """The first definite answer; HTTP first, if there is any, then in turn with MQTT."""
    packed: Parcel | None = None
    tries, why = 0, "by MQTT: no verdict came"
    while True:
        tries += 1
        if url:
            answer = await _post(held, start, url, courier, patience)
            if not come_again(answer.status):
                return answer
            why = f"POST {url}: {answer.why}"
        packed = packed or await _packed(held, round_id, courier)
        pause_s = patience.pause_s(tries)
        if await courier.bus.publish(packed.first):
            pause_s = max(pause_s, min(VERDICT_S, patience.left_s))
        verdict = await _heard(packed, verdicts, courier, patience, pause_s)
        if verdict is not None and not come_again(verdict.status):
            return _Answer(verdict.status, _spoken(verdict.status, [verdict.reason, verdict.error]), "mqtt")
        if patience.left_s <= 0:
            raise AttemptFailed(
                "update_undelivered", f"nobody answered for the update in {tries} tries, at last: {why}"
            )


async def _packed(held: Held, round_id: str, courier: Courier) -> Parcel:
    file = _file_of(held, courier) if held.form else None
    return await courier.offload(
        lambda: parcel(
            held,
            file,
            round_id=round_id,
            proplet_id=courier.proplet_id,
            topics=courier.topics,
            sizes=courier.sizes,
        )
    )


async def _heard(
    packed: Parcel,
    verdicts: "asyncio.Queue[Verdict]",
    courier: Courier,
    patience: Patience,
    wait_s: float,
) -> Verdict | None:
    """The definite verdict, if one comes in time; pieces that are wanted are sent, and give it new time."""
    clock = patience.clock
    until_s = clock.now().mono_s + wait_s
    while True:
        try:
            async with asyncio.timeout(max(0.0, until_s - clock.now().mono_s)):
                verdict = await verdicts.get()
        except TimeoutError:
            return None
        if verdict.status == _WANTED:
            for place in verdict.wanted[: limits.UPDATE_PIECES_WANTED]:
                await courier.bus.publish(await courier.offload(partial(packed.piece, place)))
            until_s = clock.now().mono_s + min(2 * VERDICT_S, patience.left_s)
        elif not come_again(verdict.status):
            return verdict


async def _post(held: Held, start: Start, url: str, courier: Courier, patience: Patience) -> _Answer:
    token = {TOKEN_HEADER: start.update_token} if isinstance(start.update_token, str) else {}
    try:
        if held.form:
            response = await _post_file(held, url, token, courier, patience)
        else:
            response = await courier.http.request(
                "POST",
                url,
                headers={"Content-Type": "application/json", **token},
                body=held.update,
                timeout_s=min(limits.HTTP_TIMEOUT_S, max(patience.left_s, 1.0)),
            )
    except PeerUnavailable as error:
        return _Answer(error.http_status, error.message, "http")
    except PropellerError as error:
        raise AttemptFailed("update_undelivered", error.message) from error
    return _Answer(response.status, _why(response.status, response.body) or reason(response), "http")


async def _post_file(
    held: Held, url: str, token: Mapping[str, str], courier: Courier, patience: Patience
) -> Response:
    """The same of an update whose tensors are in a file; what JSON says beside them is in headers."""
    path = _file_of(held, courier)
    said: list[bytes] = []

    async def hear(piece: bytes) -> None:
        said.append(piece)

    answer = await courier.http.stream(
        "POST",
        url,
        headers={
            "content-type": "application/vnd.safetensors",
            "content-length": str(path.stat().st_size),
            "x-update-format": held.form,
            **_headers(held.update),
            **token,
        },
        body=_pieces(path),
        sink=hear,
        timeout_s=min(limits.HTTP_STREAM_S, max(patience.left_s, limits.HTTP_TIMEOUT_S)),
        limit_bytes=limits.HTTP_JSON_OFFLOAD_BYTES,
    )
    return Response(answer.status, answer.headers, answer.body or b"".join(said))


def _headers(update: bytes) -> dict[str, str]:
    fields = msgspec.json.decode(update, type=dict[str, object])
    headers = {
        "x-round-id": str(fields["round_id"]),
        "x-proplet-id": str(fields["proplet_id"]),
        "x-num-samples": json.dumps(fields.get("num_samples")),
        "x-metrics": json.dumps(fields.get("metrics")),
        "x-base-model-uri": str(fields.get("base_model_uri") or ""),
        "x-trainer-hash": str(fields.get("trainer_hash") or ""),
    }
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise AttemptFailed(
                "invalid_update", f"{name[2:]} of the update is no plain text: {value[:80]!r}"
            )
    return headers


def _file_of(held: Held, courier: Courier) -> Path:
    path = courier.workspace.packed(held.key) if courier.workspace is not None else None
    if path is None or not path.is_file():
        raise AttemptFailed("internal", "the file of the update is gone; start the task again")
    return path


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _why(status: int, body: bytes) -> str:
    """The coordinator's reason, if the body is the JSON of an error."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return _spoken(status, [text_of(fields.get(name)) for name in ("code", "reason", "error", "message")])


def _spoken(status: int, words: list[str]) -> str:
    return f"{status} {': '.join(dict.fromkeys(word for word in words if word))}".strip()


def _result(held: Held, round_id: str, proplet_id: str, way: str) -> bytes:
    """What the task shows: who sent how much and how it went; the weights stay with the coordinator."""
    fields: Mapping[str, msgspec.Raw] = msgspec.json.decode(held.update, type=dict[str, msgspec.Raw])
    null = msgspec.Raw(b"null")
    return msgspec.json.encode(
        {
            "task_id": held.key.task_id,
            "round_id": round_id,
            "proplet_id": proplet_id,
            "base_model_uri": fields.get("base_model_uri", null),
            "num_samples": fields.get("num_samples", null),
            "metrics": fields.get("metrics", null),
            "status": "accepted",
            "via": way,
        }
    )
