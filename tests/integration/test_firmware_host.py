import base64
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from firmware_host import VECTORS, ask, build

from propeller.errors import PropellerError
from propeller.fl.model_ref import parse_model_ref
from propeller.ports import GuestDone, Message
from propeller.proplet import events as e
from propeller.proplet.agent import Agent
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.inbound import read
from propeller.proplet.records import Outcome, finished
from propeller.proplet.update import make_update
from propeller.wire import codec
from propeller.wire.messages import (
    Ack,
    AckItem,
    Alive,
    AttemptEvent,
    AttemptKey,
    Create,
    ModuleRef,
    PropletMetadata,
    Start,
    Stop,
    TaskLimits,
    Usage,
    Welcome,
)
from propeller.wire.rounds import Verdict
from propeller.wire.topics import FromManager, FromProplet, Topics

ME = "p1"
TOPICS = Topics("d", "c")
SEED = 20_240_501
MUTATIONS = 1500
TRACES = 60


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The firmware's portable parts, built once."""
    return build(tmp_path_factory.mktemp("firmware"))


# --- golden vectors ------------------------------------------------------------------------------------


def _starts() -> Iterator[Start]:
    yield Start(id="t1", name="add", run=1, attempt=1, proplet_id=ME)
    yield Start(
        id="t-2.x_y",
        name='näme "quoted" \\ \n',
        image_url="10.0.2.2:5000/fl:latest",
        inputs=["1", "-2"],
        cli_args=["a", "é"],
        env={"ROUND_ID": "r1", "HYPERPARAMS": '{"epochs":1}', "EMPTY": ""},
        proplet_id=ME,
        run=3,
        attempt=2,
        module=ModuleRef(sha256="ab" * 32, url="http://10.0.2.2:7070/blobs/x", bytes=5),
        limits=TaskLimits(wall_s=2.5, memory_bytes=1 << 20),
        seed=(1 << 63) - 1,
        update_token="t",
    )
    yield Start(id="t3", name="", env=None, inputs=None, encrypted=True, latent=True, broadcast=True)
    # To microcontrollers on the shared lane a manager gives inputs as numbers.
    yield Start(id="t4", name="add", file="AGFzbQEAAAA=", inputs=[2, -40, 1.5, "x"], proplet_id=ME)


def _meaning(start: Start) -> dict[str, Any]:
    """What the firmware keeps of a start, as it shows it: raw JSON by name, absent and null left out."""
    shown: dict[str, Any] = {"id": start.id, "name": start.name}
    for name in ("image_url", "file", "inputs", "cli_args", "env"):
        value = getattr(start, name)
        if value is not msgspec.UNSET and value is not None:
            shown[name] = value
    if isinstance(start.module, ModuleRef):
        shown |= {"module_url": start.module.url, "module_sha256": start.module.sha256}
    if isinstance(start.seed, int):
        shown["seed"] = start.seed
    if isinstance(start.run, int) and isinstance(start.attempt, int):
        shown |= {"run": start.run, "attempt": start.attempt}
    limits = start.limits if isinstance(start.limits, TaskLimits) else TaskLimits()
    shown |= {"wall_ms": int((limits.wall_s or 0) * 1000), "memory_bytes": limits.memory_bytes or 0}
    return shown | {"flags": start.broadcast | start.encrypted << 1 | start.latent << 2}


def _outcomes() -> Iterator[tuple[AttemptKey, Outcome]]:
    key = AttemptKey(task_id="t1", run=1, attempt=2)
    yield key, Outcome(results=b'"42"')
    yield key, Outcome(results=b'{"a":1}', usage=Usage(wall_s=1.25, cpu_s=1.0, memory_bytes=65536))
    yield (
        key,
        Outcome(error='a "trap" \x01 in é\n', failure="trap", stderr="tab\there", usage=Usage(wall_s=0.007)),
    )


def make_vectors() -> list[dict[str, Any]]:
    """Questions for the firmware with the answers that `propeller.wire` gives."""
    made: list[dict[str, Any]] = []
    for start in _starts():
        text = codec.encode(start).decode()
        made.append({"ask": {"do": "read", "kind": "start", "text": text}, "json": _meaning(start)})
    events = [
        AckItem(task_id="t1", run=1, attempt=2, kind="finished"),
        AckItem(task_id="t2", run=0, attempt=0, kind="started"),
    ]
    made.append(
        {
            "ask": {"do": "read", "kind": "ack", "text": codec.encode(Ack(events=events)).decode()},
            "text": "t1/1/2f;t2/0/0s;",
        }
    )
    made.append(
        {
            "ask": {"do": "read", "kind": "welcome", "text": codec.encode(Welcome(heartbeat_s=2.5)).decode()},
            "text": "2500",
        }
    )
    made.append(
        {"ask": {"do": "read", "kind": "welcome", "text": codec.encode(Welcome()).decode()}, "text": "10000"}
    )
    verdict = Verdict(round_id="r1", status=409, reason="round_closed")
    made.append(
        {
            "ask": {"do": "read", "kind": "verdict", "text": codec.encode(verdict).decode()},
            "text": "r1 409 round_closed",
        }
    )
    stop = Stop(id="t1", run=4, attempt=5, reason="enough")
    made.append(
        {"ask": {"do": "read", "kind": "stop", "text": codec.encode(stop).decode()}, "text": "t1+4/5 enough"}
    )
    made.append(
        {
            "ask": {"do": "read", "kind": "stop", "text": codec.encode(Stop(id="t1")).decode()},
            "text": "t1-0/0 ",
        }
    )
    for key, outcome in _outcomes():
        made.append(
            {
                "ask": {
                    "do": "finished", "task": key.task_id, "run": key.run, "attempt": key.attempt,
                    "error": outcome.error, "failure": outcome.failure, "stderr": outcome.stderr,
                    "wall_ms": round(outcome.usage.wall_s * 1000),
                    "cpu_ms": round(outcome.usage.cpu_s * 1000),
                    "memory_bytes": outcome.usage.memory_bytes, "results": json.loads(outcome.results),
                },
                "text": finished(key, outcome, ME).decode(),
            }
        )  # fmt: skip
    metadata = PropletMetadata(
        description="a board", tags=["x", "y"], environment="embedded", os="zephyr",
        total_memory_bytes=15728640.0, proplet_version="0.1.0", wasm_runtime="wamr",
    )  # fmt: skip
    create = Create(proplet_id=ME, namespace="embedded", metadata=metadata, protocol=2)
    made.append(
        {
            "ask": {"do": "create", "description": "a board", "tags": "x,y", "memory_bytes": 15728640},
            "text": codec.encode(create).decode(),
        }
    )
    made.append({"ask": {"do": "topics"}, "text": " ".join([*_topics(), ""])})
    return made


def _topics() -> list[str]:
    directed = [FromProplet.ALIVE, FromProplet.EVENTS, FromProplet.RESULTS, FromProplet.METRICS]
    return [
        TOPICS.from_proplet(FromProplet.CREATE),
        *(TOPICS.from_proplet(kind, ME) for kind in directed),
        f"{TOPICS.base}/registry/proplet",
        TOPICS.round_update("r1", ME),
        *TOPICS.proplet_subscriptions(ME),
        f"{TOPICS.base}/registry/server",
    ]


def test_the_stored_vectors_are_what_the_wire_says_today():
    """The file that the firmware is tested against was made by this code: neither side drifts alone."""
    assert json.loads(VECTORS.read_text()) == make_vectors()


def test_firmware_reads_and_writes_every_vector_as_the_wire_does(program):
    """Messages mean the same in C and in Python, and what C writes is what Python writes, byte for byte."""
    vectors = json.loads(VECTORS.read_text())
    answers = ask(program, [{**vector["ask"]} for vector in vectors])
    for vector, answer in zip(vectors, answers, strict=True):
        if "json" in vector:
            assert json.loads(answer) == vector["json"]
        else:
            assert answer == vector["text"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("start", "{}"), ("start", '{"id":"t","name":5}'), ("start", '{"id":"a/b","name":""}'),
        ("start", '{"id":"t","name":"n","env":{"A":1}}'),
        ("start", '{"id":"t","name":"n","run":1,"attempt":1,"inputs":[true]}'),
        ("start", '{"id":"t","name":"n","run":-1,"attempt":1}'), ("start", '{"id":"t","name":"n"} x'),
        ("start", '{"id":"t","name":"n","module":{"url":"u"}}'), ("start", '{"id":"t","name":"\\ud800"}'),
        ("start", "[" * 100), ("stop", "[]"), ("stop", '{"id":""}'), ("welcome", '{"heartbeat_s":"1"}'),
        ("ack", '{"events":[{"task_id":"t","run":1,"attempt":1,"kind":"eaten"}]}'),
        ("ack", '{"events":[{}]}'),
        ("verdict", '{"round_id":"r"}'), ("verdict", '{"round_id":"r","status":"200"}'),
    ],
)  # fmt: skip
def test_what_python_refuses_the_firmware_refuses(program, kind, text):
    """A message that means nothing to the ordinary proplet means nothing to this one."""
    topic = TOPICS.round_verdict("r", ME) if kind == "verdict" else TOPICS.from_manager(FromManager(kind), ME)
    with pytest.raises(PropellerError):
        read(Message(topic, text.encode("utf-8", "surrogatepass")), TOPICS, ME)
    assert ask(program, [{"do": "read", "kind": kind, "text": text}]) == ["refused"]


@pytest.mark.parametrize(
    ("topic", "meaning"),
    [
        ("m/d/c/c/control/manager/start/p1", "start"), ("m/d/c/c/control/manager/start", "start"),
        ("m/d/c/c/control/manager/start/p2", "nothing"), ("m/d/c/c/control/manager/stop/p1/x", "nothing"),
        ("m/d/c/c/control/manager/ack", "nothing"), ("m/d/c/c/control/manager/welcome/p1", "welcome"),
        ("m/d/c/c/fl/rounds/r1/verdicts/p1", "verdict"), ("m/d/c/c/fl/rounds/r1/verdicts/p2", "nothing"),
        ("m/d/c/c/registry/server", "chunk"), ("fl/models/global_model_v1", "model"),
        ("m/d/c/other/control/manager/start/p1", "nothing"), ("", "nothing"), ("m/d/c/c/", "nothing"),
    ],
)  # fmt: skip
def test_topics_mean_what_they_say(program, topic, meaning):
    """Only what is addressed to this proplet, on its own channel, means anything to it."""
    assert ask(program, [{"do": "topic", "topic": topic}]) == [meaning]


# --- the agent -----------------------------------------------------------------------------------------


class Twin:
    """The ordinary proplet's agent, answering in the words of the firmware's test program."""

    def __init__(self) -> None:
        self.agent = Agent(ME, heartbeat_s=10.0)
        self.working: AttemptKey | None = None

    def feed(self, event: e.Event, now_ms: int) -> list[str]:
        """What follows from `event`, one string for each command that leaves the agent."""
        said = [self._show(command) for command in self.agent.handle(event, now_ms / 1000)]
        self.agent.validate()
        return [item for item in said if item]

    def tick(self, now_ms: int) -> list[str]:
        """What is due by now: a heartbeat first, then repetitions."""
        said: list[str] = []
        if self.agent.heartbeat_due_s <= now_ms / 1000:
            said += self.feed(e.HeartbeatDue(), now_ms)
        if self.agent.resend_due_s <= now_ms / 1000:
            said += self.feed(e.ResendDue(), now_ms)
        return said

    @property
    def due_ms(self) -> int:
        """When the next tick is needed; 0 for never, as the program says it."""
        due_s = min(self.agent.heartbeat_due_s, self.agent.resend_due_s)
        return 0 if due_s == float("inf") else round(due_s * 1000)

    def _show(self, command: e.Command) -> str:  # noqa: PLR0911 - one answer for each command
        match command:
            case e.PublishCreate():
                metadata = PropletMetadata(environment="embedded")
                create = Create(proplet_id=ME, namespace="embedded", metadata=metadata, protocol=2)
                return "create " + codec.encode(create).decode()
            case e.PublishAlive(attempts):
                alive = Alive(proplet_id=ME, namespace="embedded", attempts=list(attempts), boot="boot")
                return "alive " + codec.encode(alive).decode()
            case e.PublishEvent(key, started):
                kind = "started" if started else "accepted"
                event = AttemptEvent(task_id=key.task_id, run=key.run, attempt=key.attempt, kind=kind)
                return "events " + codec.encode(event).decode()
            case e.PublishFinished(_, payload):
                return "results " + payload.decode()
            case e.Run(held):
                self.working = held.key
                return f"run {held.key.task_id} {held.key.run} {held.key.attempt}"
            case e.Kill(key):
                return f"kill {key.task_id} {key.run} {key.attempt}"
            case e.Ignored(why, task_id):
                return f"ignored {why} {task_id}"
            case _:
                return ""


def _step(  # noqa: PLR0911 - one answer for each event
    rng: random.Random, twin: Twin, now: int
) -> tuple[dict[str, Any], list[str]]:
    """One random event: the question for the firmware, and what the ordinary agent says."""
    key = AttemptKey(task_id=f"t{rng.randrange(3)}", run=rng.randrange(1, 3), attempt=rng.randrange(1, 3))
    question: dict[str, Any] = {"do": "agent", "at": now}
    match rng.choice(
        ["start"] * 4
        + [
            "stop",
            "stop",
            "ack",
            "ack",
            "ack",
            "connected",
            "welcomed",
            "started",
            "ended",
            "ended",
            "tick",
            "tick",
        ]
    ):
        case "start":
            start = Start(
                id=key.task_id,
                name="n",
                run=key.run,
                attempt=key.attempt,
                proplet_id=rng.choice([ME, ME, ME, "p2"]),
            )
            text = codec.encode(start).decode()
            return question | {"event": "start", "text": text}, twin.feed(e.StartReceived(key, start), now)
        case "stop":
            stop = Stop(id=key.task_id, reason=rng.choice(["", "why"]))
            if rng.random() < 0.7:
                stop = Stop(id=key.task_id, run=key.run, attempt=key.attempt, proplet_id=ME)
            text = codec.encode(stop).decode()
            return question | {"event": "stop", "text": text}, twin.feed(e.StopReceived(stop), now)
        case "ack":
            item = AckItem(
                task_id=key.task_id,
                run=key.run,
                attempt=key.attempt,
                kind=rng.choice(["accepted", "started", "finished"]),
            )
            text = codec.encode(Ack(events=[item])).decode()
            return question | {"event": "ack", "text": text}, twin.feed(e.AckReceived((item,)), now)
        case "connected":
            return question | {"event": "connected"}, twin.feed(e.Connected(), now)
        case "welcomed":
            heartbeat = rng.choice([10, 2000, 10_000])
            return question | {"event": "welcomed", "heartbeat_ms": heartbeat}, twin.feed(
                e.Welcomed(heartbeat / 1000), now
            )
        case ("started" | "ended") as kind:
            return _work(rng, twin, now, question, kind)
        case _:
            return question | {"event": "tick"}, twin.tick(now)


def _work(
    rng: random.Random, twin: Twin, now: int, question: dict[str, Any], kind: str
) -> tuple[dict[str, Any], list[str]]:
    """What the worker reports of the attempt that it was last given; a tick if there is none."""
    key = twin.working
    if key is None:
        return question | {"event": "tick"}, twin.tick(now)
    question |= {"task": key.task_id, "run": key.run, "attempt": key.attempt}
    if kind == "started":
        return question | {"event": "started"}, twin.feed(e.GuestStarted(key), now)
    twin.working = None
    failure = rng.choice(["", "trap"])
    outcome = Outcome(error="it trapped", failure="trap") if failure else Outcome(results=b'"r"')
    said = twin.feed(e.GuestEnded(key, outcome), now)
    return question | {"event": "ended", "failure": failure, "error": outcome.error}, said


@pytest.mark.parametrize("seed", range(TRACES))
def test_agent_decides_as_the_ordinary_proplet_does(program, seed):
    """Event by event, over random lives with lost, late and repeated orders, both agents say the same."""
    rng = random.Random(SEED + seed)  # noqa: S311 - repeatable
    twin, now = Twin(), 0
    questions: list[dict[str, Any]] = [{"do": "agent", "event": "begin", "id": ME}]
    expected: list[str] = []
    for _ in range(120):
        now += 125 * rng.choice([0, 1, 1, 8, 40, 200])
        question, said = _step(rng, twin, now)
        questions.append(question)
        expected.append("".join(item + "\t" for item in said) + f"due {twin.due_ms}")
    answers = ask(program, questions)[1:]
    for number, (question, answer, wanted) in enumerate(zip(questions[1:], answers, expected, strict=True)):
        assert answer == wanted, f"seed {seed}, event {number}: {question}"


def test_agent_without_memory_takes_nothing_and_still_says_how_things_end(program):
    """No memory for a start: not taken, and it comes again. None for an end: said as what it is."""
    start = codec.encode(Start(id="t1", name="n", run=1, attempt=1)).decode()
    other = codec.encode(Start(id="t2", name="n", run=1, attempt=1)).decode()
    begin = [
        {"event": "begin", "id": ME},
        {"event": "connected"},
        {"event": "welcomed", "heartbeat_ms": 10_000},
    ]
    hungry = [
        {"event": "start", "text": start},
        {"event": "starve", "on": 1},
        {"event": "start", "text": other},
    ]
    end = [{"event": "ended", "task": "t1", "run": 1, "attempt": 1, "failure": "", "error": ""}]
    answers = ask(program, [{"do": "agent", **item} for item in [*begin, *hungry, *end]])
    assert answers[5].startswith("ignored unsaved t2")
    assert '"failure":"memory"' in answers[6]


def test_agent_on_the_shared_lane_runs_a_task_once_and_answers_in_the_original_words(program):
    """Other managers number no attempts: a live task is not started twice, a finished one may be."""
    start = {"event": "start", "text": '{"id":"t1","name":"n","file":"AA=="}'}
    end = {"event": "ended", "task": "t1", "run": 0, "attempt": 1, "failure": "", "error": ""}
    events = [
        {"event": "begin", "id": ME, "lane": "shared"},
        {"event": "connected"},
        start,
        start,
        end,
        start,
    ]
    answers = ask(program, [{"do": "agent", **item} for item in events])
    assert '"protocol"' not in answers[1]
    assert '"status":"alive"' in answers[1]
    assert answers[3].startswith("ignored already_running t1")
    assert 'results {"task_id":"t1","proplet_id":"p1","results":"r"}' in answers[4]
    assert answers[5].startswith("run t1 0 2")


# --- rounds and modules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    ["fl/models/global_model_v0", "fl/models/a_v1_v12", "x/versions/7", "models/named/versions/7", "v3", "3",
     "fl/models/_v1", "fl/models/name", "", "a_v", "fl/models/global_model_v9007199254740992"],
)  # fmt: skip
def test_model_paths_are_those_of_the_ordinary_proplet(program, uri):
    """Every way to name a model version leads to the registry's path for it, or to none."""
    try:
        ref = parse_model_ref(uri) if uri else None
    except PropellerError:
        ref = None
    wanted = "refused"
    if ref is not None:
        named = f"/models/{ref.name}/versions/{ref.version}"
        wanted = f"/models/{ref.version}" if ref.name == "global_model" else named
    assert ask(program, [{"do": "model", "uri": uri}]) == [wanted]


@pytest.mark.parametrize(
    "text",
    [
        '{"update":{"w":[1.5,2],"b":0},"num_samples":3}', ' {"round_id":"r1", "update": {"w":[1e-3]} } ',
        '{"proplet_id":null,"update":{},"round_id":""}', '{"round_id":"r2","update":{}}', '{"update":[1]}',
        '{"proplet_id":"p2","update":{}}', "[]", '{"update":{}} 1', "no",
        '{"base_model_uri":"mine","update":{}}',
    ],
)  # fmt: skip
def test_updates_are_completed_as_the_ordinary_proplet_completes_them(program, text):
    """A guest's output becomes the same bytes of an update, or is refused, on both."""
    env = {"ROUND_ID": "r1", "MODEL_URI": "fl/models/global_model_v0"}
    ended = GuestDone(stdout=text, stderr="", result=None, value=None, wall_s=0.0, cpu_s=0.0, memory_bytes=0)
    try:
        wanted = make_update(ended, Start(id="t", name="n", env=env), ME).decode()
    except AttemptFailed:
        wanted = "refused"
    assert ask(program, [{"do": "update", "text": text}]) == [wanted]


def test_sparse_copies_are_whole_wherever_they_begin_and_end(program):
    """What WAMR clears and copies by is `memset` and `memcpy` to the byte, and touches nothing beside."""
    sizes = [0, 1, 4095, 4096, 4097, 4098, 4099, 10_003]
    questions = [
        {"do": "sparse", "size": size, "to": to, "from": at}
        for size in sizes
        for to in range(5)
        for at in range(5)
    ]
    assert set(ask(program, questions)) == {"same"}


def test_digests_and_base64_are_right_at_every_length(program):
    """Padding and block boundaries have no special case that is wrong."""
    texts = ["a" * length for length in (*range(70), 119, 120, 127, 128, 1000)]
    digests = ask(program, [{"do": "sha256", "text": text} for text in texts])
    assert digests == [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    contents = [bytes(range(length)) for length in range(20)]
    answers = ask(program, [{"do": "base64", "text": base64.b64encode(item).decode()} for item in contents])
    assert answers == ["".join(f"{byte} " for byte in item) for item in contents]
    bad = ["A", "AA", "AAA", "A===", "AA=A", "AAAA=", "A A=", "AA-_"]
    assert ask(program, [{"do": "base64", "text": item} for item in bad]) == ["refused"] * len(bad)


def _chunk(index: int, count: int, data: bytes, app: str = "app") -> dict[str, Any]:
    return {
        "app_name": app,
        "chunk_idx": index,
        "total_chunks": count,
        "data": base64.b64encode(data).decode(),
    }


def test_chunks_come_in_any_order_and_any_number(program):
    """Repetitions and foreign images change nothing; disagreement and too much refuse (defect 4.26)."""
    first, second = _chunk(0, 2, b"hello "), _chunk(1, 2, b"world")
    whole = [second, _chunk(0, 9, b"x", "other"), second, first, first]
    cases = [whole, [first], [first, _chunk(1, 3, b"")], [_chunk(5, 5, b"")], [_chunk(0, 1, bytes(70_000))]]
    answers = ask(program, [{"do": "chunks", "chunks": case} for case in cases])
    assert answers == ["hello world", "incomplete", "refused", "refused", "refused"]


def test_manifests_give_the_layer_with_the_module(program):
    """By media type, by title, else the largest; an index gives its first manifest."""

    def layer(digest: str, size: int, **more: Any) -> dict[str, Any]:
        return {"digest": digest, "size": size, "mediaType": "x", **more}

    titled = {"annotations": {"org.opencontainers.image.title": "a.wasm"}}
    cases = [
        {"layers": [layer("a", 9), layer("b", 1, mediaType="application/wasm")]},
        {"layers": [layer("a", 9), layer("b", 1, **titled)]},
        {"layers": [layer("a", 9), layer("b", 10)]},
        {"manifests": [layer("m", 1), layer("n", 2)]},
        {"layers": []},
    ]
    answers = ask(program, [{"do": "layer", "text": json.dumps(case)} for case in cases])
    assert answers == ["b", "b", "b", "m", "refused"]


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("http://127.0.0.1:7070/a", "10.0.2.2:7070/a yes"), ("http://localhost", "10.0.2.2:80/ yes"),
        ("http://192.0.2.7/x", "192.0.2.7:80/x yes"), ("http://192.0.2.7:81/x", "192.0.2.7:81/x no"),
        ("http://192.0.2.8:81/", "192.0.2.8:81/ yes"), ("https://192.0.2.7/", "refused"),
        ("http://example.org/", "refused"), ("http://1.2.3/", "refused"), ("http://1.2.3.256/", "refused"),
        ("http://1.2.3.4:0/", "refused"), ("http://1.2.3.4/a b", "refused"),
    ],
)  # fmt: skip
def test_urls_lead_only_where_the_device_may_go(program, url, means):
    """Loopback is the broker's machine, names are unknown here, and other origins need permission."""
    assert ask(program, [{"do": "url", "url": url}]) == [means]


def test_http_answers_are_read_whole_or_not_at_all(program):
    """Lengths, chunked coding cut at every byte, and what is no HTTP."""
    cases = {
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab": "2 200 ab",
        "HTTP/1.1 404 Not\r\n\r\n": "2 404 ",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        "2;x=y\r\nab\r\nA\r\n0123456789\r\n0\r\nT: t\r\n\r\n": "2 200 whole ab0123456789",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab": "2 200 cut ab",
        "HTTP/1.1 200 OK\r\n": "1",
        "HELLO there, this is no answer\r\n\r\n": "0",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n": "0",
    }
    assert ask(program, [{"do": "http", "text": text} for text in cases]) == list(cases.values())


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [("id", "p1", "ok"), ("id", "a b", "not an id"), ("broker", "10.0.2.2:1883", "ok"),
     ("broker", "host", "not an"),
     ("lane", "shared", "ok"), ("lane", "x", "neither"), ("ip", "", "ok"), ("ip", "1.2.3", "not an address"),
     ("heartbeat", "0", "not a number"), ("nothing", "x", "no such"), ("store", "ftp://x", "not a URL")],
)  # fmt: skip
def test_settings_are_checked_when_they_are_set(program, name, value, answer):
    """A wrong value is refused with what it should have been."""
    assert ask(program, [{"do": "config", "name": name, "value": value}])[0].startswith(answer)


# --- guests and mutations ------------------------------------------------------------------------------


def test_host_functions_stay_inside_the_guests_memory(program):
    """Any offsets and lengths: served, refused with 0 or an error number, and never outside the memory."""
    start = codec.encode(Start(id="t", name="n", env={"A": "b"}, cli_args=["x"])).decode()
    assert ask(program, [{"do": "guest", "text": start, "a": 8, "b": 16, "c": 0, "free": 4096}])[
        0
    ].startswith('1 {"w":[1]} ')
    rng = random.Random(SEED)  # noqa: S311 - repeatable
    edges = [0, 1, 4, 8, 65_528, 65_532, 65_535, 65_536, 2**31, 2**32 - 8, 2**32 - 1]
    questions = [
        {
            "do": "guest",
            "text": start,
            "a": rng.choice(edges),
            "b": rng.choice(edges),
            "c": rng.choice(edges),
            "free": rng.choice(edges),
        }
        for _ in range(300)
    ]
    assert len(ask(program, questions)) == len(questions)


def _mutated(rng: random.Random, text: str) -> str:
    """The text with a few characters changed, doubled, dropped or cut off."""
    letters = list(text)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(letters) + 1)
        match rng.randrange(4):
            case 0:
                letters[at : at + 1] = [rng.choice('{}[]":,\\u0eE+-.truefalsn\x00\x01é\U0001f600=/')]
            case 1:
                letters[at:at] = letters[at : at + rng.randrange(9)]
            case 2:
                del letters[at : at + rng.randrange(1, 9)]
            case _:
                del letters[at:]
    return "".join(letters)


def test_no_mutated_message_does_harm(program):
    """Every reader over broken messages, updates, manifests and answers, under the sanitizers."""
    rng = random.Random(SEED)  # noqa: S311 - repeatable
    seeds = [vector["ask"]["text"] for vector in make_vectors() if "text" in vector["ask"]]
    seeds += [
        json.dumps(_chunk(0, 2, b"hello")), '{"update":{"w":[1.5,2],"b":0},"num_samples":3,"round_id":""}',
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        '{"layers":[{"digest":"a","size":9,"annotations":{"org.opencontainers.image.title":"a.wasm"}}]}',
    ]  # fmt: skip
    questions = [{"do": "fuzz", "text": _mutated(rng, rng.choice(seeds))} for _ in range(MUTATIONS)]
    assert set(ask(program, questions)) == {"ok"}
