"""Devices and clients of the original system, played from golden messages. Not a test itself.

A device says and hears nothing but what `contract/golden/*.json` holds, over a plain MQTT client: it shares
no code with the product, so that a mistake of ours cannot hide on both sides of the wire.
"""

import asyncio
import base64
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import aiomqtt
import cbor2
import yarl

GOLDEN = Path(__file__).parent / "contract" / "golden"
WAIT_S = 60.0
_GO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def golden(name: str) -> dict[str, Any]:
    """The messages of one kind of peer."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def filled(template: Any, names: Mapping[str, Any]) -> Any:
    """The template with its `{names}` filled in; a text that is one name becomes the value itself."""
    match template:
        case dict():
            return {key: filled(value, names) for key, value in template.items()}
        case list():
            return [filled(value, names) for value in template]
        case str():
            for name, value in names.items():
                if template == f"{{{name}}}":
                    return value
                template = template.replace(f"{{{name}}}", str(value))
            return template
        case _:
            return template


class Device:
    """One device of the original on a broker; `base` is `m/{domain}/c/{channel}`."""

    def __init__(self, kind: str, address: tuple[str, int], me: str, key: str, base: str) -> None:
        self.me = me
        self._speech = golden(kind)
        self._address = address
        self._key = key
        self._base = base
        self._heard: list[tuple[str, dict[str, Any]]] = []
        self._news = asyncio.Condition()
        self._client: aiomqtt.Client | None = None
        self._listening: asyncio.Task[None] | None = None

    # --- life

    async def switch_on(self) -> None:
        """Connect, subscribe, announce itself and beat once, as the device does at its start."""
        await self.connect()
        await self.say("create")
        await self.say("alive")

    async def connect(self) -> None:
        """Connect and subscribe without a word, as after a connection that broke."""
        session, names = self._speech["session"], {"me": self.me}
        will = session["will"] and aiomqtt.Will(
            self._topic(session["will"]["topic"]),
            json.dumps(filled(session["will"]["body"], names)),
            session["will"]["qos"],
        )
        self._client = aiomqtt.Client(
            *self._address,
            identifier=self.me,
            username=self.me,
            password=self._key,
            protocol=aiomqtt.ProtocolVersion.V311,
            clean_session=session["clean"],
            keepalive=session["keep_alive_s"],
            will=will,
        )
        await self._client.__aenter__()
        for topic in self._speech["subscribes"]:
            await self._client.subscribe(self._topic(topic), session["qos"])
        self._listening = asyncio.create_task(self._listen(self._client))

    async def die(self) -> None:
        """Lose the connection without a goodbye, and everything that was in memory."""
        assert self._client is not None
        self._client._client.socket().shutdown(socket.SHUT_RDWR)
        await self._end()
        self._heard.clear()

    async def leave(self) -> None:
        """Say goodbye to the broker, if connected."""
        if self._client is not None:
            await self._end()

    # --- speech

    async def say(self, what: str, **names: Any) -> None:
        """Publish one of the golden messages."""
        assert self._client is not None
        message = self._speech["says"][what]
        body = json.dumps(filled(message["body"], {"me": self.me, **names}))
        topic = self._topic(filled(message["topic"], {"me": self.me, **names}))
        await self._client.publish(topic, body, self._speech["session"]["qos"])

    async def shout(self, golden_topic: str, payload: bytes) -> None:
        """Publish anything, with no promise of delivery."""
        assert self._client is not None
        await self._client.publish(self._topic(golden_topic), payload, 0)

    async def hears(self, what: str, **names: Any) -> dict[str, Any]:
        """Wait for the next message on that golden message's topic, which must equal it.

        A name whose value is None takes whatever came. The body that came is returned.
        """
        expected = self._speech["hears"][what]
        got = await self.takes(expected["topic"])
        open_names = {name: f"<{name}>" for name, value in names.items() if value is None}
        wanted = filled(expected["body"], {"me": self.me, **names, **open_names})
        for key, value in wanted.items():
            if value in open_names.values():
                wanted[key] = got.get(key)
        assert got == wanted
        return got

    async def image(self, url: str) -> bytes:
        """Ask for an image by MQTT and put its chunks together, in whatever order they come."""
        await self.say("wants_image", url=url)
        pieces: dict[int, bytes] = {}
        while True:
            chunk = await self.hears("chunk", url=url, index=None, total=None, data=None)
            pieces[chunk["chunk_idx"]] = base64.b64decode(chunk["data"], validate=True)
            if len(pieces) == chunk["total_chunks"]:
                return b"".join(pieces[index] for index in range(len(pieces)))

    async def takes(self, golden_topic: str) -> dict[str, Any]:
        """Wait for the next message on that topic, whatever it holds."""
        return await self._next(self._topic(golden_topic))

    async def beats(self, period_s: float) -> None:
        """Send heartbeats until cancelled."""
        while True:
            await self.say("alive")
            await asyncio.sleep(period_s)

    # --- details

    def _topic(self, golden_topic: str) -> str:
        return (
            golden_topic.replace("B/", f"{self._base}/", 1) if golden_topic.startswith("B/") else golden_topic
        )

    async def _next(self, topic: str) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S), self._news:
            while True:
                for index, (heard, body) in enumerate(self._heard):
                    if heard == topic:
                        del self._heard[: index + 1]
                        return body
                await self._news.wait()

    async def _listen(self, client: aiomqtt.Client) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in client.messages:
                async with self._news:
                    self._heard.append((str(message.topic), json.loads(message.payload)))
                    self._news.notify_all()

    async def _end(self) -> None:
        assert self._client is not None
        assert self._listening is not None
        client, self._client = self._client, None
        self._listening.cancel()
        await asyncio.wait([self._listening])
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


@contextlib.asynccontextmanager
async def beating(device: Device, period_s: float) -> AsyncIterator[Device]:
    """The device with its heart beating meanwhile."""
    beat = asyncio.create_task(device.beats(period_s))
    try:
        yield device
    finally:
        beat.cancel()
        await asyncio.wait([beat])


class Sdk:
    """The original's Go SDK against a manager's URL: its exact requests, and what it can decode."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http
        self._book = golden("go_sdk")
        self.untried = set(self._book["calls"])
        """Calls that were not made yet."""

    async def until(self, name: str, holds: Callable[[Any], Any], **names: Any) -> Any:
        """The answer of the call once `holds(answer)`."""
        async with asyncio.timeout(WAIT_S):
            while True:
                answer = await self.call(name, **names)
                if holds(answer):
                    return answer
                await asyncio.sleep(0.05)

    async def call(self, name: str, *, upload: bytes = b"", **names: Any) -> Any:
        """Make the call; its answer, which had the status and the types that the SDK needs."""
        wanted = self._book["calls"][name]
        self.untried.discard(name)
        body, headers = self._body(wanted, names, upload)
        url = yarl.URL(self._url + filled(wanted["path"], names), encoded=True)
        async with self._http.request(wanted["method"], url, data=body, headers=headers) as answer:
            content = await answer.read()
            assert answer.status == wanted["status"], (name, answer.status, content)
        if "answer" not in wanted:
            return None
        said = json.loads(content)
        self._check(wanted["answer"], said, name)
        return said

    def _body(self, wanted: Mapping[str, Any], names: Mapping[str, Any], upload: bytes) -> tuple[Any, Any]:
        if "part" in wanted:
            form = aiohttp.FormData()
            form.add_field(
                wanted["part"], upload, filename="add.wasm", content_type="application/octet-stream"
            )
            return form, {}
        if "cbor" in wanted:
            return cbor2.dumps(filled(wanted["cbor"], names)), {"Content-Type": wanted["type"]}
        body = json.dumps(filled(wanted["body"], names)) if "body" in wanted else b""
        return body, self._book["header"]

    def _check(self, kind: Any, value: Any, where: str) -> None:
        """Fail unless Go's decoder takes `value` as a `kind`."""
        match kind:
            case str() if kind in self._book["types"]:
                self._check(self._book["types"][kind], value, where)
            case str():
                assert _is_scalar(kind, value), (where, kind, value)
            case [item]:
                for index, one in enumerate(value or []):
                    self._check(item, one, f"{where}[{index}]")
            case {"*": item}:
                for key, one in value.items():
                    self._check(item, one, f"{where}.{key}")
            case dict():
                for field, item in kind.items():
                    key = field.removesuffix("?")
                    assert field.endswith("?") or key in value, (where, key)
                    if value.get(key) is not None:
                        self._check(item, value[key], f"{where}.{key}")


def _is_scalar(kind: str, value: Any) -> bool:
    """Whether Go decodes the value into that type: 2.0 is no integer there, and 256 no uint8."""
    match kind:
        case "any":
            return True
        case "string":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "time":
            return isinstance(value, str) and _GO_TIME.fullmatch(value) is not None
    low, high = {"uint8": (0, 255), "int": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1)}[kind]
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
