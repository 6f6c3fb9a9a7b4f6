"""A network namespace behind a link that loses packets, made for one test and removed after it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

HOST = "198.18.77.1"
"""This side's address; of the range for measurements (RFC 2544), which no network uses."""
_INSIDE = "198.18.77.2"


@contextmanager
def lossy_namespace(share: float) -> Iterator[tuple[str, ...]]:
    """The command prefix that runs a program inside; of packets either way that share is dropped.

    Skips where the machine does not allow it.
    """
    name = f"propeller-{os.getpid()}"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for program, package in (("ip", "iproute2"), ("iptables", "iptables")):
        if shutil.which(program, path=path) is None:
            pytest.skip(f"missing Debian package: {package}")
    inside = f"ip netns exec {name}"
    drop = f"-m statistic --mode random --probability {share} -j DROP"
    steps = [
        f"ip netns add {name}",
        f"ip link add pv{os.getpid()} type veth peer name pv0 netns {name}",
        f"ip address add {HOST}/30 dev pv{os.getpid()}",
        f"ip link set pv{os.getpid()} up",
        f"ip -n {name} address add {_INSIDE}/30 dev pv0",
        f"ip -n {name} link set pv0 up",
        f"ip -n {name} link set lo up",
        f"{inside} iptables -A INPUT -i pv0 {drop}",
        f"{inside} iptables -A OUTPUT -o pv0 {drop}",
    ]
    env = {**os.environ, "PATH": path}
    try:
        for step in steps:
            done = subprocess.run(step.split(), capture_output=True, text=True, env=env, check=False)
            if done.returncode:
                pytest.skip(
                    f"missing capability: network namespaces with packet loss ({done.stderr.strip()})"
                )
        yield tuple(inside.split())
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, env=env, check=False)
