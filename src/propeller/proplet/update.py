"""From a guest's output to an update that the coordinator has answered for. Knows weights only as text.

An update goes by HTTP. Where that gets no answer, it goes by MQTT and by HTTP in turn until either answers or
the attempt's time is up; the coordinator counts it once however often and on whichever way it comes.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from propeller import limits
from propeller.errors import Bug, PeerUnavailable, PropellerError
from propeller.ports import Bus, GuestDone, HttpStreams, Message, Response
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.job import env_of
from propeller.proplet.model import plain
from propeller.proplet.packing import PackOrder
from propeller.proplet.records import Held, Outcome
from propeller.proplet.services import COORDINATOR, Patience, Services, come_again, reason
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
TOLD, TENSORS = "update.json", "update.safetensors"
"""What a guest with files writes: what is said of the update, and its tensors."""
_PIECE_BYTES = 1 << 20
_ENVELOPE_BYTES = 1024


# --- making ----------------------------------------------------------------------------------------------


def make_update(
    ended: GuestDone, start: Start, proplet_id: str, trainer_hash: str = "", files: Path | None = None
) -> bytes:
    """The update's JSON from what a guest wrote, put or printed, completed where it left out who and where.

    `trainer_hash` is the module's SHA-256, which the guest has no say in. Raises `AttemptFailed`
    (`invalid_update`) unless it is one JSON object of this round and this proplet, with an object `update`
    or, if the guest has `files`, the tensors in one of them; where the round evaluates, with `metrics` and
    without any.
    """
    env = env_of(start)
    fields = _read(ended, files)
    if files is not None and plain(files / TENSORS):
        fields["update"] = msgspec.Raw(b"{}")
    _check_kind(fields, evaluates=env.get("FL_MODE") == "evaluate")
    if trainer_hash:
        fields["trainer_hash"] = msgspec.Raw(msgspec.json.encode(trainer_hash))
    own = {"round_id": env["ROUND_ID"], "proplet_id": proplet_id, "base_model_uri": env.get("MODEL_URI", "")}
    for name, value in own.items():
        given = _text(fields.get(name))
        if not given:
            fields[name] = msgspec.Raw(msgspec.json.encode(value))
        elif given != value and name != "base_model_uri":
            raise AttemptFailed("invalid_update", f"the update says {name} {given!r}; this is {value!r}")
    update = msgspec.json.encode(fields)
    if len(update) > limits.UPDATE_BYTES_MAX:
        raise AttemptFailed(
            "invalid_update", f"the update has {len(update)} bytes; the limit is {limits.UPDATE_BYTES_MAX}"
        )
    return update


def _read(ended: GuestDone, files: Path | None) -> dict[str, msgspec.Raw]:
    source, text = _source(ended, files)
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AttemptFailed(
            "invalid_update", f"the guest's {source} is not one JSON object: {error}; it must be the update"
        ) from error
    return fields


def _check_kind(fields: Mapping[str, msgspec.Raw], *, evaluates: bool) -> None:
    update, metrics = (bytes(fields.get(name, b"")).lstrip() for name in ("update", "metrics"))
    if not evaluates and not update.startswith(b"{"):
        raise AttemptFailed("invalid_update", "the guest's result has no object `update`")
    if evaluates and (update not in {b"", b"null"} or not metrics.startswith(b"{")):
        raise AttemptFailed(
            "invalid_update",
            "the round evaluates (FL_MODE): the guest's result must have an object `metrics` and no `update`",
        )


def _source(ended: GuestDone, files: Path | None) -> tuple[str, bytes]:
    """The first that is there: the file, what was put, standard output."""
    told = files / TOLD if files is not None else None
    if told is not None and plain(told):
        if told.stat().st_size > limits.UPDATE_BYTES_MAX:
            raise AttemptFailed("invalid_update", f"{TOLD} is over {limits.UPDATE_BYTES_MAX} bytes")
        return TOLD, told.read_bytes()
    if ended.result is not None:
        return "put_result", ended.result
    return "stdout", ended.stdout.encode()


def pack_order(update: bytes, form: str, base: Path, files: Path, out: Path) -> tuple[bytes, PackOrder]:
    """What is said of the update beside its tensors, and how those become the file that travels."""
    fields = msgspec.json.decode(update, type=dict[str, msgspec.Raw])
    tensors, inside = files / TENSORS, fields.pop("update")
    if not plain(tensors):
        tensors = files / "update-tensors.json"
        tensors.write_bytes(inside)
    order = PackOrder(
        base=str(base),
        update=str(tensors),
        out=str(out),
        form=form,
        round_id=_text(fields["round_id"]),
        participant=_text(fields["proplet_id"]),
    )
    return msgspec.json.encode(fields), order


def _text(raw: msgspec.Raw | None) -> str:
    """The string in a field; empty if there is none or it is null."""
    try:
        value = msgspec.json.decode(raw, type=str | None) if raw is not None else None
    except msgspec.ValidationError:
        return bytes(raw or b"").decode()
    return value or ""


# --- delivering ------------------------------------------------------------------------------------------


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
    url = courier.services.find(env_of(start), COORDINATOR) + "/update"
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
    """The first definite answer; HTTP first, then in turn with MQTT."""
    tries = 0
    while True:
        tries += 1
        answer = await _post(held, start, url, courier, patience)
        if not come_again(answer.status):
            return answer
        sent = await _publish(held, round_id, courier)
        pause_s = patience.pause_s(tries)
        try:
            async with asyncio.timeout(max(pause_s, min(VERDICT_S, patience.left_s)) if sent else pause_s):
                while True:
                    verdict = await verdicts.get()
                    if not come_again(verdict.status):
                        why = _spoken(verdict.status, [verdict.reason, verdict.error])
                        return _Answer(verdict.status, why, "mqtt")
        except TimeoutError:
            if patience.left_s <= 0:
                why = f"nobody answered for the update in {tries} tries, at last: POST {url}: {answer.why}"
                raise AttemptFailed("update_undelivered", why) from None


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
    return _spoken(status, [_text(fields.get(name)) for name in ("code", "reason", "error", "message")])


def _spoken(status: int, words: list[str]) -> str:
    return f"{status} {': '.join(dict.fromkeys(word for word in words if word))}".strip()


async def _publish(held: Held, round_id: str, courier: Courier) -> bool:
    """Whether the update went out by MQTT: it may be too large, or there may be no connection."""
    update = held.update
    if held.form:
        path = _file_of(held, courier)
        if path.stat().st_size * 4 // 3 + len(update) > limits.MQTT_MESSAGE_BYTES_MAX - _ENVELOPE_BYTES:
            return False
        fields = msgspec.json.decode(update, type=dict[str, msgspec.Raw])
        inside = {"format": held.form, "update_b64": base64.b64encode(path.read_bytes()).decode()}
        update = msgspec.json.encode({**fields, **inside})
    if len(update) > limits.MQTT_MESSAGE_BYTES_MAX:
        return False
    return await courier.bus.publish(
        Message(courier.topics.round_update(round_id, courier.proplet_id), update)
    )


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
