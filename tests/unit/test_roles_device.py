"""A worker's own command: what it is told of directories and labels."""

import os
from pathlib import Path

import pytest

from propeller.errors import BadInput, Conflict
from propeller.ports import Folder
from propeller.proplet.settings import ServiceUrls
from propeller.roles.layout import DataDir, Running
from propeller.roles.proplet import of_device
from propeller.roles.settings import Told

IDENTITY = {
    f"PROPLET_{name}": name.lower() for name in ("DOMAIN_ID", "CHANNEL_ID", "CLIENT_ID", "CLIENT_KEY")
}


def told(flags=None, **env: str) -> Told:
    """What a shell with that environment and those flags tells."""
    return Told(flags=flags or {}, env=IDENTITY | env)


def test_directories_are_read_only_unless_said_otherwise(tmp_path: Path):
    """A guest sees a directory under its own path, or under the one that is named."""
    given = [f"{tmp_path}", f"{tmp_path}:/in", f"{tmp_path}:/out:rw", f"{tmp_path}:rw", f"{tmp_path}:/x:ro"]
    assert of_device(told({"dirs": given})).folders == (
        Folder(host=tmp_path, guest=str(tmp_path)),
        Folder(host=tmp_path, guest="/in"),
        Folder(host=tmp_path, guest="/out", writable=True),
        Folder(host=tmp_path, guest=str(tmp_path), writable=True),
        Folder(host=tmp_path, guest="/x"),
    )


def test_the_originals_variable_means_what_it_meant(tmp_path: Path):
    """Paths between colons, each writable under the same path; flags go over it."""
    other = tmp_path / "other"
    other.mkdir()
    settings = of_device(told(PROPLET_DIRS=f"{tmp_path}:{other}"))
    assert [(one.guest, one.writable) for one in settings.folders] == [
        (str(tmp_path), True),
        (str(other), True),
    ]
    settings = of_device(told({"dirs": [f"{other}:/o"]}, PROPLET_DIRS=str(tmp_path)))
    assert [one.guest for one in settings.folders] == ["/o"]


@pytest.mark.parametrize("text", ["/nowhere/at/all", "/etc:relative", "/etc:/a:/b", ":/a", "/etc/hostname"])
def test_a_directory_that_cannot_be_shared_is_refused_at_the_start(text):
    """Not when the first task comes."""
    with pytest.raises(BadInput, match="--dir"):
        of_device(told({"dirs": [text]}))


def test_labels_come_from_flags_or_the_environment():
    """NAME=VALUE, each once; what is none is refused."""
    assert of_device(told(PROPLET_LABELS="zone=north, disk=ssd")).labels == {"zone": "north", "disk": "ssd"}
    assert of_device(told({"labels": ["a=1=2"]}, PROPLET_LABELS="zone=north")).labels == {"a": "1=2"}
    with pytest.raises(BadInput, match="NAME=VALUE"):
        of_device(told({"labels": ["zone"]}))


def test_a_worker_of_the_broker_alone_is_told_no_other_address():
    """What the environment says of the system is left aside; what is asked of this worker is refused."""
    settings = of_device(told({"mqtt_only": True}, MANAGER_URL="http://m", PROPLET_ALLOWED_ORIGINS="*"))
    assert settings.mqtt_only
    assert (settings.urls, settings.allowed_origins) == (ServiceUrls(), ())
    assert of_device(told(PROPLET_MQTT_ONLY="true")).mqtt_only
    for flag in ({"manager_url": "http://m"}, {"allowed_origins": ["*"]}, {"registry_auth": "auth.json"}):
        with pytest.raises(BadInput, match="mqtt_only"):
            of_device(told({"mqtt_only": True, **flag}))


def test_the_identity_of_a_worker_that_up_runs_is_refused(tmp_path: Path):
    """Else two processes would throw each other off the broker; once `up` has ended anybody may have it."""
    note = Running(pid=os.getpid(), urls={}, mqtt_address="", proplets=["other", "client_id"])
    DataDir(tmp_path).note(note)
    shell = {"PROPELLER_DATA_DIR": str(tmp_path)}
    for flags in ({}, {"data_dir": "elsewhere"}):
        with pytest.raises(Conflict, match=r"proplet client_id already.*add-proplets 1"):
            of_device(told(flags, **shell))
    assert of_device(told(**shell, PROPLET_CLIENT_ID="another")).id == "another"
    DataDir(tmp_path).forget_note()
    assert of_device(told(**shell)).id == "client_id"
