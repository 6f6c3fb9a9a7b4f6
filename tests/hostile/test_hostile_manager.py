"""A manager on a real database against messages and requests that mean it harm: it answers on."""

import asyncio
import json
from contextlib import asynccontextmanager
from random import Random

import msgspec
import pytest

from propeller import limits
from propeller.bus.memory import MemoryBroker, MemoryBus
from propeller.clock import SystemClock
from propeller.errors import Bug, StorageFull
from propeller.http.memory import MemoryHttp
from propeller.manager.app import opened
from propeller.manager.config import ManagerConfig
from propeller.ports import BusSession, Message
from propeller.wire.topics import Topics

TOPICS = Topics("d", "c")
MANAGER = "http://manager:7070"
SEEDED = Random  # tests replay


class Site:
    """A running manager, and somebody with every right on its broker."""

    def __init__(self, manager, broker, http: MemoryHttp, evil: MemoryBus, running: asyncio.Task) -> None:
        self.manager = manager
        self.broker = broker
        self.evil = evil
        self.running = running
        self.heard: list[Message] = []
        self._http = http

    async def ask(self, method: str, path: str, body=None, *, raw: bytes | None = None):
        """(status, decoded body) of one request."""
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        answer = await self._http.request(method, MANAGER + path, body=content)
        return answer.status, json.loads(answer.body) if answer.body else None

    async def say(self, topic: str, body, *, retain: bool = False) -> None:
        """Publish below `B/control/proplet/`, and let the manager handle it."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.evil.publish(Message(f"{TOPICS.base}/{topic}", payload, retain=retain))
        await asyncio.sleep(0.02)

    async def alive(self, proplet_id: str) -> bool:
        """Whether that proplet is shown as alive, at last: a slow disk holds up what was said."""
        for _ in range(250):
            status, shown = await self.ask("GET", f"/proplets/{proplet_id}")
            if status == 200 and shown["alive"]:
                return True
            await asyncio.sleep(0.02)
        return False

    async def sent_on(self, topic: str) -> bytes:
        """The first payload heard on that topic, waited for."""
        for _ in range(250):
            for message in self.heard:
                if message.topic == topic:
                    return message.payload
            await asyncio.sleep(0.02)
        raise AssertionError(f"nothing was said on {topic}")

    async def start(self, task_id: str = "t", **fields) -> None:
        """Create a task and start it."""
        status, said = await self.ask("POST", "/tasks", {"name": "x", "id": task_id, **fields})
        assert status == 201, said
        status, said = await self.ask("POST", f"/tasks/{task_id}/start")
        assert status == 200, said

    async def task(self, reached, task_id: str = "t") -> dict:
        """The task once `reached(task)` holds; as it is after five seconds otherwise."""
        for _ in range(250):
            _, shown = await self.ask("GET", f"/tasks/{task_id}")
            if reached(shown):
                break
            await asyncio.sleep(0.02)
        return shown


@asynccontextmanager
async def site(tmp_path):
    """A manager over SQLite; when the block ends it must still be running."""
    broker, http = MemoryBroker(), MemoryHttp()
    bus = MemoryBus(broker, "manager", random=SEEDED(1))
    evil = MemoryBus(broker, "evil", random=SEEDED(2))
    config = ManagerConfig(topics=TOPICS)
    async with opened(config, tmp_path, bus=bus, http=http, clock=SystemClock(), random=SEEDED(3)) as manager:
        http.register(MANAGER, manager.app)
        running = asyncio.create_task(manager.run())
        made = Site(manager, broker, http, evil, running)

        async def hear(message: Message) -> None:
            made.heard.append(message)

        listening = asyncio.create_task(evil.run(BusSession(subscriptions=("#",)), hear))
        await asyncio.sleep(0.05)
        assert bus.connected
        assert evil.connected
        try:
            yield made
            assert not running.done(), running.exception()
            assert (await made.ask("GET", "/health"))[0] == 200
        finally:
            running.cancel()
            listening.cancel()
            await asyncio.gather(running, listening, return_exceptions=True)


P = "control/proplet"
HUGE = 10**30


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        ("create", {"proplet_id": "p", "metadata": {"total_memory_bytes": 1e300}}),
        ("create", {"proplet_id": "p", "slots": HUGE, "protocol": HUGE}),
        ("create", {"proplet_id": "p", "metadata": {"description": "x" * 100_000}}),
        ("create", {"proplet_id": "../p"}),
        ("create/q", {"proplet_id": "p"}),
        ("alive/p", {"attempts": [{"task_id": "x", "run": HUGE, "attempt": HUGE, "state": "running"}]}),
        ("alive/p", {"attempts": [{"task_id": "\0/#", "run": 1, "attempt": 1, "state": "running"}] * 9}),
        ("alive/p", {"attempts": [{"task_id": "x", "run": -1, "attempt": 1, "state": "running"}]}),
        ("events/p", {"task_id": "x", "run": HUGE, "attempt": HUGE, "kind": "accepted"}),
        ("events", {"task_id": "x", "run": 1, "attempt": 1, "kind": "accepted"}),
        ("results/p", {"task_id": "x", "run": HUGE, "attempt": 1, "results": HUGE}),
        ("results", {"task_id": "x", "results": [[[]]] * 1000}),
        ("results", b"[" * 100_000),
        ("results", b"\xff"),
        ("alive", b""),
        ("alive", {"proplet_id": "p", "boot": "x" * 1_000_000}),
        ("metrics", {"proplet_id": "p"}),
        ("nonsense", {}),
    ],
)
async def test_no_message_ends_the_manager(tmp_path, topic, body):
    """Whatever it holds, the next message is handled (M8)."""
    async with site(tmp_path) as made:
        await made.say(f"{P}/{topic}", body)
        await made.say(f"{P}/alive", {"proplet_id": "good"})
        assert await made.alive("good")


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        ("fl/rounds/start", {}),
        (
            "fl/rounds/start",
            {"round_id": "a/b#", "model_uri": "m", "task_wasm_image": "i", "participants": []},
        ),
        (
            "fl/rounds/start",
            {"round_id": "r", "model_uri": "m", "task_wasm_image": "i", "participants": ["x"]},
        ),
        ("fl/rounds/r/complete", {"round_id": "r", "state": "failed"}),
        ("fl/rounds/r/complete", {"round_id": "other", "state": "failed"}),
        ("fl/rounds/a b/complete", {"round_id": "a b", "state": "failed"}),
    ],
)
async def test_no_round_message_ends_the_manager(tmp_path, topic, body):
    """Unknown rounds, unlawful ids, missing fields."""
    async with site(tmp_path) as made:
        await made.say(topic, body)
        await made.say(f"{P}/alive", {"proplet_id": "good"})
        assert await made.alive("good")


@pytest.mark.parametrize(
    "fields",
    [
        {"image_url": "http://[oops"},
        {"image_url": "https://user@[::1"},
        {"image_url": "oci://"},
        {"image_url": "http://\u2100.example/x.wasm"},
        {"image_url": "a", "env": {"URL": "http://[oops"}},
        {"image_url": "a", "env": {"ROUND_ID": "r", "MODEL_URI": "http://["}},
        {"image_url": "a" * 100_000, "name": "\0\n\x1b[31m"},
        {"image_url": "a", "inputs": ["x" * 2_000_000]},
    ],
)
async def test_no_task_ends_the_manager(tmp_path, fields):
    """What a user wrote may be impossible to send; the manager goes on, and so it does after a restart."""
    async with site(tmp_path) as made:
        await made.say(f"{P}/alive/p", {"proplet_id": "p"})
        assert await made.alive("p")
        await made.start(**fields)
        await made.task(lambda shown: shown["state"] == 1)
    async with site(tmp_path) as made:
        await made.say(f"{P}/alive/p", {"proplet_id": "p", "attempts": []})
        await asyncio.sleep(0.1)
        assert (await made.ask("POST", "/tasks/t/stop"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "raw"),
    [
        ("GET", f"/tasks?offset={2**53}", b""),
        ("GET", f"/tasks?offset={10**30}", b""),
        ("GET", f"/proplets?offset={10**30}&limit={10**30}", b""),
        ("POST", "/tasks", b'{"name":"x","metadata":{"k":%d}}' % HUGE),
        ("POST", "/tasks", b'{"name":"x","inputs":[1%s]}' % (b"0" * 5000)),
        ("POST", "/tasks", b'{"name":"x","priority":%d}' % HUGE),
        ("POST", "/tasks", b'{"name":"x","env":{"ROUND_ID":"../../experiments"}}'),
        ("POST", "/tasks", b'{"name":"\\ud800"}'),
        ("POST", "/fl/experiments", b"{}"),
        ("POST", "/fl/experiments", b'{"round_id":"..","participants":["x"]}'),
        ("GET", "/fl/task?round_id=..%2F", b""),
        ("GET", "/fl/rounds/%2e%2e/complete", b""),
    ],
)
async def test_no_request_is_a_server_error(tmp_path, method, path, raw):
    """Out of every bound is the caller's error, with a reason (A1, A2)."""
    async with site(tmp_path) as made:
        status, said = await made.ask(method, path, raw=raw)
        assert 400 <= status < 500, said
        assert said["error"]


async def test_every_route_survives_what_nobody_would_send(tmp_path):
    """Each route of the OpenAPI document, with ids, queries and bodies drawn from a bag of bad ones."""
    random = SEEDED(7)
    bad_ids = ["%00", "%ff", "..", "%2e%2e%2f", "a" * 5000, "0", "t", "-", "%E2%80%AE", "p"]
    bad_values = ["", "-1", "1e9", "null", "9" * 400, "%00", "{}", "%7B%22a%22:1%7D", "true", "'"]
    bad_bodies = [b"", b"null", b"[]", b"{}", b"\xff", b'{"name":1}', b'{"name":"x","id":"t"}', b"[" * 10_000]
    bad_bodies += [b'{"name":"x","metadata":{"a":[[{}]]}}', b'{"round_id":"r","participants":[1]}']
    async with site(tmp_path) as made:
        await made.say(f"{P}/alive/p", {"proplet_id": "p"})
        _, document = await made.ask("GET", "/schema/openapi.json")
        routes = [(path, method) for path, on in document["paths"].items() for method in on]
        for path, method in routes:
            for _ in range(12):
                filled = path
                while "{" in filled:
                    at, end = filled.index("{"), filled.index("}")
                    filled = filled[:at] + random.choice(bad_ids) + filled[end + 1 :]
                names = ("offset", "limit", "metadata", "status", "round_id", "proplet_id")
                query = "&".join(
                    f"{name}={random.choice(bad_values)}" for name in names if random.random() < 0.3
                )
                body = random.choice(bad_bodies) if method in {"post", "put", "patch"} else b""
                answer = await made._http.request(method.upper(), f"{MANAGER}{filled}?{query}", body=body)
                assert answer.status < 500, (method, filled[:80], query[:200], body[:80], answer.body)


async def test_results_that_are_no_text_spoil_no_list(tmp_path):
    """One proplet's bytes are not passed on to everybody who lists tasks."""
    async with site(tmp_path) as made:
        await made.say(f"{P}/alive", {"proplet_id": "p"})
        assert await made.alive("p")
        await made.start(image_url="a")
        assert (await made.task(lambda shown: shown["state"] == 2))["state"] == 2
        await made.say(f"{P}/results", b'{"task_id":"t","results":"\xff\xfe"}')
        await made.say(f"{P}/results", {"task_id": "t", "results": "ok", "error": "e" * 100_000})
        ended = await made.task(lambda shown: shown["state"] == 4)
        assert len(ended["error"]) == limits.PROPLET_ERROR_CHARS_MAX + 1
        assert (await made.ask("GET", "/tasks"))[1]["tasks"] == [ended]


class Failing:
    """A manager's store that fails its next commits, as `errors` says."""

    def __init__(self, store) -> None:
        self._store = store
        self.errors: list[Exception] = []

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    async def commit(self, changes):
        """Fail or commit."""
        if self.errors:
            raise self.errors.pop(0)
        await self._store.commit(changes)


@pytest.mark.parametrize(
    ("error", "status"),
    [(StorageFull("no room"), 507), (Bug("impossible"), 500), (OverflowError("too large"), 500)],
    ids=["full", "bug", "unforeseen"],
)
async def test_a_commit_that_fails_is_told_and_forgotten(tmp_path, error, status):
    """The caller learns it, nothing of it stays, the live proplets stay alive, and the next request works."""
    async with site(tmp_path) as made:
        shell = made.manager.shell
        shell._store = Failing(shell._store)
        await made.say(f"{P}/alive/p", {"proplet_id": "p"})
        assert await made.alive("p")
        await made.ask("POST", "/tasks", {"name": "x", "id": "t", "image_url": "a"})
        shell._store.errors = [error]
        assert (await made.ask("POST", "/tasks/t/start"))[0] == status
        assert (await made.ask("GET", "/tasks/t"))[1]["state"] == 0
        assert await made.alive("p")
        assert await made.ask("POST", "/tasks/t/start") == (200, {"started": True})
        assert (await made.ask("GET", "/tasks/t"))[1]["state"] == 1


async def test_an_event_with_a_bug_is_dropped_and_the_next_is_decided(tmp_path):
    """What was decided before it in the same batch is kept; what came after it is decided afterwards."""
    async with site(tmp_path) as made:
        shell = made.manager.shell
        await made.ask("POST", "/tasks", {"name": "x", "id": "t", "image_url": "a"})

        class Alien:
            cause = "test"

        answers = await asyncio.gather(
            made.ask("POST", "/tasks/t/start"),
            shell.submit(Alien()),
            made.ask("POST", "/tasks/t/stop"),
            return_exceptions=True,
        )
        assert [answers[0][0], type(answers[1]), answers[2][0]] == [200, Bug, 200]


async def test_start_messages_hold_the_rest_of_an_aliased_url_as_it_was(tmp_path):
    """Only host and port change: user information, odd queries and fragments stay byte for byte."""
    async with site(tmp_path) as made:
        made.manager._config.aliases.update({"registry:5000": "10.0.0.7:5000"})
        env = {
            "A": "http://user:pw@registry:5000/x?#",
            "B": "http://registry:5000",
            "C": "http://registry:5000.evil/",
            "D": "see http://registry:5000/",
        }
        await made.say(f"{P}/alive/p", {"proplet_id": "p"})
        assert await made.alive("p")
        await made.start(image_url="a", env=env)
        sent = await made.sent_on(f"{TOPICS.base}/control/manager/start/p")
        assert msgspec.json.decode(sent)["env"] == {
            "A": "http://user:pw@10.0.0.7:5000/x?#",
            "B": "http://10.0.0.7:5000",
            "C": "http://registry:5000.evil/",
            "D": "see http://registry:5000/",
        }
        assert (await made.ask("GET", "/tasks/t"))[1]["env"] == env


async def test_a_retained_message_revives_and_ends_nobody(tmp_path):
    """A broker repeats what was retained at every reconnection; it says what was, not what is (M7)."""
    async with site(tmp_path) as made:
        await made.say(f"{P}/alive", {"proplet_id": "live"})
        assert await made.alive("live")
        stale = [("ghost", "alive"), ("live", "offline")]
        for name, status in stale:
            body = json.dumps({"proplet_id": name, "status": status}).encode()
            made.broker.retained[f"{TOPICS.base}/{P}/alive"] = Message(
                f"{TOPICS.base}/{P}/alive", body, retain=True
            )
            made.broker.disconnect("manager")
            await asyncio.sleep(0.5)
        await made.say(f"{P}/alive", {"proplet_id": "last"})
        assert await made.alive("last")
        _, page = await made.ask("GET", "/proplets?status=active")
        assert [shown["id"] for shown in page["proplets"]] == ["live", "last"]
