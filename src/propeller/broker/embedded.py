"""The embedded MQTT broker: a gate of our own before amqtt. Speaks MQTT 3.1.1 over TCP.

The gate listens, reads each client's CONNECT, proves who it is, ends an older connection of the same client,
and only then lets the engine see it; it enforces keep-alive, sizes and strictness, and puts out a client
whose credentials are withdrawn. Quality of service is 0 or 1 towards subscribers, 0 to 2 from publishers.
For fleets of thousands use Mosquitto; the topics, credentials and rights are the same.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from pathlib import Path
from typing import Self

from propeller import limits
from propeller.broker.connect import Connect, ForeignProtocol, Refusal, admit, parse_connect
from propeller.broker.connection import Connection, Frames, Inlet, Outbox, Traffic, read_connect
from propeller.broker.credentials import CredentialStore
from propeller.broker.engine import LISTENER, Engine
from propeller.broker.principals import Rights
from propeller.broker.retained import RetainedStore
from propeller.errors import DecodeError, EnvironmentError_, PortInUse
from propeller.wire.packets import Head, Publish

_REFRESH_S = 1.0
_RETAINED = "retained"

log = logging.getLogger(__name__)


class EmbeddedBroker:
    """A broker in the running loop. An async context manager: entering starts it.

    `port` 0 takes a free one, which `port` then names. With `data_dir`, retained messages outlive it.
    `flag` is the option that the message about a taken port recommends.
    """

    def __init__(
        self,
        store: CredentialStore,
        *,
        host: str = "127.0.0.1",
        port: int = 1883,
        data_dir: Path | None = None,
        flag: str = "--mqtt-port",
    ) -> None:
        self.host = host
        self.port = port
        self.traffic = Traffic()
        self._store = store
        self._flag = flag
        self._data_dir = data_dir
        self._connections: dict[str, Connection] = {}
        self._guests: set[asyncio.Task[None]] = set()
        self._greeting: set[asyncio.Task[None]] = set()
        self._engine: Engine | None = None

    async def start(self) -> None:
        """Listen. Raises `PortInUse`, or `StorageBroken` for a data directory that is damaged."""
        for noisy in ("amqtt", "transitions"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        listening = self._bind()
        try:
            disk = RetainedStore(self._data_dir / _RETAINED) if self._data_dir else None
            engine = Engine(self._store, self._connections, self.traffic, disk)
            await engine.open()
        except BaseException:
            listening.close()
            raise
        self._engine = engine
        self._server = await asyncio.start_server(
            self._welcome, sock=listening, limit=limits.MQTT_MESSAGE_BYTES_MAX
        )
        self._watch = asyncio.create_task(self._watch_credentials())

    async def stop(self) -> None:
        """Close every connection and stop; again is fine. Nobody's last will is sent."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        engine.seal()
        self._server.close()
        for task in (self._watch, *self._greeting):
            task.cancel()
        for connection in list(self._connections.values()):
            connection.end()
        await asyncio.gather(self._watch, *self._guests, return_exceptions=True)
        await engine.close()
        await self._server.wait_closed()
        # A transport reports its end in the turn of the loop after the one that closed it.
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listening = socket.create_server((self.host, self.port), family=family, backlog=512)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {self.port} on {self.host} is taken by another program: stop that, "
                    f"or choose another port with {self._flag}"
                ) from error
            raise EnvironmentError_(f"cannot listen on {self.host} port {self.port}: {error}") from error
        self.port = listening.getsockname()[1]
        return listening

    def _welcome(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = asyncio.create_task(self._serve(stream, writer))
        for group in (self._guests, self._greeting):
            group.add(guest)
            guest.add_done_callback(group.discard)

    async def _serve(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client from its first byte to its last. Whatever it does, only its own connection ends."""
        outbox = Outbox(writer)
        self.traffic.connections += 1
        try:
            if self.traffic.connections > limits.MQTT_CONNECTIONS_MAX:
                self.traffic.refused += 1
                return
            _tune(writer)
            if connection := await self._admit(stream, outbox):
                await self._host(connection)
        except (DecodeError, TimeoutError) as error:
            self.traffic.malformed += 1
            log.info("a client at %s sent no CONNECT: %s", outbox.get_peer_info()[0], error or "too slow")
        except (OSError, asyncio.IncompleteReadError):
            pass  # It went away before it was in; there is nothing to undo.
        except Exception:
            log.exception("a client's connection failed")
        finally:
            self.traffic.connections -= 1
            await outbox.close(at_once=self._engine is None)

    async def _admit(self, stream: asyncio.StreamReader, outbox: Outbox) -> Connection | None:
        """Read the CONNECT and let the client in, alone under its id; None if it was refused."""
        frames = Frames(stream, limits.MQTT_CONNECT_S)
        async with asyncio.timeout(limits.MQTT_CONNECT_S):
            body = await read_connect(frames)
        try:
            asked = parse_connect(body)
        except ForeignProtocol:
            self._refuse(outbox, Refusal.PROTOCOL)
            return None
        admitted = admit(asked, self._store)
        if admitted is None:
            log.warning("refused %.80r from %s: bad credentials", asked.username, outbox.get_peer_info()[0])
            self._refuse(outbox, Refusal.NOT_AUTHORISED)
            return None
        connect, rights = admitted
        if asked.will and not connect.will:
            log.warning("left out the will of %s: it may not publish on %.200r", rights.id, asked.will.topic)
        while older := self._connections.get(connect.client_id):
            older.end()
            await older.finished.wait()
        frames.silence_s = asked.keep_alive_s * limits.MQTT_KEEPALIVE_FACTOR or None
        return self._connection(connect, rights, frames, outbox)

    def _connection(self, connect: Connect, rights: Rights, frames: Frames, outbox: Outbox) -> Connection:
        async def publish(head: Head, message: Publish) -> None:
            if self._engine:
                await self._engine.accept(
                    connection, message.topic, message.payload, qos=head.qos, retain=head.retain
                )

        connection = Connection(
            client_id=connect.client_id,
            rights=rights,
            mark=self._store.mark(rights.id),
            inlet=Inlet(connect.encode(), frames, outbox, self.traffic, publish),
            outbox=outbox,
        )
        return connection

    def _refuse(self, outbox: Outbox, refusal: Refusal) -> None:
        self.traffic.refused += 1
        outbox.write(refusal.encode())

    async def _host(self, connection: Connection) -> None:
        """Let the engine serve a client that is in, until either side ends it."""
        if self._engine is None:
            return
        self._connections[connection.client_id] = connection
        if task := asyncio.current_task():
            self._greeting.discard(task)
        try:
            await self._engine.external_connected(connection.inlet, connection.outbox, LISTENER)
        finally:
            del self._connections[connection.client_id]
            connection.finished.set()

    async def _watch_credentials(self) -> None:
        """Put out who was removed, or whose key was replaced, while connected."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            for connection in list(self._connections.values()):
                if self._store.mark(connection.rights.id) != connection.mark:
                    log.warning("put out %s: its credentials were withdrawn", connection.client_id)
                    connection.end()


def _tune(writer: asyncio.StreamWriter) -> None:
    """Send small packets at once, and let the kernel find peers that vanished."""
    peer = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # the peer may be gone already; reading will say so
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
