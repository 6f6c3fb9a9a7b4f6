"""Settings: which place wins, and what each complaint names."""

from pathlib import Path

import pytest

from propeller.errors import BadInput
from propeller.roles.foreground import up_of
from propeller.roles.layers import Layers, read_toml
from propeller.roles.settings import Told, level_of


def _layers(**places: object) -> Layers:
    return Layers("manager", **places)


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default():
    """The order is flags, environment, file, default; a flag that was not given does not count."""
    file = {"manager": {"port": 3}}
    env = {"MANAGER_HTTP_PORT": "2"}
    names = ("MANAGER_HTTP_PORT",)
    assert _layers(flags={"port": 1}, env=env, file=file).port("port", names, default=4) == 1
    assert _layers(flags={"port": None}, env=env, file=file).port("port", names, default=4) == 2
    assert _layers(env={"MANAGER_HTTP_PORT": ""}, file=file).port("port", names, default=4) == 3
    assert _layers().port("port", names, default=4) == 4


def test_the_first_spelling_in_the_environment_wins():
    """Where two names mean one setting, the one listed first counts."""
    env = {"MANAGER_COORDINATOR_URL": "http://new", "COORDINATOR_URL": "http://old"}
    assert _layers(env=env).text("url", ("MANAGER_COORDINATOR_URL", "COORDINATOR_URL")) == "http://new"
    assert (
        _layers(env={"COORDINATOR_URL": "http://old"}).text("url", ("X", "COORDINATOR_URL")) == "http://old"
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("250ms", 0.25), ("2m", 120.0), ("1h", 3600.0), ("7", 7.0), (5, 5.0)]
)
def test_durations_are_read_as_the_original_writes_them(text, seconds):
    """Go's short durations and plain numbers of seconds are both understood."""
    assert _layers(flags={"heartbeat": text}).seconds("heartbeat", default=1.0) == seconds


@pytest.mark.parametrize(
    ("read", "value", "says"),
    [
        ("port", "seventy", "whole number"),
        ("port", "70000", "0 to 65535"),
        ("port", True, "whole number"),
        ("seconds", "soon", "duration"),
        ("switch", "perhaps", "yes or no"),
        ("listed", 7, "list of strings"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_place(read, value, says):
    """The complaint names the flag, the variable or the line, and what would have been right."""
    default = {"port": 1, "seconds": 1.0, "switch": True, "listed": ()}[read]
    with pytest.raises(BadInput, match=f"--some-thing.*{says}"):
        getattr(_layers(flags={"some_thing": value}), read)("some_thing", default=default)
    with pytest.raises(BadInput, match=r"some_thing in \[manager\] of propeller.toml"):
        getattr(_layers(file={"manager": {"some_thing": value}}), read)("some_thing", default=default)


@pytest.mark.parametrize(
    ("text", "truth"), [("1", True), ("yes", True), ("ON", True), ("false", False), ("0", False)]
)
def test_switches_are_read_in_any_case(text, truth):
    """The original's words for yes and no are understood."""
    assert _layers(env={"S": text}).switch("s", ("S",), default=not truth) is truth


def test_lists_come_as_arrays_or_with_commas():
    """Blanks around commas and empty elements do not count."""
    assert _layers(env={"L": " a, ,b "}).listed("l", ("L",)) == ("a", "b")
    assert _layers(file={"manager": {"l": ["a", "b"]}}).listed("l") == ("a", "b")


def test_a_file_that_is_not_toml_is_named(tmp_path: Path):
    """A broken file is the caller's mistake, said with its path."""
    path = tmp_path / "propeller.toml"
    path.write_text("[manager\n")
    with pytest.raises(BadInput, match=r"propeller\.toml is not TOML"):
        read_toml(path)
    with pytest.raises(BadInput, match="cannot read"):
        read_toml(tmp_path / "absent.toml")


def test_levels_take_the_originals_names():
    """`warn` and `trace` are spellings of ours; anything else is refused."""
    assert level_of(_layers(env={"L": "WARN"}), "L") == "warning"
    assert level_of(_layers(env={"L": "trace"}), "L") == "debug"
    with pytest.raises(BadInput, match="loud"):
        level_of(_layers(env={"L": "loud"}), "L")


def test_up_reads_ports_aliases_and_places_from_its_file(tmp_path: Path):
    """`propeller.toml` configures `up` whole; flags still win."""
    file = tmp_path / "propeller.toml"
    file.write_text(
        '[up]\nproplets = 5\nmanager_port = 7171\nadvertise = "10.0.0.7"\n'
        '[aliases]\n"store:1" = "10.0.0.8:2"\n'
    )
    up = up_of(Told(flags={"proplets": 2}, env={"PROPELLER_DATA_DIR": str(tmp_path / "d")}, settings=file))
    assert (up.proplets, up.ports["manager"], up.ports["coordinator"]) == (2, 7171, 8086)
    assert up.data.root == tmp_path / "d"
    assert up.aliases == {"store:1": "10.0.0.8:2"}
    assert up.host == "0.0.0.0"  # noqa: S104 - others are expected, so it listens to them


def test_up_refuses_a_broker_address_that_is_none():
    """An address is checked before anything is bound."""
    with pytest.raises(BadInput, match="gopher"):
        up_of(Told(flags={"broker": "gopher://x"}))
