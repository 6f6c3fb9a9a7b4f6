"""Which services an attempt may speak to, and patient requests to them.

A task may point anywhere; a device goes only where its own configuration lets it. Nothing here knows what is
fetched.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

from propeller import limits
from propeller.errors import PeerUnavailable
from propeller.ports import Clock, Http, Response
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.settings import ServiceUrls

COORDINATOR = ("COORDINATOR_URL", "MANAGER_COORDINATOR_URL")
MODEL_REGISTRY = ("MODEL_REGISTRY_URL",)
DATA_STORE = ("DATA_STORE_URL",)
"""The names under which a task's environment gives a service's URL, the preferred first."""

ORIGINS_SETTING = "PROPLET_ALLOWED_ORIGINS"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TOO_MANY, _SERVER_ERRORS = 429, 500
_SHOWN_CHARS = 300


class Services:
    """The service origins that a proplet's configuration allows, and its own URLs."""

    def __init__(self, urls: ServiceUrls, allowed_origins: tuple[str, ...] = ()) -> None:
        own = (urls.manager, urls.coordinator, urls.model_registry, urls.data_store)
        self._own = dict.fromkeys(COORDINATOR, urls.coordinator)
        self._own |= dict.fromkeys(MODEL_REGISTRY, urls.model_registry)
        self._own |= dict.fromkeys(DATA_STORE, urls.data_store)
        self._any = "*" in allowed_origins
        self._allowed = {origin(url) for url in (*own, *allowed_origins) if url and url != "*"}

    def find(self, env: Mapping[str, str], names: tuple[str, ...]) -> str:
        """The service's base URL: the task's, else the proplet's own. Raises `AttemptFailed`."""
        given = next((env[name] for name in names if env.get(name)), "") or self._own[names[0]]
        if not given:
            raise AttemptFailed(
                "configuration",
                f"no {names[0]}: set it in the task's env or in this proplet's configuration",
            )
        return self.check(given.rstrip("/"), names[0])

    def check(self, url: str, what: str) -> str:
        """Return `url` if this proplet may go there, else raise `AttemptFailed` naming the origin."""
        there = origin(url)
        if not there:
            raise AttemptFailed("configuration", f"{what} {url[:_SHOWN_CHARS]!r} is not an http(s) URL")
        if self._any or there in self._allowed:
            return url
        raise AttemptFailed(
            "configuration",
            f"{what} is at {there}, where this proplet may not go; "
            f"add it to {ORIGINS_SETTING} (--allow-origin {there}) of the proplet if it should",
        )


def origin(url: str) -> str:
    """`scheme://host:port` in one spelling, or empty if `url` has no lawful origin."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        return ""
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an attempt may go on: pauses between tries, and the moment after which there is no other."""

    clock: Clock
    random: Random
    deadline_mono_s: float

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, never below zero."""
        return max(0.0, self.deadline_mono_s - self.clock.now().mono_s)

    def pause_s(self, tries: int) -> float:
        """Full-jitter backoff after so many tries (1 or more), never past the deadline."""
        longest = min(limits.UPDATE_RETRY_S_MAX, limits.UPDATE_RETRY_S * 2.0 ** min(tries, 10))
        return min(self.random.uniform(0.1, longest), self.left_s)


def come_again(status: int) -> bool:
    """Whether an HTTP status says that the same request may succeed later."""
    return status == _TOO_MANY or status >= _SERVER_ERRORS


async def get(http: Http, url: str, patience: Patience, *, tag: str = "") -> Response:
    """The answer to a GET, tried again while there is none or one that says to come again.

    With the `tag` of what is at hand, 304 says that it is the answer.

    Raises `PeerUnavailable` with the last reason when the patience is over, `TooLarge` at once.
    """
    headers = {"if-none-match": tag} if tag else None
    tries = 0
    while True:
        tries += 1
        try:
            timeout_s = min(limits.HTTP_TIMEOUT_S, max(patience.left_s, 1.0))
            response = await http.request("GET", url, headers=headers, timeout_s=timeout_s)
            if not come_again(response.status):
                return response
            why = f"answered {response.status}: {reason(response)}"
        except PeerUnavailable as error:
            why = error.message
        if patience.left_s <= 0:
            raise PeerUnavailable(f"GET {url} failed {tries} times, at last: {why}")
        await asyncio.sleep(patience.pause_s(tries))


def reason(response: Response) -> str:
    """The first line of an answer's body, for a message."""
    text = response.body[: 4 * _SHOWN_CHARS].decode(errors="replace").strip()
    return text.partition("\n")[0][:_SHOWN_CHARS] or "no reason given"
