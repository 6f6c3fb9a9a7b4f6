"""Who may do what on the broker: one literal table, from which every broker's ACL is made. Does no I/O.

What no row permits is denied; every principal has the rows of `EVERYBODYS` and those of its kind. `{B}` is
`m/{domain}/c/{channel}`, `{id}` the principal's own id; as only the principal itself may publish on a topic
that ends in its id, that level is the sender's identity. A subscription is permitted if one row covers its
whole filter; a delivery, if a row matches the topic.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from propeller.wire.filters import covers, is_filter, is_topic, matches


class Kind(StrEnum):
    """What a principal is; the rights hang on it."""

    MANAGER = "manager"
    COORDINATOR = "coordinator"
    PROPLET = "proplet"
    """A proplet that speaks protocol 2: directed topics, each ending in its id."""
    LEGACY_PROPLET = "legacy_proplet"
    """A proplet of the original system: shared topics, which name nobody."""
    OPERATOR = "operator"
    """A person or a tool: reads everything, and may ask for a round."""


class Action(StrEnum):
    """What is done with a topic. `RECEIVE` is the broker's delivery, checked apart from the subscription."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    RECEIVE = "receive"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: these actions are permitted on what this pattern covers."""

    actions: frozenset[Action]
    pattern: str


def _may_send(*patterns: str) -> tuple[Rule, ...]:
    return tuple(Rule(frozenset({Action.PUBLISH}), pattern) for pattern in patterns)


def _may_hear(*patterns: str) -> tuple[Rule, ...]:
    return tuple(Rule(frozenset({Action.SUBSCRIBE, Action.RECEIVE}), pattern) for pattern in patterns)


EVERYBODYS = _may_send(
    "{B}/control/proplet/create",
    "{B}/fl/models/wishes",
    "{B}/registry/proplet",
) + _may_hear("{B}/registry/server", "{B}/fl/models/#")
"""What any principal may do: say on topics that prove nobody's name that it is there or needs a piece of a
module or model, and hear those. Brokers keep such rows once, not once for each of ten thousand devices."""

RULES: Mapping[Kind, tuple[Rule, ...]] = MappingProxyType(
    {
        Kind.MANAGER: _may_send(
            "{B}/control/manager/#",
            "{B}/registry/server",
            "{B}/fl/rounds/start",
            "{B}/fl/rounds/+/launched",
            "{B}/fl/rounds/+/closed",
            "fml/updates",
        )
        + _may_hear("{B}/#", "fl/#"),
        Kind.COORDINATOR: _may_send("{B}/fl/#", "fl/#") + _may_hear("{B}/fl/#", "fl/#", "fml/updates"),
        Kind.PROPLET: _may_send(
            "{B}/control/proplet/+/{id}",
            "{B}/fl/rounds/+/updates/{id}",
            "{B}/fl/rounds/+/manifests/{id}",
            "{B}/fl/rounds/+/pieces/{id}",
        )
        + _may_hear(
            "{B}/control/manager/+/{id}",
            "{B}/fl/rounds/+/verdicts/{id}",
        ),
        Kind.LEGACY_PROPLET: _may_send(
            "{B}/control/proplet/alive",
            "{B}/control/proplet/results",
            "{B}/control/proplet/invoke_results",
            "{B}/control/proplet/metrics",
            "{B}/control/proplet/task_metrics",
            "fl/rounds/+/updates/{id}",
        )
        + _may_hear(
            "{B}/control/manager/start",
            "{B}/control/manager/stop",
            "{B}/control/manager/invoke",
            "fl/models/#",
        ),
        Kind.OPERATOR: _may_send("{B}/fl/rounds/start", "fl/rounds/start")
        + _may_hear("{B}/#", "fl/#", "fml/updates"),
    }
)
"""The table. Read a row as: a principal of this kind may do these actions on this pattern."""

_MEMORY_MAX = 4096
"""Decisions a principal's rights remember; topics hold round ids, so the set of them has no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """The table's rows for one principal, with its names filled in, and the decisions they lead to."""

    kind: Kind
    id: str
    rules: tuple[Rule, ...]
    _decided: dict[tuple[Action, str], bool] = field(default_factory=dict, compare=False, repr=False)

    def permits(self, action: Action, topic: str) -> bool:
        """Whether this principal may do `action`; `topic` is a filter if the action is a subscription."""
        key = (action, topic)
        known = self._decided.get(key)
        if known is None:
            if len(self._decided) >= _MEMORY_MAX:
                self._decided.clear()
            known = self._decided[key] = self._decide(action, topic)
        return known

    def _decide(self, action: Action, topic: str) -> bool:
        lawful, fits = (is_filter, covers) if action is Action.SUBSCRIBE else (is_topic, matches)
        if not lawful(topic) or topic.startswith("$"):
            return False
        return any(action in rule.actions and fits(rule.pattern, topic) for rule in self.rules)


def rights_of(kind: Kind, principal: str, base: str) -> Rights:
    """The rights of `principal` (a checked id) on the channel whose topics begin with `base` (`m/…/c/…`)."""
    rules = tuple(filled(rule, base, principal) for rule in (*RULES[kind], *EVERYBODYS))
    return Rights(kind=kind, id=principal, rules=rules)


def filled(rule: Rule, base: str, principal: str) -> Rule:
    """A row of the table for that principal."""
    return Rule(rule.actions, rule.pattern.replace("{B}", base).replace("{id}", principal))
