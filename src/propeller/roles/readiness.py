"""Knowing that a system works: its broker there, every role healthy, every proplet alive at the manager."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from propeller.errors import PeerUnavailable
from propeller.ports import Http
from propeller.wire import codec
from propeller.wire.tasks import PropletPage

READY_S: Final = 30.0
"""A system that is not ready by then is broken."""
BROKER_S: Final = 10.0
"""An outside broker that is being started at the same time is there by then; a wrong address never is."""
POLL_S: Final = 0.05
_OK: Final = 200
_PAGE: Final = 100


class _Health(msgspec.Struct, frozen=True, kw_only=True):
    status: str


async def wait_ready(
    http: Http, urls: Mapping[str, str], proplets: Collection[str], *, timeout_s: float = READY_S
) -> None:
    """Return once every role of `urls` is healthy and all `proplets` are alive at its `manager`.

    Raises `PeerUnavailable` that names who is missing.
    """
    missing: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            # Others' processes are asked: there is no event to wait for.
            while missing := [role for role, url in urls.items() if not await _healthy(http, url)]:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            while missing := sorted(set(proplets) - await _alive(http, urls["manager"])):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise PeerUnavailable(
            f"not ready within {timeout_s:g} s; still missing: {', '.join(missing)}; their logs say why",
            code="not_ready",
        ) from None


async def wait_listening(host: str, port: int, *, timeout_s: float = BROKER_S) -> None:
    """Return once somebody accepts connections there; else raise `PeerUnavailable` with the last reason."""
    why: str = "no answer"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, port)
                except OSError as error:
                    why = error.strerror or str(error)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise PeerUnavailable(
            f"the broker at {host}:{port} does not answer ({why}); is it running, and is --broker right?",
            code="no_broker",
        ) from None


async def _healthy(http: Http, url: str) -> bool:
    try:
        answer = await http.request("GET", f"{url}/health", timeout_s=2.0)
    except PeerUnavailable:
        return False
    return answer.status == _OK


async def _alive(http: Http, manager_url: str) -> set[str]:
    found: set[str] = set()
    for offset in range(0, 1_000_000, _PAGE):
        query = f"status=active&limit={_PAGE}&offset={offset}"
        answer = await http.request("GET", f"{manager_url}/proplets?{query}", timeout_s=2.0)
        page = codec.decode(PropletPage, answer.body, what="the manager's list of proplets")
        found |= {one.id for one in page.proplets if one.alive is True}
        if offset + _PAGE >= page.total:
            break
    return found
