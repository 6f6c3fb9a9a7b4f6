"""A model of 100 MB through real rounds, whole and packed, with the memory that each process took for it."""

import http.client
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from walk_system import ROOT, family, started

from propeller.fl.tensors import Tensors, from_safetensors, to_safetensors

INPUTS, UNITS = 10_000, 2_500
PERCEPTRON = ROOT / "src" / "propeller" / "roles" / "assets" / "mlp.wasm"
SAFETENSORS = "application/vnd.safetensors"
MIB = 1 << 20


class Memory:
    """The most private memory (RssAnon) that each process of a family held, looked at all the time.

    Mapped files are left out: their pages are the kernel's to take back.
    """

    def __init__(self, root: int) -> None:
        self.peaks: dict[str, int] = {}
        self._root, self._over = root, threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self):
        self._watching.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._watching.join()

    def _watch(self):
        while not self._over.wait(0.02):
            for pid in [self._root, *family(self._root)]:
                self._look(pid)

    def _look(self, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        held = int(fields.get("RssAnon", "0 kB").split()[0]) * 1024
        name = f"{pid} {' '.join(Path(word).name for word in words if word)[:60]}"
        self.peaks[name] = max(self.peaks.get(name, 0), held)


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request with a body of any size."""
    connection = http.client.HTTPConnection("localhost", port, timeout=120)
    try:
        connection.request(method, path, body or None, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status < 300, content[:500]
        return content
    finally:
        connection.close()


@pytest.mark.long
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_model_of_a_hundred_megabytes_goes_through_rounds(tmp_path):
    """Whole, then as int8 differences: 100 MB and 25 MB are sent, and each process holds it once or twice."""
    draw = np.random.default_rng(1)
    model = Tensors(
        {
            "w1": draw.normal(0, 0.01, (UNITS, INPUTS)).astype(np.float32),
            "b1": np.zeros(UNITS, np.float32),
        }
    )
    with started(tmp_path / "up", proplets=1) as system:
        registry, store = system.ports["model-registry"], system.ports["data-store"]
        system.push(PERCEPTRON, "mlp:latest")
        ask(registry, "POST", "/models?name=big", to_safetensors(model), content_type=SAFETENSORS)
        (proplet,) = system.proplets
        rows = [{"x": draw.integers(0, 2, INPUTS).tolist(), "y": label} for label in (3, 7)]
        ask(store, "POST", f"/datasets/{proplet}", json.dumps({"data": rows}).encode())
        for number, form, least, most in ((1, "", 99, 101), (2, "int8-delta", 24, 26)):
            begun_s = time.monotonic()
            with Memory(system.process.pid) as memory:
                status, body = system.begin_round(
                    f"big-{number}",
                    model_ref=f"fl/models/big_v{number - 1}",
                    participants=[proplet],
                    k_of_n=1,
                    timeout_s=240,
                    hyperparams={"lr": 0.0001},
                    task_wasm_image="local-registry:5000/mlp:latest",
                    **({"update_format": form, "rounds": 1} if form else {}),
                )
                assert status in {200, 201}, body
                done = system.completed(f"big-{number}", 240)
            assert done["state"] == "completed", (done, system.get("manager", "/tasks").body)
            (sent,) = system.get("coordinator", f"/rounds/big-{number}").body["updates"]
            assert least * 10**6 < sent["bytes"] < most * 10**6
            print(f"\n{form or 'whole'}: {time.monotonic() - begun_s:.1f} s, {sent['bytes']} bytes")
            for name, held in sorted(memory.peaks.items(), key=lambda item: -item[1]):
                print(f"  {held / MIB:7.1f} MiB  {name}")
                assert held < 2.5 * model.bytes, name
            made = from_safetensors(
                ask(registry, "GET", f"/models/big/versions/{number}", accept=SAFETENSORS), "the model"
            )
            assert not np.array_equal(made["w1"], model["w1"])
            model = made
