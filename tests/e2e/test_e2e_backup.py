"""A backup of a running system, and another one that goes on from it."""

import base64
import json
import tarfile

import pytest
from walk_system import ROOT, TRAINER, started

from propeller.errors import BadInput, StorageBroken
from propeller.roles.backup import backup, restore
from propeller.roles.layout import DataDir

pytestmark = pytest.mark.e2e

ADD = base64.b64encode((ROOT / "examples/modules/add.wasm").read_bytes()).decode()


def test_a_system_goes_on_from_its_backup(tmp_path):
    """Tasks, results, images, models and identities are there; what was under way is finished elsewhere."""
    file = tmp_path / "backup.tar"
    with started(tmp_path / "first") as system:
        system.push()
        done = system.run(name="add", file=ADD, inputs=[40, 2])
        assert system.begin_round("r-1").status == 200
        model = system.completed("r-1")["model_version"]
        assert (
            system.begin_round("r-2", model_ref=f"fl/models/global_model_v{model}", timeout_s=300).status
            == 200
        )
        saved = json.loads(
            system.cli("-o", "json", "backup", str(file), "--data-dir", str(system.data)).stdout
        )
        assert (saved["bytes"], file.stat().st_mode & 0o777) == (file.stat().st_size, 0o600)
        ids = system.proplets
        again = system.cli("backup", str(file), "--data-dir", str(system.data), check=False)
        assert (again.returncode, "exists already" in again.stderr) == (1, True)
        known = system.get("model-registry", f"/models/{model}").body
        full = system.cli("restore", str(file), "--data-dir", str(system.data), check=False)
        assert (full.returncode, "is not empty" in full.stderr) == (1, True)
        system.kill()
    with tarfile.open(file) as held:
        assert not [one.name for one in held if one.name.startswith(("cache/", "logs/", "proplets/"))]
    restore(file, DataDir(tmp_path / "second"))
    with started(tmp_path / "second") as system:
        assert system.proplets == ids
        assert system.get("manager", f"/tasks/{done['id']}").body["results"] == done["results"]
        assert system.get("model-registry", f"/models/{model}").body == known
        assert system.completed("r-2", 60)["state"] == "completed"
        pulled = tmp_path / "pulled.wasm"
        system.cli(
            "image", "pull", f"localhost:{system.ports['registry']}/fl-client-wasm:latest", str(pulled)
        )
        assert pulled.read_bytes() == TRAINER.read_bytes()


@pytest.fixture
def small(tmp_path):
    """A data directory with one file in it, and its backup."""
    data = DataDir(tmp_path / "data")
    data.make()
    data.config.write_text("x = 1\n" * 1000)
    file = tmp_path / "b.tar"
    backup(data, file)
    return file


@pytest.mark.parametrize("damage", ["cut", "flipped", "not tar", "longer"])
def test_a_damaged_backup_restores_nothing(small, tmp_path, damage):
    """It is refused as a whole, and leaves no directory behind."""
    content = bytearray(small.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[1000] ^= 1
    elif damage == "not tar":
        content[:] = b"hello"
    else:
        with tarfile.open(small, "a") as tar:
            tar.add(__file__, "../evil")
        content = bytearray(small.read_bytes())
    small.write_bytes(content)
    with pytest.raises(StorageBroken):
        restore(small, DataDir(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".restoring*"))


def test_what_is_no_data_directory_is_not_copied(tmp_path):
    """The message says how to name one."""
    with pytest.raises(BadInput, match="--data-dir"):
        backup(DataDir(tmp_path), tmp_path / "b.tar")
