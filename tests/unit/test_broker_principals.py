"""The table of rights, against what each role needs and against what nobody may do."""

import pytest

from propeller.broker.principals import RULES, Action, Kind, Rights, rights_of
from propeller.wire.filters import is_filter
from propeller.wire.topics import FromManager, FromProplet, Topics

T = Topics("dom", "ch")
MANAGER = rights_of(Kind.MANAGER, "m1", T.base)
COORDINATOR = rights_of(Kind.COORDINATOR, "c1", T.base)
PROPLET = rights_of(Kind.PROPLET, "p1", T.base)
LEGACY = rights_of(Kind.LEGACY_PROPLET, "l1", T.base)
OPERATOR = rights_of(Kind.OPERATOR, "o1", T.base)
EVERYBODY = (MANAGER, COORDINATOR, PROPLET, LEGACY, OPERATOR)

_LEGACY_KINDS = [kind for kind in FromProplet if kind not in {FromProplet.EVENTS, FromProplet.LOGS}]
_DIRECTED_ONLY = [kind for kind in FromProplet if kind is not FromProplet.CREATE]


@pytest.mark.parametrize(
    ("rights", "filters"),
    [
        (MANAGER, T.manager_subscriptions()),
        (COORDINATOR, T.coordinator_subscriptions()),
        (PROPLET, T.proplet_subscriptions("p1")),
        (
            LEGACY,
            [T.from_manager(kind) for kind in (FromManager.START, FromManager.STOP, FromManager.INVOKE)],
        ),
        (LEGACY, [f"{T.base}/registry/server", "fl/models/global_model_v1", f"{T.base}/fl/models/#"]),
        (OPERATOR, [f"{T.base}/#", "fl/#"]),
    ],
)
def test_every_role_may_subscribe_to_what_it_needs(rights: Rights, filters: list[str]) -> None:
    """The subscriptions that `Topics` lists are permitted whole."""
    assert [text for text in filters if not rights.permits(Action.SUBSCRIBE, text)] == []


def _publications() -> list[tuple[Rights, str]]:
    directed = [(MANAGER, T.from_manager(kind, "p1")) for kind in FromManager]
    shared = [
        (MANAGER, T.from_manager(kind)) for kind in (FromManager.START, FromManager.STOP, FromManager.INVOKE)
    ]
    rounds = [
        (MANAGER, T.rounds_start()),
        (MANAGER, T.round_launched("r1")),
        (MANAGER, T.round_closed("r1")),
        (MANAGER, "fml/updates"),
        (COORDINATOR, T.rounds_start()),
        (COORDINATOR, T.rounds_next()),
        (COORDINATOR, T.root(T.rounds_next())),
        (COORDINATOR, T.round_complete("r1")),
        (COORDINATOR, T.root(T.round_complete("r1"))),
        (COORDINATOR, T.round_verdict("r1", "p1")),
        (COORDINATOR, "fl/models/global_model_v1"),
        (PROPLET, T.round_update("r1", "p1")),
        (LEGACY, T.root(T.round_update("r1", "l1"))),
        (OPERATOR, T.rounds_start()),
        (OPERATOR, T.root(T.rounds_start())),
    ]
    proplets = [(PROPLET, T.from_proplet(kind, "p1")) for kind in FromProplet]
    announced = [(PROPLET, T.from_proplet(FromProplet.CREATE))]
    return [
        *directed,
        *shared,
        *rounds,
        *proplets,
        *announced,
        *((LEGACY, T.from_proplet(kind)) for kind in _LEGACY_KINDS),
    ]


@pytest.mark.parametrize(("rights", "topic"), _publications())
def test_every_role_may_publish_what_it_must_say(rights: Rights, topic: str) -> None:
    """Every topic of `Topics` may be published on by the role that speaks there."""
    assert rights.permits(Action.PUBLISH, topic)


@pytest.mark.parametrize(
    ("rights", "action", "topic"),
    [
        *((PROPLET, Action.PUBLISH, T.from_proplet(kind, "p2")) for kind in FromProplet),
        *((PROPLET, Action.PUBLISH, T.from_proplet(kind)) for kind in _DIRECTED_ONLY),
        *((LEGACY, Action.PUBLISH, T.from_proplet(kind, "l1")) for kind in FromProplet),
        *((rights, Action.PUBLISH, T.from_manager("start", "p1")) for rights in EVERYBODY[1:]),
        (PROPLET, Action.PUBLISH, T.round_update("r1", "p2")),
        (PROPLET, Action.PUBLISH, T.root(T.round_update("r1", "p1"))),
        (LEGACY, Action.PUBLISH, T.root(T.round_update("r1", "p1"))),
        (PROPLET, Action.PUBLISH, T.round_complete("r1")),
        (PROPLET, Action.PUBLISH, T.round_verdict("r1", "p1")),
        (PROPLET, Action.PUBLISH, T.rounds_start()),
        (LEGACY, Action.PUBLISH, T.root(T.rounds_start())),
        (MANAGER, Action.PUBLISH, T.from_proplet("alive")),
        (MANAGER, Action.PUBLISH, T.from_proplet("results", "p1")),
        (COORDINATOR, Action.PUBLISH, T.from_manager("stop", "p1")),
        (OPERATOR, Action.PUBLISH, T.round_update("r1", "p1")),
        (PROPLET, Action.SUBSCRIBE, f"{T.base}/control/manager/+/p2"),
        (PROPLET, Action.SUBSCRIBE, f"{T.base}/control/manager/+/+"),
        (PROPLET, Action.SUBSCRIBE, f"{T.base}/control/manager/#"),
        (PROPLET, Action.SUBSCRIBE, f"{T.base}/#"),
        (PROPLET, Action.SUBSCRIBE, "#"),
        (PROPLET, Action.SUBSCRIBE, f"$share/g/{T.base}/control/manager/+/p1"),
        (PROPLET, Action.SUBSCRIBE, T.from_manager("start")),
        (PROPLET, Action.RECEIVE, T.from_manager("start")),
        (PROPLET, Action.RECEIVE, T.from_manager("start", "p2")),
        (LEGACY, Action.SUBSCRIBE, T.from_manager("start", "l1")),
        (COORDINATOR, Action.SUBSCRIBE, f"{T.base}/control/#"),
        (MANAGER, Action.SUBSCRIBE, "m/dom/c/other/#"),
        (MANAGER, Action.SUBSCRIBE, "#"),
        (OPERATOR, Action.SUBSCRIBE, "$SYS/#"),
    ],
)
def test_what_is_another_roles_is_denied(rights: Rights, action: Action, topic: str) -> None:
    """Nobody speaks for another, hears another's orders, or leaves the channel."""
    assert not rights.permits(action, topic)


@pytest.mark.parametrize("rights", EVERYBODY)
@pytest.mark.parametrize(
    "topic",
    ["", "+", "#", f"{T.base}/control/manager/#", "fl/rounds/+/updates/l1", "$SYS/x", "fl/a\0b", "fl/\ud800"],
)
def test_unlawful_topics_are_nobodys(rights: Rights, topic: str) -> None:
    """A topic with wildcards, with `$` at its head, or that cannot be encoded is denied to all."""
    assert not rights.permits(Action.PUBLISH, topic)
    assert not rights.permits(Action.RECEIVE, topic)


def test_every_pattern_of_the_table_is_a_filter() -> None:
    """No row can be written that no broker understands."""
    patterns = [rule.pattern for kind in Kind for rule in rights_of(kind, "x", T.base).rules]
    assert all(map(is_filter, patterns))
    assert set(RULES) == set(Kind)


def test_remembered_decisions_stay_right_and_bounded() -> None:
    """Deciding on ever new topics costs a bounded memory and changes no answer."""
    rights = rights_of(Kind.PROPLET, "p1", T.base)
    for number in range(10_000):
        assert rights.permits(Action.PUBLISH, T.round_update(f"r{number}", "p1"))
        assert not rights.permits(Action.PUBLISH, T.round_update(f"r{number}", "p2"))
    assert len(rights._decided) <= 4096
