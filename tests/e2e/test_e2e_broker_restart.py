"""R3: the broker is killed in the middle of a round and started again, with and without what it kept."""

import subprocess
from pathlib import Path

import pytest
from outside_broker import Broker
from test_e2e_crash import HYPERPARAMS, MANY
from walk_system import PROPELLER, System, free_ports, need, started, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
RETURN_S = 5.0
"""What the catalogue allows for all clients to be back; a slow machine gets four times as long."""


def _heard(system: System) -> dict[str, str]:
    return {
        one["id"]: one.get("last_alive_at", "") for one in system.get("manager", "/proplets").body["proplets"]
    }


@pytest.mark.parametrize(
    ("kind", "forgets"),
    [
        ("embedded", False),
        ("mosquitto", True),
        pytest.param("embedded", True, marks=pytest.mark.long),
        pytest.param("mosquitto", False, marks=pytest.mark.long),
    ],
)
def test_a_round_outlives_its_broker(tmp_path: Path, kind: str, *, forgets: bool):
    """Killed with one update in: every client is back in seconds, and the round completes by itself (R3)."""
    if kind == "mosquitto":
        need("mosquitto", "mosquitto")
    config, ports = tmp_path / "config.toml", free_ports()
    made = ["provision", "-f", str(config), "--data-dir", str(tmp_path / "b"), "--proplets", "3"]
    subprocess.run([str(PROPELLER), *made], check=True, capture_output=True, timeout=60)
    credentials = {path.name for path in (tmp_path / "b" / "broker").iterdir()}
    broker = Broker(tmp_path / "b", ports["mqtt"], kind)
    flags = ("--broker", f"tcp://127.0.0.1:{ports['mqtt']}", "--config", str(config), "--heartbeat", "1s")
    try:
        with started(tmp_path / "d", *flags, ports=ports) as system:
            system.outside = ("mqtt",)
            _in_mid_round(system)
            broker.kill()
            if forgets:
                broker.forget(credentials)
            before = _heard(system)
            broker.start()
            until(
                "every proplet is heard again",
                lambda: all(at > before[name] for name, at in _heard(system).items()),
                4 * RETURN_S,
            )
            status = system.completed("r3", 60)
            assert (status["state"], status["num_updates"], status["model_version"]) == ("completed", 3, 1)
            tasks = [one["id"] for one in system.get("manager", "/tasks").body["tasks"]]
            assert [system.ended(one)["state"] for one in tasks] == [3, 3, 3]
    finally:
        broker.kill()


def _in_mid_round(system: System) -> None:
    """A round of three with the update of one, which has a single row; the others are at work."""
    system.push()
    image = f"localhost:{system.ports['registry']}/fl-client-wasm:latest"
    for number, one in enumerate(system.proplets):
        rows = [{"x": [k % 10 / 10, 0.5, number / 3], "y": k % 2} for k in range(MANY if number else 1)]
        assert system.post("data-store", f"/datasets/{one}", {"data": rows}).status == 201
    asked = system.begin_round("r3", hyperparams=HYPERPARAMS, task_wasm_image=image)
    assert asked.status == 200, asked.body
    until("one update is in", lambda: system.status("r3")["num_updates"] == 1, 40)
