"""Making identities: a domain, a channel, and a credential for every role and proplet, without a question.

It writes `config.toml` and the broker's credentials and nothing else; a running broker that reads those
credentials accepts a new proplet at once. It must not know whether anything runs.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from propeller.broker.credentials import CredentialStore, new_api_key
from propeller.broker.principals import Kind
from propeller.core.ids import check_id
from propeller.errors import BadInput, NotFound
from propeller.roles.identity import Config, Identity, Services, read_config, write_config

ROLES = {"manager": Kind.MANAGER, "coordinator": Kind.COORDINATOR, "operator": Kind.OPERATOR}
"""The sections of a `config.toml` that are no proplets, and what each may do on the broker."""
PROPLETS_MAX = 10_000
"""Proplets that one call makes identities for."""


def new_uuid() -> str:
    """A random UUID as text."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a system needs. Empty `domain` and `channel` become UUIDs when they are first made."""

    proplets: int = 1
    domain: str = ""
    channel: str = ""


def ensure(path: Path, broker: Path, wanted: Wanted, *, new_id: Callable[[], str] = new_uuid) -> Config:
    """The config at `path`, with every identity that `wanted` asks for, each known to the broker in `broker`.

    Existing identities stay as they are, so a system is the same at every start. Raises `Conflict` if
    `broker` belongs to another channel, `BadInput` for unlawful names or counts.
    """
    _check_count(wanted.proplets)
    config = read_config(path) if path.exists() else Config(identities={}, services=Services())
    domain, channel = _channel(config, wanted, new_id)
    identities = dict(config.identities)
    for section in (*ROLES, *(f"proplet{number}" for number in range(1, wanted.proplets + 1))):
        identities.setdefault(section, _identity(domain, channel, new_id()))
    full = replace(config, identities=identities)
    # The file first: a key that only the broker knows could never be told to anyone again.
    if full != config:
        write_config(path, full)
    grant(broker, full)
    return full


def grant(broker: Path, config: Config) -> None:
    """Let every identity of `config` into the broker whose credentials live in `broker`; idempotent."""
    first = next(iter(config.identities.values()))
    store = CredentialStore.create(broker, first.domain_id, first.channel_id)
    wanted: dict[Kind, dict[str, str]] = {}
    for section, identity in config.identities.items():
        if not store.verify(identity.client_id, identity.client_key):
            of_kind = wanted.setdefault(ROLES.get(section, Kind.PROPLET), {})
            of_kind[identity.client_id] = identity.client_key
    for kind, keys in wanted.items():
        store.add_all(kind, keys)


def add_proplets(
    path: Path,
    broker: Path,
    count: int,
    services: Services,
    *,
    legacy: bool = False,
    new_id: Callable[[], str] = new_uuid,
) -> dict[str, Identity]:
    """Make `count` more proplets for the channel of `broker`, add their sections to `path`, and return them.

    `legacy` gives them the shared topics of the original system's proplets. Raises `NotFound` if there is no
    broker directory, `BadInput` if `path` belongs to another channel.
    """
    _check_count(count)
    store = _open(broker)
    config = read_config(path) if path.exists() else Config(identities={}, services=services)
    _check_same_channel(config, store, path)
    made: dict[str, Identity] = {}
    for _ in range(count):
        section = config.next_proplet()
        made[section] = _identity(store.domain, store.channel, new_id())
        config = replace(config, identities={**config.identities, section: made[section]})
    write_config(path, replace(config, services=services))
    kind = Kind.LEGACY_PROPLET if legacy else Kind.PROPLET
    store.add_all(kind, {one.client_id: one.client_key for one in made.values()})
    return made


def _open(broker: Path) -> CredentialStore:
    try:
        return CredentialStore(broker)
    except NotFound as error:
        raise NotFound(
            f"{broker} holds no credentials; start `propeller up`, run `propeller provision`, or name the "
            "right directory with --data-dir"
        ) from error


def _check_count(count: int) -> None:
    if not 0 <= count <= PROPLETS_MAX:
        raise BadInput(f"{count} proplets: give a number from 0 to {PROPLETS_MAX}")


def _channel(config: Config, wanted: Wanted, new_id: Callable[[], str]) -> tuple[str, str]:
    """The domain and channel that all identities share: the file's, which `wanted` may only repeat."""
    known = {(one.domain_id, one.channel_id) for one in config.identities.values()}
    if len(known) > 1:
        raise BadInput("config.toml names more than one domain and channel; keep one file for each")
    if not known:
        domain, channel = wanted.domain or new_id(), wanted.channel or new_id()
        return check_id(domain, "domain"), check_id(channel, "channel")
    domain, channel = next(iter(known))
    if (wanted.domain or domain, wanted.channel or channel) != (domain, channel):
        raise BadInput(
            f"config.toml is of domain {domain!r}, channel {channel!r}; name another file for other ones"
        )
    return domain, channel


def _check_same_channel(config: Config, store: CredentialStore, path: Path) -> None:
    for section, one in config.identities.items():
        if (one.domain_id, one.channel_id) != (store.domain, store.channel):
            raise BadInput(
                f"[{section}] of {path} is of domain {one.domain_id!r}, and the broker of {store.domain!r}; "
                "write to another file with --file-name"
            )


def _identity(domain: str, channel: str, principal: str) -> Identity:
    return Identity(
        domain_id=domain,
        channel_id=channel,
        client_id=check_id(principal, "proplet id"),
        client_key=new_api_key(),
    )
