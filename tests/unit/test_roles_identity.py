"""Identities: `config.toml`, both families of names, and provisioning."""

import os
import stat
from itertools import count
from pathlib import Path

import pytest

from propeller.broker.credentials import CredentialStore
from propeller.broker.principals import Kind
from propeller.errors import BadInput, Conflict, NotFound, StorageBroken
from propeller.roles import provision
from propeller.roles.identity import (
    Config,
    Identity,
    Services,
    env_identity,
    env_lines,
    read_config,
    write_config,
)
from propeller.roles.layout import DataDir, Running, data_dir
from propeller.roles.provision import Wanted

ME = Identity(domain_id="d", channel_id="c", client_id="me", client_key="key")


def _numbered():
    numbers = count(1)
    return lambda: f"id-{next(numbers)}"


def test_a_config_is_read_back_as_written_and_private(tmp_path: Path):
    """Identities and services survive the file, which only its owner may read."""
    path = tmp_path / "config.toml"
    config = Config(identities={"manager": ME, "proplet1": ME}, services=Services(mqtt_address="tcp://h:1"))
    write_config(path, config)
    assert read_config(path) == config
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_both_families_of_names_are_read(tmp_path: Path):
    """`tenant_id, entity_id, api_key` mean what `domain_id, client_id, client_key` mean."""
    path = tmp_path / "config.toml"
    path.write_text('[proplet]\ntenant_id="d"\nentity_id="me"\napi_key="key"\nchannel_id="c"\n')
    assert read_config(path).identity("proplet") == ME
    old = {"PROPLET_DOMAIN_ID": "d", "PROPLET_CLIENT_ID": "me", "PROPLET_CLIENT_KEY": "key"}
    new = {"PROPLET_TENANT_ID": "d", "PROPLET_ENTITY_ID": "me", "PROPLET_API_KEY": "key"}
    for env in (old, new):
        assert env_identity({**env, "PROPLET_CHANNEL_ID": "c"}, "PROPLET") == ME
        assert env_identity({**env, "CHANNEL_ID": "c"}, "PROPLET") == ME
        assert env_identity(env, "PROPLET") is None


def test_an_environment_file_speaks_both_families():
    """What `--env-file` writes is read by programs of either age."""
    env = dict(line.split("=", 1) for line in env_lines("PROPLET_2", ME))
    assert env["PROPLET_2_CLIENT_ID"] == env["PROPLET_2_ENTITY_ID"] == "me"
    assert env_identity(env, "PROPLET_2") == ME


def test_a_section_that_lacks_a_value_is_named(tmp_path: Path):
    """An incomplete identity is refused with both spellings of what is missing."""
    path = tmp_path / "config.toml"
    path.write_text('[manager]\nclient_id="me"\nclient_key="key"\nchannel_id="c"\n')
    with pytest.raises(BadInput, match=r"\[manager\].*lacks domain_id or tenant_id"):
        read_config(path)


def test_the_only_proplet_needs_no_naming():
    """One section is enough; of several, one must be named, unless it is `[proplet]` itself."""
    assert Config(identities={"proplet7": ME}, services=Services()).only_proplet() == "proplet7"
    both = Config(identities={"proplet1": ME, "proplet2": ME}, services=Services())
    with pytest.raises(BadInput, match=r"proplet1, proplet2.*--section"):
        both.only_proplet()
    with pytest.raises(NotFound, match="add-proplets"):
        Config(identities={"manager": ME}, services=Services()).only_proplet()
    assert Config(identities={"proplet": ME, "proplet2": ME}, services=Services()).only_proplet() == "proplet"


def test_provisioning_makes_every_principal_and_lets_it_in(tmp_path: Path):
    """From nothing: a domain, a channel, three roles and the proplets, each known to the broker by kind."""
    config = provision.ensure(tmp_path / "c.toml", tmp_path / "b", Wanted(proplets=2), new_id=_numbered())
    assert list(config.identities) == ["manager", "coordinator", "operator", "proplet1", "proplet2"]
    store = CredentialStore(tmp_path / "b")
    assert (store.domain, store.channel) == ("id-1", "id-2")
    kinds = {store.principals()[one.client_id] for one in config.identities.values()}
    assert kinds == {Kind.MANAGER, Kind.COORDINATOR, Kind.OPERATOR, Kind.PROPLET}
    assert all(store.verify(one.client_id, one.client_key) for one in config.identities.values())


def test_provisioning_again_keeps_identities_and_adds_what_is_missing(tmp_path: Path):
    """A system has the same proplets at every start; more are added, none is taken away."""
    path, broker = tmp_path / "c.toml", tmp_path / "b"
    first = provision.ensure(path, broker, Wanted(proplets=2))
    again = provision.ensure(path, broker, Wanted(proplets=3))
    assert dict(first.identities).items() <= dict(again.identities).items()
    assert list(again.proplets()) == ["proplet1", "proplet2", "proplet3"]
    assert provision.ensure(path, broker, Wanted(proplets=1)) == again


def test_a_broker_that_lost_its_files_is_told_again(tmp_path: Path):
    """The config is what counts: a fresh broker directory learns the old identities."""
    config = provision.ensure(tmp_path / "c.toml", tmp_path / "b1", Wanted(proplets=1))
    provision.ensure(tmp_path / "c.toml", tmp_path / "b2", Wanted(proplets=1))
    one = config.identity("proplet1")
    assert CredentialStore(tmp_path / "b2").verify(one.client_id, one.client_key)


def test_another_domain_is_refused(tmp_path: Path):
    """A config file belongs to one domain and channel, for ever."""
    provision.ensure(tmp_path / "c.toml", tmp_path / "b", Wanted(domain="mine"))
    with pytest.raises(BadInput, match="mine"):
        provision.ensure(tmp_path / "c.toml", tmp_path / "b", Wanted(domain="yours"))
    with pytest.raises(Conflict, match="mine"):
        provision.ensure(tmp_path / "other.toml", tmp_path / "b", Wanted(domain="yours"))


def test_added_proplets_get_numbered_sections_and_are_let_in(tmp_path: Path):
    """Each new worker has a section after the highest number, and the broker's files know it."""
    provision.ensure(tmp_path / "up.toml", tmp_path / "b", Wanted(proplets=3))
    path, services = tmp_path / "config.toml", Services(mqtt_address="tcp://h:1")
    assert list(provision.add_proplets(path, tmp_path / "b", 1, services)) == ["proplet1"]
    made = provision.add_proplets(path, tmp_path / "b", 2, services, legacy=True)
    assert list(made) == ["proplet2", "proplet3"]
    store = CredentialStore(tmp_path / "b")
    assert all(store.verify(one.client_id, one.client_key) for one in made.values())
    assert store.principals()[made["proplet2"].client_id] is Kind.LEGACY_PROPLET
    assert read_config(path).services == services


def test_proplets_cannot_be_added_to_nothing_or_to_another_channel(tmp_path: Path):
    """Without a broker's directory there is nothing to join, and a file of another channel stays as it is."""
    with pytest.raises(NotFound, match="propeller up"):
        provision.add_proplets(tmp_path / "c.toml", tmp_path / "none", 1, Services())
    provision.ensure(tmp_path / "one.toml", tmp_path / "b1", Wanted())
    provision.ensure(tmp_path / "two.toml", tmp_path / "b2", Wanted())
    before = (tmp_path / "two.toml").read_text()
    with pytest.raises(BadInput, match="--file-name"):
        provision.add_proplets(tmp_path / "two.toml", tmp_path / "b1", 1, Services())
    assert (tmp_path / "two.toml").read_text() == before


def test_the_update_secret_is_made_once_and_private(tmp_path: Path):
    """Manager and coordinator must find the same secret at every start; a damaged one is not replaced."""
    data = DataDir(tmp_path)
    secret = data.update_token_secret()
    path = tmp_path / "update-token.key"
    assert data.update_token_secret() == secret
    assert len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("not hex")
    with pytest.raises(StorageBroken, match="hex"):
        data.update_token_secret()


def test_a_data_directory_has_one_owner(tmp_path: Path):
    """The second `up` on a directory is refused, and the message says what to do."""
    data = DataDir(tmp_path)
    held = data.lock()
    with pytest.raises(Conflict, match="--data-dir"):
        data.lock()
    os.close(held)
    os.close(data.lock())


def test_a_note_of_a_dead_process_is_no_note(tmp_path: Path):
    """After kill -9 the note is still there, but nothing runs."""
    data = DataDir(tmp_path)
    note = Running(pid=os.getpid(), urls={}, mqtt_address="", proplets=[])
    data.note(note)
    assert data.running() == note
    data.note(Running(pid=2**22 + 1, urls={}, mqtt_address="", proplets=[]))
    assert data.running() is None


def test_the_data_directory_comes_from_flag_environment_or_default(tmp_path: Path):
    """`--data-dir` wins over `PROPELLER_DATA_DIR`, which wins over `.propeller`."""
    env = {"PROPELLER_DATA_DIR": str(tmp_path)}
    assert data_dir(Path("x"), env).root == Path("x")
    assert data_dir(None, env).root == tmp_path
    assert data_dir(None, {}).root == Path(".propeller")
