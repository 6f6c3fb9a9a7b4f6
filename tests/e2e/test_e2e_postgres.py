"""The whole system with its records in PostgreSQL."""

import base64
import json

import pytest
from walk_system import ROOT, started

from postgres_server import new_database

pytestmark = pytest.mark.e2e

ADD = base64.b64encode((ROOT / "examples/modules/add.wasm").read_bytes()).decode()


def test_a_system_on_postgres(tmp_path):
    """Tasks, a round and a kill -9 as on files; it never begins anew; a backup says what it lacks."""
    data = tmp_path / "data"
    with started(data, "--database", new_database()) as system:
        system.push()
        done = system.run(name="add", file=ADD, inputs=[40, 2])
        assert done["results"] == "42"
        assert system.begin_round("r-1").status == 200
        version = system.completed("r-1")["model_version"]
        system.kill()
        system.again()
        assert system.get("manager", f"/tasks/{done['id']}").body["results"] == "42"
        assert system.status("r-1")["model_version"] == version
        file = str(tmp_path / "b.tar")
        saved = json.loads(system.cli("-o", "json", "backup", file, "--data-dir", str(data)).stdout)
        assert len(saved["not_included"]) == 4
    refused = system.cli("up", "--data-dir", str(data), "--free-ports", check=False)
    assert refused.returncode == 1
    assert "name it with --database" in refused.stderr
