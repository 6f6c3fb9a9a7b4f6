"""Broker addresses as people and configuration files write them. Resolves no names and opens nothing."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from propeller.errors import BadInput

PORT = 1883
TLS_PORT = 8883
_PLAIN = frozenset({"tcp", "mqtt"})
_TLS = frozenset({"ssl", "tls", "mqtts"})
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a broker listens, and whether it speaks TLS there. An IPv6 `host` has no brackets."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        """The address as a URL that `parse_address` reads back."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `tcp://h:p`, `mqtt://h`, `ssl://h`, `tls://h`, `mqtts://h`, `h:p`, `h`, `[v6]:p` or `[v6]`.

    The port defaults to 1883, under TLS to 8883. Raises `BadInput` that names the text.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        scheme, rest = "mqtt", text.strip()
    if scheme.lower() not in _PLAIN | _TLS:
        raise _bad(text, f"scheme {scheme!r} is not one of tcp, mqtt, ssl, tls, mqtts")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad(text, str(error)) from error
    if not host or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise _bad(text, "it should be just host and port; credentials have settings of their own")
    if port == 0 or rest.rstrip("/").endswith(":"):
        raise _bad(text, f"a port is 1 to {_PORT_MAX}")
    tls = scheme.lower() in _TLS
    return Address(host=host, port=port or (TLS_PORT if tls else PORT), tls=tls)


def _bad(text: str, why: str) -> BadInput:
    return BadInput(f"MQTT address {text[:200]!r}: {why}", code="bad_address")
