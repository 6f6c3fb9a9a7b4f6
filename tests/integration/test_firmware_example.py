import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from propeller.ports import GuestDone, GuestJob
from propeller.runtime.pool import WorkerPool

EXAMPLE = Path(__file__).parents[2] / "examples" / "fl-embedded"


async def test_the_embedded_example_makes_an_update_on_the_ordinary_runtime(tmp_path):
    """Two steps of least squares from zero: the module without WASI puts the update that arithmetic says."""
    make = ["make", "-C", EXAMPLE, "build", f"OUT={tmp_path}", f"PYTHON={sys.executable}"]
    await asyncio.to_thread(subprocess.run, make, check=True, capture_output=True)
    module = (tmp_path / "fl-client.wasm").read_bytes()
    texts = {
        "proplet_id": "p1",
        "model_data": '{"w":[0,0],"b":0}',
        "dataset_data": '{"data":[{"x":[1,0.5],"y":1},{"x":[0,2],"y":0}],"size":2}',
    }
    env = {"ROUND_ID": "round-1", "HYPERPARAMS": '{"lr":0.5}'}
    digest = hashlib.sha256(module).hexdigest()
    job = GuestJob(module=module, digest=digest, name="fl-client", env=env, host_strings=texts)
    pool = WorkerPool(tmp_path / "compiled", size=1)
    try:
        ended = await pool.run(job)
    finally:
        await pool.close()
    assert isinstance(ended, GuestDone), ended
    update = json.loads(ended.result)
    assert (update["round_id"], update["proplet_id"], update["num_samples"]) == ("round-1", "p1", 2)
    # Row 1: error -1, w = [0.5, 0.25], b = 0.5. Row 2: error 1, w = [0.5, -0.75], b = 0.
    assert update["update"] == {"w": [0.5, -0.75], "b": 0.0}
