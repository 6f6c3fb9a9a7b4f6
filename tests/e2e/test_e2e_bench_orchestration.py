"""The orchestration benchmark in small: every part runs on real processes and ends with its figures.

Nothing is said about how good they are: that is for a quiet machine.
"""

import json
import subprocess
import sys

import pytest
from walk_system import ROOT

pytestmark = pytest.mark.e2e

FIGURES = {
    "lifecycles": {"tasks_per_s", "job_tasks_per_s"},
    "worker": {"worker_task_cpu_ms"},
    "dispatch": {"dispatch_ms_p50", "dispatch_ms_p99", "burst_ms_p99", "burst_loop_lag_ms"},
    "invoke": {"invoke_ms_p50", "invoke_ms_p99"},
    "fleet": {"fleet_proplets", "fleet_cpu_cores", "fleet_mb"},
    "restart": {"restart_s", "stored_tasks"},
}


@pytest.mark.parametrize("part", FIGURES)
def test_a_part_of_the_benchmark(part):
    """It prints a table, and its figures as numbers in the JSON object of the last line."""
    command = [
        sys.executable,
        "bench/orchestration/run.py",
        "--quick",
        "--parts",
        part,
        "--brokers",
        "embedded",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert all(figures[name] >= 0 for name in FIGURES[part]), figures
    assert {"durability", "load_before", "load_after"} <= figures.keys()
    assert "[load " in done.stdout
