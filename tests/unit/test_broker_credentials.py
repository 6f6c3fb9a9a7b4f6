"""The credential store: what it keeps, whom it lets in, and that several processes may change it."""

import json
import multiprocessing
import stat
from pathlib import Path

import pytest

from propeller.broker.credentials import CredentialStore, new_api_key
from propeller.broker.principals import Action, Kind
from propeller.errors import BadInput, Conflict, NotFound, StorageBroken


@pytest.fixture
def store(tmp_path: Path) -> CredentialStore:
    """An empty store."""
    return CredentialStore.create(tmp_path / "credentials", "dom", "ch")


def test_who_was_added_gets_in_with_that_key_only(store: CredentialStore) -> None:
    """A principal proves itself with its own key, and nobody does without one."""
    key, other = store.add(Kind.PROPLET, "p1"), store.add(Kind.PROPLET, "p2")
    assert store.verify("p1", key)
    assert not store.verify("p1", other)
    assert not store.verify("p1", "")
    assert not store.verify("nobody", key)
    assert not store.verify("", "")


def test_a_key_of_ones_own_is_taken(store: CredentialStore) -> None:
    """A given key is used as it is; one that MQTT or a file could not carry is refused."""
    assert store.add(Kind.OPERATOR, "o1", "my key") == "my key"
    assert store.verify("o1", "my key")
    for bad in ("", "x" * 300, "two\nlines", "schlüssel"):
        with pytest.raises(BadInput):
            store.add(Kind.OPERATOR, "o1", bad)


def test_keys_are_256_random_bits() -> None:
    """A new key is url-safe, 43 characters long, and no two are the same."""
    keys = {new_api_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 43 and key.replace("-", "").replace("_", "").isalnum() for key in keys)


def test_no_file_holds_a_key_and_all_are_private(store: CredentialStore) -> None:
    """Whoever reads the directory learns no key, and only its owner may."""
    key = store.add(Kind.MANAGER, "m1")
    files = list(store.directory.iterdir())
    assert not any(key.encode() in file.read_bytes() for file in files)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700


def test_adding_again_replaces_the_key(store: CredentialStore) -> None:
    """The same kind again rotates the key; another kind is a conflict."""
    old = store.add(Kind.PROPLET, "p1")
    mark = store.mark("p1")
    new = store.add(Kind.PROPLET, "p1")
    assert store.mark("p1") != mark
    assert store.verify("p1", new)
    assert not store.verify("p1", old)
    with pytest.raises(Conflict, match="already a proplet"):
        store.add(Kind.MANAGER, "p1")


def test_removed_is_out(store: CredentialStore) -> None:
    """A removed principal has neither key nor rights; removing it again says so."""
    key = store.add(Kind.PROPLET, "p1")
    store.remove("p1")
    assert not store.verify("p1", key)
    assert store.rights("p1") is None
    assert store.mark("p1") is None
    with pytest.raises(NotFound):
        store.remove("p1")


@pytest.mark.parametrize("bad", ["", "a:b", "a/b", "+", "a b", "x\ny", "é"])
def test_unlawful_ids_are_refused(store: CredentialStore, bad: str) -> None:
    """No id can end a line of the password file or a level of a topic."""
    with pytest.raises(BadInput):
        store.add(Kind.PROPLET, bad)


def test_another_store_sees_the_change(store: CredentialStore) -> None:
    """A store that is open elsewhere lets in who was added, and out who was removed."""
    running = CredentialStore(store.directory)
    key = store.add(Kind.PROPLET, "p1")
    assert running.verify("p1", key)
    assert (rights := running.rights("p1"))
    assert rights.permits(Action.PUBLISH, "m/dom/c/ch/control/proplet/alive/p1")
    store.remove("p1")
    assert not running.verify("p1", key)
    assert running.principals() == {}


def test_a_directory_belongs_to_one_channel(store: CredentialStore, tmp_path: Path) -> None:
    """Creating again opens; for another channel it is a conflict; opening nothing says so."""
    store.add(Kind.PROPLET, "p1")
    again = CredentialStore.create(store.directory, "dom", "ch")
    assert again.principals() == {"p1": Kind.PROPLET}
    with pytest.raises(Conflict, match="'dom'"):
        CredentialStore.create(store.directory, "dom", "other")
    with pytest.raises(NotFound):
        CredentialStore(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("passwords", b"p1:secret\n"),
        ("passwords", b"p1:$6$salt$hash\n"),
        ("passwords", b"p1:$7$999999999$c2FsdA==$aGFzaA==\n"),
        ("passwords", b"\xff\xfe"),
        ("principals.json", b"{}"),
        ("principals.json", b'{"schema":1,"domain":"d","channel":"c","principals":{"p1":"king"}}'),
        ("principals.json", b'{"schema":1,"domain":"d/#","channel":"c","principals":{}}'),
        ("principals.json", b'{"schema":2,"domain":"d","channel":"c","principals":{}}'),
    ],
)
def test_damaged_files_are_refused_at_the_start(store: CredentialStore, name: str, content: bytes) -> None:
    """A broker does not start on files that it would have to guess at, and is told which."""
    (store.directory / name).write_bytes(content)
    with pytest.raises(StorageBroken, match=name.replace(".", r"\.")):
        CredentialStore(store.directory)


def test_damaged_files_do_not_lock_a_running_broker(
    store: CredentialStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Who was in stays in while the files are damaged, the log says why, and repair is noticed."""
    key = store.add(Kind.PROPLET, "p1")
    whole = (store.directory / "principals.json").read_bytes()
    (store.directory / "principals.json").write_text("{")
    assert store.verify("p1", key)
    assert "keeping the credentials" in caplog.text
    (store.directory / "principals.json").write_bytes(whole.replace(b"p1", b"p9"))
    assert not store.verify("p1", key)


def test_half_a_change_lets_nobody_in(store: CredentialStore) -> None:
    """A password without a kind is worth nothing, as after a crash between the two files."""
    key = store.add(Kind.PROPLET, "p1")
    book = json.loads((store.directory / "principals.json").read_bytes())
    (store.directory / "principals.json").write_text(json.dumps({**book, "principals": {}}))
    assert not store.verify("p1", key)


def _add_many(directory: Path, name: str) -> None:
    store = CredentialStore(directory)
    for number in range(10):
        store.add(Kind.PROPLET, f"{name}-{number}")


def test_processes_do_not_lose_each_others_changes(store: CredentialStore) -> None:
    """Four processes adding at once end with everybody in."""
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_add_many, args=(store.directory, f"w{n}")) for n in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert len(store.principals()) == 40
    assert len(CredentialStore(store.directory).principals()) == 40
