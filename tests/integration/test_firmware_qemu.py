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
from firmware_images import firmware_image

from propeller.emulation import boards
from propeller.emulation.boards import Board, Image
from propeller.fl.launch import trainer_seed

ROOT = Path(__file__).parents[2]
PROPELLER = Path(sys.executable).with_name("propeller")
TRAINER = ROOT / "src" / "propeller" / "roles" / "assets" / "logreg.wasm"
FINAL = {3, 4, 5, 6}

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("firmware_qemu")]


@pytest.fixture(scope="module", params=["qemu_x86", "mps2_an385"])
def board(request) -> Board:
    """Every board that is tried; each test is run on each."""
    return boards.board(request.param)


@pytest.fixture(scope="module")
def image(board, tmp_path_factory) -> Image:
    """Its firmware, on a machine that can emulate it."""
    made = firmware_image(board.name, tmp_path_factory.getbasetemp())
    if shutil.which(board.program) is None:
        pytest.skip(f"missing Debian package: {board.package}")
    return made


class Device:
    """One emulated board and its console."""

    def __init__(self, board: Board, image: Image) -> None:
        command = list(
            boards.command(
                board, image, memory=board.memory_mb, mac="52:54:00:00:00:01", backend="user", console=Path()
            )
        )
        command[command.index("-serial") + 1] = "stdio"
        command.remove("-no-reboot")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
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

    def status(self) -> dict[str, Any]:
        """What it says of itself."""
        since = len(self.console)
        self.say("status", r"\{.*\}\r?\n")
        return json.loads(re.search(r"\{.*\}", self.console[since:])[0])

    def boots(self) -> int:
        """How often it has started."""
        return self.console.count("ready after")

    def reset(self) -> int:
        """Start it again; gives where what it says then begins."""
        since = len(self.console)
        self.say("reset", "ready after")
        return since

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

    def __init__(self, config: dict[str, Any], device: Device, data: Path) -> None:
        self.me = next(value for name, value in config.items() if name.startswith("proplet"))
        self.urls, self.device, self.data = config["services"], device, data
        self.id = self.me["client_id"]

    def run(self, name: str, module: bytes, **more: Any) -> dict[str, Any]:
        """A task on the device, to its end."""
        return self.ended(self.begin(name, module, **more))

    def begin(self, name: str, module: bytes = b"", **more: Any) -> str:
        """The id of a task that was started on the device."""
        body = {"name": name, "proplet_id": self.id, "file": base64.b64encode(module).decode(), **more}
        status, task = ask("POST", f"{self.urls['manager_url']}/tasks", body)
        assert status == 201, task
        ask("POST", f"{self.urls['manager_url']}/tasks/{task['id']}/start")
        return task["id"]

    def idle(self) -> dict[str, Any]:
        """The device's status once it holds no attempt, and nothing that came over the network."""
        deadline, last = time.monotonic() + 40, {}
        while time.monotonic() < deadline:
            now = self.device.status()
            if now["held"] == 0 and now["heap_free"] == last.get("heap_free"):
                return now
            last = now
            time.sleep(0.3)
        raise AssertionError(f"the device is still busy: {last}")

    def ended(self, task_id: str) -> dict[str, Any]:
        """The task once it has ended."""
        deadline = time.monotonic() + 40
        while True:
            _, task = ask("GET", f"{self.urls['manager_url']}/tasks/{task_id}")
            if task["state"] in FINAL:
                return task
            assert time.monotonic() < deadline, f"{task}\n{self.device.console[-3000:]}"
            time.sleep(0.03)


@pytest.fixture(scope="module")
def world(board, image, tmp_path_factory) -> Iterator[World]:
    """`propeller up` without proplets of its own, and a device that it has welcomed."""
    root = tmp_path_factory.mktemp("system")
    data, keys = root / "data", root / "device.toml"
    up = subprocess.Popen(
        [PROPELLER, "up", "--proplets", "0", "--free-ports", "--heartbeat", "2s", "--data-dir", data],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    device = Device(board, image)
    try:
        for line in up.stdout:
            if line.startswith("stop"):
                break
        added = [PROPELLER, "provision", "add-proplets", "1", "--data-dir", data, "--file-name", keys]
        subprocess.run(added, check=True, capture_output=True)
        config = tomllib.loads(keys.read_text())
        world = World(config, device, data)
        join(world)
        device.wait("welcomed by the manager")
        yield world
    finally:
        device.close()
        up.terminate()
        up.wait(20)
        up.stdout.close()


def join(world: World, **more: str) -> None:
    """Tell the device who and where it is, and `more`, and start it."""
    me, device = world.me, world.device
    port = world.urls["mqtt_address"].rsplit(":", 1)[1]
    device.wait("ready after")
    told = {"id": world.id, "key": me["client_key"], "domain": me["domain_id"], "channel": me["channel_id"]}
    for name, value in (told | {"broker": f"10.0.2.2:{port}"} | more).items():
        device.say(f"set {name} {value}")
    device.say("run dhcp", "running as")
    device.wait("connected to the broker")


ADD = wasmtime.wat2wasm(
    '(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))'
)


def test_a_task_runs_on_the_board(world):
    """Inputs go in and the result comes back through the real manager."""
    task = world.run("add", ADD, inputs=["2", "40"])
    assert (task["state"], task["results"]) == (3, "42")


def test_an_image_comes_in_chunks_where_its_registry_is_no_address(world, tmp_path):
    """A board resolves no names: it asks on the broker, and the manager sends what its registry has."""
    (tmp_path / "add.wasm").write_bytes(ADD)
    image = f"{world.urls['registry']}/chunks:latest"
    subprocess.run(
        [PROPELLER, "image", "push", tmp_path / "add.wasm", image], check=True, capture_output=True
    )
    # The manager reads it as loopback; to the board it is a name as any other.
    named = f"LOCALHOST:{image.rpartition(':')[0].rpartition(':')[2]}:latest"
    task = world.ended(world.begin("add", image_url=named, inputs=["2", "40"]))
    assert (task["state"], task.get("results")) == (3, "42"), task


def wat(body: str) -> bytes:
    """A module whose `_start` does that."""
    return wasmtime.wat2wasm(f"(module {body})")


WASI = "wasi_snapshot_preview1"
WRITE = f'(import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
EXIT = f'(import "{WASI}" "proc_exit" (func $exit (param i32)))'
GET = '(import "env" "get_model_data" (func $get (param i32 i32) (result i32)))'
HOSTILE = {
    "trap": (wat('(func (export "_start") unreachable)'), "trap"),
    "deep": (wat('(func $f (export "_start") call $f)'), "stack"),
    "alien": (wat('(import "env" "fork" (func)) (func (export "_start"))'), "denied"),
    "none": (wat(""), "invalid_module"),
    "cut": (TRAINER.read_bytes()[:20_000], "invalid_module"),
    "empty": (b"\0asm", "invalid_module"),
    "noise": (b"\0asm\1\0\0\0" + bytes(range(256)) * 20, "invalid_module"),
    "exit": (wat(f'{EXIT} (func (export "_start") i32.const 7 call $exit)'), "exit"),
    "huge": (wat('(memory 65536) (func (export "_start"))'), "memory"),
    "grows": (
        wat("""(memory 1) (func (export "_start")
            (loop (br_if 0 (i32.ge_s (memory.grow (i32.const 8)) (i32.const 0)))) unreachable)"""),
        "memory",
    ),
    "floods": (
        wat(f"""{WRITE} (memory (export "memory") 2) (func (export "_start")
            (i32.store (i32.const 4) (i32.const 65536))
            (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0)))"""),
        "output|memory",  # the heap, if the task's own limit is larger than it
    ),
    "pointers": (
        wat(f"""{GET} (memory (export "memory") 1) (func (export "_start")
            (br_if 0 (call $get (i32.const -4) (i32.const 65533))) unreachable)"""),
        "trap",
    ),
    "table": (wat('(table 100000000 funcref) (func (export "_start"))'), "memory|invalid_module"),
}
"""Guests that mean harm, and how each of them has to fail. None of them takes long."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_guest_is_a_typed_failure_and_the_board_lives_on(world, name):
    """W13: whatever a guest does, it fails by name; the board neither reboots nor loses its connection."""
    module, failure = HOSTILE[name]
    boots, connects = world.device.boots(), world.device.status()["connects"]
    task = world.run(name, module)
    assert task["state"] == 4
    assert re.fullmatch(failure, task["failure"]), task
    assert (world.device.boots(), world.device.status()["connects"]) == (boots, connects)


def test_a_loop_ends_at_its_limit(world):
    """W2: wall time ends what never ends by itself."""
    loop = wat('(func (export "_start") (loop br 0))')
    assert world.run("loop", loop, limits={"wall_s": 2})["failure"] in {"timeout", "cpu"}


@pytest.mark.parametrize(
    "loads", [26, pytest.param(500, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
def test_after_hundreds_of_bad_guests_the_board_is_as_it_was(world, loads):
    """W13: nothing of a guest is left: the heap is back where it was, and no guest made the board reboot."""
    guests = [*HOSTILE.items()]

    def run(count: int) -> None:
        for first in range(0, count, 4):
            chosen = [guests[number % len(guests)] for number in range(first, min(first + 4, count))]
            for (_, failure), task_id in [(guest[1], world.begin(guest[0], guest[1][0])) for guest in chosen]:
                assert re.fullmatch(failure, world.ended(task_id)["failure"])

    run(len(guests))
    before, boots = world.idle(), world.device.boots()
    run(loads)
    after = world.idle()
    assert (after["heap_free"], after["connects"]) == (before["heap_free"], before["connects"])
    assert world.device.boots() == boots


def test_a_stopped_task_stops(world):
    """A guest in an endless loop ends when the manager says so."""
    task_id = world.begin("forever", wat('(func (export "_start") (loop br 0))'))
    manager, deadline = world.urls["manager_url"], time.monotonic() + 40
    while (ask("GET", f"{manager}/tasks/{task_id}")[1].get("attempts") or [{}])[-1].get("state") != "running":
        assert time.monotonic() < deadline, world.device.console[-3000:]
        time.sleep(0.05)
    ask("POST", f"{manager}/tasks/{task_id}/stop")
    assert world.ended(task_id)["state"] == 6
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
        assert time.monotonic() < deadline, (
            world.device.status(),
            ask("GET", f"{world.urls['coordinator_url']}/rounds/r1"),
            ask("GET", f"{world.urls['manager_url']}/tasks"),
            world.device.console[-3000:],
        )
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


def test_kept_settings_survive_a_reset_and_start_the_proplet(board, world):
    """After `save` a board that was reset is back by itself; after `forget` it waits to be told."""
    device = world.device
    if board is boards.ZEPHYR_X86:
        device.say("save", "save: this board has no storage")
        return
    device.say("save")
    since = device.reset()
    device.wait("welcomed by the manager", since)
    assert world.run("add", ADD, inputs=["1", "2"])["results"] == "3"
    assert world.me["client_key"] not in device.console[since:]
    device.say("forget")
    since = device.reset()
    device.say("run", "run: id is not set")
    join(world)
    device.wait("welcomed by the manager", since)


def test_a_board_on_shared_topics_works_for_managers_of_the_original_kind(world, tmp_path):
    """It speaks protocol 1, as the original's devices do, and what it is given it does."""
    keys = tmp_path / "old.toml"
    added = [PROPELLER, "provision", "add-proplets", "1", "--legacy", "--data-dir", world.data]
    subprocess.run([*added, "--file-name", keys], check=True, capture_output=True)
    old = World(tomllib.loads(keys.read_text()), world.device, world.data)
    world.device.reset()
    # Nobody tells it there how often; the manager of these tests expects a sign of life every two seconds.
    join(old, lane="shared", heartbeat="1")
    deadline = time.monotonic() + 60
    while (answer := ask("GET", f"{old.urls['manager_url']}/proplets/{old.id}"))[0] != 200 or (
        shown := answer[1]
    )["alive"] is not True:
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)
    assert shown["protocol"] == 1
    task = old.run("add", ADD, inputs=["2", "40"])
    assert (task["state"], task["results"]) == (3, "42")
