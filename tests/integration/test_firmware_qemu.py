"""The whole firmware on an emulated board against a real system, where a Zephyr tree and WAMR are at hand."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from propeller.fl.launch import trainer_seed

ROOT = Path(__file__).parents[2]
PROPELLER = Path(sys.executable).with_name("propeller")
TRAINER = ROOT / "src" / "propeller" / "roles" / "assets" / "logreg.wasm"
FINAL = {3, 4, 5, 6}

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("firmware_qemu")]


def need(program: str, package: str) -> None:
    """Skip without a Debian program."""
    if shutil.which(program) is None:
        pytest.skip(f"missing Debian package: {package}")


@pytest.fixture(scope="module")
def firmware(tmp_path_factory) -> Path:
    """The firmware for qemu_x86, built once; `PROPELLER_FIRMWARE_BUILD` names a directory to keep."""
    missing = [name for name in ("ZEPHYR_BASE", "WAMR_ROOT") if not os.environ.get(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not set: the firmware is built with Zephyr and WAMR trees")
    for program, package in {
        "cmake": "cmake", "ninja": "ninja-build", "dtc": "device-tree-compiler",
        "qemu-system-i386": "qemu-system-x86",
    }.items():  # fmt: skip
        need(program, package)
    kept = os.environ.get("PROPELLER_FIRMWARE_BUILD")
    directory = Path(kept) if kept else tmp_path_factory.mktemp("zephyr")
    env = os.environ | {"ZEPHYR_TOOLCHAIN_VARIANT": "cross-compile"}
    env["CROSS_COMPILE"] = "/usr/bin/x86_64-linux-gnu-"
    configure = ["cmake", "-GNinja", "-B", str(directory), "-S", str(ROOT / "firmware"), "-DBOARD=qemu_x86"]
    for command in ([*configure, "-DSYSROOT_DIR=/", "-DZEPHYR_MODULES="], ["ninja", "-C", str(directory)]):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=500)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return directory / "zephyr" / "zephyr.elf"


class Device:
    """One emulated board and its console."""

    def __init__(self, image: Path) -> None:
        card = ["-netdev", "user,id=n0", "-device", "e1000,netdev=n0,addr=0x2,romfile="]
        machine = ["-m", "15", "-cpu", "qemu32,+nx,+pae", "-machine", "q35", "-no-reboot"]
        quiet = ["-display", "none", "-monitor", "none", "-serial", "stdio"]
        self.process = subprocess.Popen(
            ["qemu-system-i386", *machine, *quiet, *card, "-kernel", str(image)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.console = ""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while piece := os.read(self.process.stdout.fileno(), 4096):
            with self._more:
                self.console += piece.decode(errors="replace")
                self._more.notify_all()

    def wait(self, pattern: str, since: int = 0, timeout_s: float = 30.0) -> None:
        """Until the console shows the pattern."""
        deadline = time.monotonic() + timeout_s
        with self._more:
            while not re.search(pattern, self.console[since:]):
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"{pattern!r} not on the console:\n{self.console[-3000:]}"
                self._more.wait(left_s)

    def say(self, command: str, answer: str = "ok") -> None:
        """One command, and its answer."""
        since = len(self.console)
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        self.wait(answer, since)

    def close(self) -> None:
        """Switch it off."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdin.close()
        self.process.stdout.close()


def ask(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """One request with JSON both ways."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - our own URLs
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - our own URLs
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class World:
    """A running system with one device in it."""

    def __init__(self, config: dict[str, Any], device: Device) -> None:
        self.me, self.urls, self.device = config["proplet1"], config["services"], device
        self.id = self.me["client_id"]

    def run(self, name: str, module: bytes, **more: Any) -> dict[str, Any]:
        """A task on the device, to its end."""
        body = {"name": name, "proplet_id": self.id, "file": base64.b64encode(module).decode(), **more}
        status, task = ask("POST", f"{self.urls['manager_url']}/tasks", body)
        assert status == 201, task
        ask("POST", f"{self.urls['manager_url']}/tasks/{task['id']}/start")
        return self.ended(task["id"])

    def ended(self, task_id: str) -> dict[str, Any]:
        """The task once it has ended."""
        deadline = time.monotonic() + 40
        while True:
            _, task = ask("GET", f"{self.urls['manager_url']}/tasks/{task_id}")
            if task["state"] in FINAL:
                return task
            assert time.monotonic() < deadline, f"{task}\n{self.device.console[-3000:]}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def world(firmware, tmp_path_factory) -> Iterator[World]:
    """`propeller up` without proplets of its own, and a device that it has welcomed."""
    root = tmp_path_factory.mktemp("system")
    data, keys = root / "data", root / "device.toml"
    up = subprocess.Popen(
        [PROPELLER, "up", "--proplets", "0", "--free-ports", "--heartbeat", "2s", "--data-dir", data],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    device = Device(firmware)
    try:
        for line in up.stdout:
            if line.startswith("stop"):
                break
        added = [PROPELLER, "provision", "add-proplets", "1", "--data-dir", data, "--file-name", keys]
        subprocess.run(added, check=True, capture_output=True)
        config = tomllib.loads(keys.read_text())
        world = World(config, device)
        join(world)
        yield world
    finally:
        device.close()
        up.terminate()
        up.wait(20)
        up.stdout.close()


def join(world: World) -> None:
    """Tell the device who and where it is, and start it."""
    me, device = world.me, world.device
    port = world.urls["mqtt_address"].rsplit(":", 1)[1]
    device.wait("ready after")
    told = {"id": world.id, "key": me["client_key"], "domain": me["domain_id"], "channel": me["channel_id"]}
    for name, value in (told | {"broker": f"10.0.2.2:{port}"}).items():
        device.say(f"set {name} {value}")
    device.say("run dhcp", "running as")
    device.wait("welcomed by the manager")


def test_a_task_runs_on_the_board(world):
    """Inputs go in and the result comes back through the real manager."""
    add = '(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))'
    task = world.run("add", wasmtime.wat2wasm(add), inputs=["2", "40"])
    assert (task["state"], task["results"]) == (3, "42")


@pytest.mark.parametrize(
    ("name", "module", "failure"),
    [
        ("trap", '(module (func (export "_start") unreachable))', "trap"),
        ("loop", '(module (func (export "_start") (loop br 0)))', "timeout|cpu"),
        ("deep", '(module (func $f (export "_start") call $f))', "stack"),
        ("alien", '(module (import "env" "fork" (func)) (func (export "_start")))', "denied"),
        ("none", "(module)", "invalid_module"),
    ],
)
def test_a_bad_guest_is_a_typed_failure_and_the_board_lives_on(world, name, module, failure):
    """Whatever a guest does, it fails by name, and the device neither reboots nor loses its connection."""
    task = world.run(name, wasmtime.wat2wasm(module), limits={"wall_s": 2})
    assert task["state"] == 4
    assert re.fullmatch(failure, task["failure"]), task
    assert world.device.console.count("Booting Zephyr") == 1


def test_a_corrupt_module_is_refused(world):
    """A module cut off in the middle never runs."""
    assert world.run("cut", TRAINER.read_bytes()[:20_000])["failure"] == "invalid_module"


def test_a_stopped_task_stops(world):
    """A guest in an endless loop ends when the manager says so."""
    loop = wasmtime.wat2wasm('(module (func (export "_start") (loop br 0)))')
    manager = world.urls["manager_url"]
    body = {"name": "forever", "proplet_id": world.id, "file": base64.b64encode(loop).decode()}
    _, task = ask("POST", f"{manager}/tasks", body)
    ask("POST", f"{manager}/tasks/{task['id']}/start")
    time.sleep(3)
    ask("POST", f"{manager}/tasks/{task['id']}/stop")
    assert world.ended(task["id"])["state"] in {4, 6}
    test_a_task_runs_on_the_board(world)


def _by_wasmtime(env: dict[str, str], directory: Path) -> dict[str, Any]:
    """What the trainer prints under wasmtime."""
    engine = wasmtime.Engine()
    store, wasi, linker = wasmtime.Store(engine), wasmtime.WasiConfig(), wasmtime.Linker(engine)
    wasi.env = list(env.items())
    wasi.stdout_file = str(directory / "out.json")
    store.set_wasi(wasi)
    linker.define_wasi()
    linker.instantiate(store, wasmtime.Module(engine, TRAINER.read_bytes())).exports(store)["_start"](store)
    return json.loads((directory / "out.json").read_text())


def test_a_round_on_the_board_gives_wasmtimes_update_to_the_last_bit(world, tmp_path):
    """The same trainer, the same bytes: what the board's interpreter computes is what wasmtime computes.

    128 samples: a power of two, so that the mean over one participant changes no bit.
    """
    rows = [{"x": [((i * 37 + j * 11) % 97) / 31 - 1.5 for j in range(6)], "y": i % 2} for i in range(128)]
    store, registry = world.urls["data_store_url"], world.urls["model_registry_url"]
    assert ask("POST", f"{store}/datasets/{world.id}", {"data": rows, "size": 128})[0] == 201
    assert ask("POST", f"{registry}/models", {"name": "board", "model": {"w": [0.0] * 6, "b": 0.0}})[0] == 201
    image = f"{world.urls['registry']}/fl:latest"
    subprocess.run([PROPELLER, "image", "push", TRAINER, image], check=True, capture_output=True)
    hyperparams = {"epochs": 3, "lr": 0.05, "batch_size": 16}
    body = {
        "experiment_id": "e1", "round_id": "r1", "model_ref": "fl/models/board_v0",
        "participants": [world.id],
        "hyperparams": hyperparams, "k_of_n": 1, "timeout_s": 60, "task_wasm_image": image,
    }  # fmt: skip
    assert ask("POST", f"{world.urls['manager_url']}/fl/experiments", body)[0] == 200
    deadline = time.monotonic() + 60
    while ask("GET", f"{registry}/models/board/versions/1")[0] != 200:
        assert time.monotonic() < deadline, world.device.console[-3000:]
        time.sleep(0.2)
    made = ask("GET", f"{registry}/models/board/versions/1")[1]
    with urllib.request.urlopen(f"{store}/datasets/{world.id}") as answer:  # noqa: S310 - our own URL
        data = answer.read().decode()
    expected = _by_wasmtime(
        {
            "ROUND_ID": "r1", "MODEL_URI": "fl/models/board_v0", "HYPERPARAMS": json.dumps(hyperparams),
            "PROPLET_ID": world.id, "SEED": str(trainer_seed(0, "r1", world.id)), "DATASET_DATA": data,
            "MODEL_DATA": json.dumps({"w": [0.0] * 6, "b": 0.0}),
        },
        tmp_path,
    )["update"]  # fmt: skip
    assert (made["w"], made["b"]) == (expected["w"], expected["b"])
