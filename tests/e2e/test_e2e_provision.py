"""Another worker in another terminal, and a broker of somebody else: identities, and nothing else, change."""

import json
import subprocess
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from walk_system import IMAGE, PROPELLER, System, free_ports, joined, listening, need, started, until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def system(request, tmp_path_factory) -> Iterator[System]:
    """One proplet of `up`, for others to join."""
    if request.param == "mosquitto":
        need("mosquitto", "mosquitto")
    flags = ("--broker", request.param)
    with started(tmp_path_factory.mktemp("provision") / "data", *flags, proplets=1) as running:
        running.push()
        yield running


def provision(*arguments: str) -> str:
    """`propeller provision`; what it prints. It asks nothing: there is nobody to answer."""
    done = subprocess.run(
        [str(PROPELLER), "provision", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def sections(config: Path) -> dict[str, dict[str, str]]:
    """The identities of a `config.toml`, by section."""
    with config.open("rb") as text:
        return {name: one for name, one in tomllib.load(text).items() if "client_id" in one}


def device_data(folder: Path) -> Path:
    """A device's own directory: eight rows in a CSV file."""
    folder.mkdir()
    rows = "".join(f"0.{k},0.{k + 1},0.{k + 2},{k % 2}\n" for k in range(8))
    (folder / "rows.csv").write_text("a,b,c,y\n" + rows)
    return folder


def test_another_worker_is_two_commands(system, tmp_path):
    """Provisioned beside a running broker, it joins at once, and trains on its own files with others."""
    config = tmp_path / "config.toml"
    said = provision("add-proplets", "1", "-f", str(config), "--data-dir", str(system.data))
    assert f"propeller proplet --config {config}" in said
    (identity,) = sections(config).values()
    assert {"domain_id", "channel_id", "client_id", "client_key"} <= set(identity)
    assert identity["domain_id"] == system.env["DOMAIN_ID"]
    assert config.stat().st_mode & 0o077 == 0, "keys are for the owner alone"
    data = device_data(tmp_path / "own")
    with joined(system, config, tmp_path, "--data", str(data)) as newcomer:
        assert str(uuid.UUID(newcomer)) == newcomer
        both = [system.proplets[0], newcomer]
        assert system.begin_round("mixed", participants=both, k_of_n=2).status == 200
        status = system.completed("mixed")
        assert (status["completed"], status["num_updates"]) == (True, 2)
        detail = system.get("coordinator", "/rounds/mixed").body
        assert {one["participant"]: one["samples"] for one in detail["updates"]} == {both[0]: 64, newcomer: 8}
        ended = system.run(name="again", image_url=IMAGE, proplet_id=newcomer, env={"PLAIN": "task"})
        assert ended["attempts"][0]["proplet_id"] == newcomer
    gone = until("gone", lambda: not system.get("manager", f"/proplets/{newcomer}").body["alive"])
    assert gone


def test_a_wrong_key_is_refused_in_one_line(system, tmp_path):
    """A worker whose key the broker does not know ends, and says what to do."""
    config = tmp_path / "config.toml"
    provision("add-proplets", "1", "-f", str(config), "--data-dir", str(system.data))
    (identity,) = sections(config).values()
    config.write_text(config.read_text().replace(identity["client_key"], "x" * 43))
    command = [str(PROPELLER), "proplet", "--config", str(config), "--data-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, "--metrics-port", "0"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "refuse" in done.stderr.lower() or "credential" in done.stderr.lower(), done.stderr


def test_the_env_file_names_every_identity(system):
    """The names that published commands use, both spellings, as a shell reads them."""
    env = system.env
    assert env["PROPLET_CLIENT_ID"] == env["PROPLET_ENTITY_ID"] == system.proplets[0]
    assert env["PROPLET_CLIENT_KEY"] == env["PROPLET_API_KEY"]
    assert env["DOMAIN_ID"] == env["TENANT_ID"]
    assert env["MANAGER_URL"].endswith(f":{system.ports['manager']}")
    assert (system.data / "env").stat().st_mode & 0o077 == 0


@contextmanager
def outside_mosquitto(home: Path, port: int, *principals: dict[str, str]) -> Iterator[None]:
    """A Mosquitto that somebody else runs: a password file and no ACL of ours."""
    program, passwd = need("mosquitto", "mosquitto"), need("mosquitto_passwd", "mosquitto")
    (home / "passwords").touch(0o600)
    for one in principals:
        command = [passwd, "-b", str(home / "passwords"), one["client_id"], one["client_key"]]
        subprocess.run(command, check=True, capture_output=True)
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous false", f"password_file {home / 'passwords'}"]
    (home / "mosquitto.conf").write_text("\n".join([*lines, "user root", ""]))
    with (home / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(home / "mosquitto.conf")], stdout=log, stderr=log)
    try:
        until("mosquitto listens", lambda: listening(port) or process.poll() is not None)
        assert process.poll() is None, (home / "mosquitto.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(10)


def test_an_outside_mosquitto_is_an_address_and_credentials(tmp_path):
    """With a broker that is not ours nothing else changes: the round completes."""
    config, ports = tmp_path / "config.toml", free_ports()
    provision("-f", str(config), "--data-dir", str(tmp_path / "made"), "--proplets", "2")
    flags = ("--broker", f"tcp://127.0.0.1:{ports['mqtt']}", "--config", str(config))
    with (
        outside_mosquitto(tmp_path, ports["mqtt"], *sections(config).values()),
        started(tmp_path / "data", *flags, proplets=2, ports=ports) as system,
    ):
        system.outside = ("mqtt",)
        system.push()
        asked = system.begin_round("outside", participants=system.proplets, k_of_n=2)
        assert asked.status == 200, asked
        assert system.completed("outside")["num_updates"] == 2
        shown = system.cli("logs", "coordinator", "--round", "outside", "--data-dir", str(system.data)).stdout
        assert all(json.loads(line)["role"] == "coordinator" for line in shown.splitlines())
        assert "outside" in shown
