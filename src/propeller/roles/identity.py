"""Who a process is on the broker, and `config.toml`, the file that says so. It knows no broker and no role.

The file holds one section per principal (`[manager]`, `[coordinator]`, `[operator]`, `[proplet1]` …) and
`[services]`, where everything is reached. Both families of names are read: `domain_id, client_id, client_key`
and `tenant_id, entity_id, api_key`; the first is written, as published walk-throughs use it.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from propeller.errors import BadInput, NotFound
from propeller.roles.layers import read_toml

_SPELLINGS = {
    "domain_id": ("domain_id", "tenant_id"),
    "channel_id": ("channel_id",),
    "client_id": ("client_id", "entity_id"),
    "client_key": ("client_key", "api_key"),
}
_PROPLET = re.compile(r"proplet(?P<number>\d*)")
_HEAD = """\
# Identities and keys of one domain and channel. Keep this file private.
# A proplet on another machine needs its own section and [services], with addresses that it can reach.
# tenant_id, entity_id and api_key are the original's names for domain_id, client_id and client_key.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One principal of the broker: client id and user name are `client_id`, the password `client_key`."""

    domain_id: str
    channel_id: str
    client_id: str
    client_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Where everything is reached; empty means unknown."""

    mqtt_address: str = ""
    manager_url: str = ""
    coordinator_url: str = ""
    model_registry_url: str = ""
    data_store_url: str = ""
    registry: str = ""
    """`host:port` of the OCI registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole `config.toml`: identities by section, in the file's order, and the services."""

    identities: Mapping[str, Identity]
    services: Services

    def identity(self, section: str) -> Identity:
        """The identity of `section`; raises `NotFound` that lists the sections there are."""
        if section not in self.identities:
            known = ", ".join(self.identities) or "none"
            raise NotFound(f"config.toml has no section [{section}]; it has: {known}")
        return self.identities[section]

    def proplets(self) -> dict[str, Identity]:
        """The proplets' sections, in order of their numbers."""
        found = {name: one for name, one in self.identities.items() if _PROPLET.fullmatch(name)}
        return dict(sorted(found.items(), key=lambda item: _number(item[0])))

    def only_proplet(self) -> str:
        """The section to take when none is named: `proplet`, or the only one there is."""
        names = list(self.proplets())
        if "proplet" in names or len(names) == 1:
            return "proplet" if "proplet" in names else names[0]
        if not names:
            raise NotFound(
                "config.toml has no [proplet] section; `propeller provision add-proplets 1` makes one"
            )
        raise BadInput(f"config.toml has the sections {', '.join(names)}; choose one with --section")

    def next_proplet(self) -> str:
        """The section name after the highest numbered proplet."""
        return f"proplet{max((_number(name) for name in self.proplets()), default=0) + 1}"


def read_config(path: Path) -> Config:
    """The file at `path`; raises `BadInput` that names what is missing."""
    document = read_toml(path)
    sections = {name: table for name, table in document.items() if isinstance(table, dict)}
    services = sections.pop("services", {})
    known = {field.name for field in fields(Services)}
    return Config(
        identities={
            name: _identity(table, f"[{name}] of {path}")
            for name, table in sections.items()
            if _is_identity(table)
        },
        services=Services(**{name: str(value) for name, value in services.items() if name in known}),
    )


def write_config(path: Path, config: Config) -> None:
    """Put `config` at `path` whole, readable by its owner alone."""
    tables: list[tuple[str, Mapping[str, str]]] = [
        (name, _spelled(identity)) for name, identity in config.identities.items()
    ]
    tables.append(("services", {name: value for name, value in asdict(config.services).items() if value}))
    text = _HEAD + "".join(f"\n[{name}]\n{_lines(table)}" for name, table in tables)
    write_private(path, text)


def write_private(path: Path, text: str) -> None:
    """Put `text` at `path` whole and durably, with mode 0600 from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def env_identity(env: Mapping[str, str], prefix: str) -> Identity | None:
    """The identity that `{prefix}_CLIENT_ID` … or `{prefix}_ENTITY_ID` … give, if all four are there.

    The domain and the channel may also come without a prefix, as the environment file of `up` writes them.
    """
    found = {name: _first(env, prefix, spellings) for name, spellings in _SPELLINGS.items()}
    for shared in ("domain_id", "channel_id"):
        found[shared] = found[shared] or _first(env, "", _SPELLINGS[shared])
    return Identity(**found) if all(found.values()) else None


def env_lines(prefix: str, identity: Identity) -> list[str]:
    """`identity` for a shell, in both families of names."""
    return [
        f"{prefix}_{spelling.upper()}={getattr(identity, name)}"
        for name, spellings in _SPELLINGS.items()
        for spelling in spellings
    ]


def _spelled(identity: Identity) -> dict[str, str]:
    """Every value under all of its names: the original's own programs read this file too."""
    return {
        spelling: getattr(identity, name) for name, spellings in _SPELLINGS.items() for spelling in spellings
    }


def _first(env: Mapping[str, str], prefix: str, spellings: Sequence[str]) -> str:
    names = [f"{prefix}_{spelling}".lstrip("_").upper() for spelling in spellings]
    return next((env[name] for name in names if env.get(name)), "")


def _is_identity(table: Mapping[str, Any]) -> bool:
    return any(spelling in table for spelling in (*_SPELLINGS["client_id"], *_SPELLINGS["client_key"]))


def _identity(table: Mapping[str, Any], where: str) -> Identity:
    found = {
        name: next((str(table[one]) for one in spellings if table.get(one)), "")
        for name, spellings in _SPELLINGS.items()
    }
    missing = [" or ".join(_SPELLINGS[name]) for name, value in found.items() if not value]
    if missing:
        raise BadInput(f"{where} lacks {', '.join(missing)}")
    return Identity(**found)


def _number(section: str) -> int:
    match = _PROPLET.fullmatch(section)
    return int(match["number"]) if match and match["number"] else 0


def _lines(table: Mapping[str, str]) -> str:
    # A JSON string of printable text is a TOML basic string.
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in table.items())
