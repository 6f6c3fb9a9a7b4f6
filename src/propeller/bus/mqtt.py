"""The MQTT client behind `ports.Bus`: one connection that heals itself, over `bus.link`. Knows no payloads.

MQTT 3.1.1, quality of service 1 both ways. What is in flight when a connection ends is lost here and repeated
above: nothing is resent from a queue.
"""

import asyncio
import contextlib
import logging
import ssl
from random import Random

from propeller.bus.healing import HealingBus
from propeller.bus.inbox import Greeter
from propeller.bus.link import Link, LinkLost, connect_packet
from propeller.bus.outgoing import check_outgoing
from propeller.errors import Denied
from propeller.ports import BusSession, Message

_CONNECT_S = 10.0
_DENIED = frozenset({4, 5})
"""CONNACK's "bad user name or password" and "not authorised"."""
_REFUSED = 0x80
"""A SUBACK code from here on refuses the subscription."""

log = logging.getLogger(__name__)


class MqttBus(HealingBus):
    """A connection to an MQTT broker as `username`. `tls` is the context to use, None for plain TCP.

    `clean` False asks the broker to keep the session while away, which our own roles never need.
    """

    def __init__(
        self,
        host: str,
        port: int,
        username: str,
        password: str,
        client_id: str,
        *,
        random: Random,
        tls: ssl.SSLContext | None = None,
        clean: bool = True,
    ) -> None:
        super().__init__(random)
        self._host, self._port = host, port
        self._username, self._password = username, password
        self._client_id = client_id
        self._tls = tls
        self._clean = clean
        self._link: Link | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection whose subscriptions stand."""
        return self._link is not None

    async def publish(self, message: Message) -> bool:
        """See `ports.Bus.publish`. True once the broker has acknowledged it.

        Raises `BadInput` for an unlawful topic and `TooLarge` over `limits.MQTT_MESSAGE_BYTES_MAX`.
        """
        check_outgoing(message)
        link = self._link
        return await link.publish(message) if link is not None else False

    async def _add(self, filters: tuple[str, ...]) -> None:
        if (link := self._link) is not None:
            with contextlib.suppress(LinkLost, TimeoutError):  # the next connection subscribes to them too
                async with asyncio.timeout(_CONNECT_S):
                    await self._subscribe(link, filters)

    async def _remove(self, filters: tuple[str, ...]) -> None:
        if (link := self._link) is not None:
            with contextlib.suppress(LinkLost, TimeoutError):
                async with asyncio.timeout(_CONNECT_S):
                    await link.unsubscribe(filters)

    async def _live_once(self, session: BusSession, on_connect: Greeter | None) -> None:
        try:
            await self._connect_once(session, on_connect)
        except LinkLost as error:
            if error.code in _DENIED and not self._connections:
                raise Denied(
                    f"the MQTT broker at {self._host}:{self._port} refuses {self._username!r} ({error}): "
                    "check the client id and its API key, and that the broker has these credentials"
                ) from error
            self._report(error)
        except (OSError, TimeoutError) as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        log.info("no connection to the MQTT broker at %s:%d: %s", self._host, self._port, error)

    async def _connect_once(self, session: BusSession, on_connect: Greeter | None) -> None:
        """One connection from its beginning to its end. Raises `LinkLost`, `OSError` or `TimeoutError`."""
        link = await self._open()
        try:
            await self._introduce(link, session)
            self._link = link
            self._stands(on_connect)
            raise await asyncio.shield(link.lost)
        finally:
            self._link = None
            await link.close()

    async def _open(self) -> Link:
        async with asyncio.timeout(_CONNECT_S):
            _, link = await asyncio.get_running_loop().create_connection(
                lambda: Link(self._inbox.put),
                self._host,
                self._port,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
            )
        return link

    async def _introduce(self, link: Link, session: BusSession) -> None:
        hello = connect_packet(
            self._username, self._password, self._client_id, session.will, clean=self._clean
        )
        async with asyncio.timeout(_CONNECT_S):
            await link.connect(hello)
            if filters := self._filters(session):
                await self._subscribe(link, filters)

    async def _subscribe(self, link: Link, filters: tuple[str, ...]) -> None:
        codes = await link.subscribe(filters)
        if len(codes) != len(filters):
            raise LinkLost(f"{len(codes)} answers to {len(filters)} subscriptions")
        for text, code in zip(filters, codes, strict=True):
            if code >= _REFUSED:
                # Another's broker may grant less than ours; what was granted is worth having.
                log.error("the MQTT broker does not let %s subscribe to %s", self._username, text)
