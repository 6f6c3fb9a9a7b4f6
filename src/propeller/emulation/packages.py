"""What is downloaded for a gateway and unpacked, never installed: Debian's packages and PyPI's wheels.

Both may be of another processor than this machine's. It must not know what is made of them.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from propeller.errors import EnvironmentError_

KERNEL_PACKAGE: Final = "linux-image-cloud"
"""And the architecture."""
ARCHITECTURES: Final[Mapping[str, str]] = {"x86_64": "amd64", "aarch64": "arm64"}
"""Debian's names of processors."""
_GLIBCS: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
"""What wheels may ask of Debian 12's C library."""


class Debian:
    """Debian's packages for a processor, by the lists of this machine's apt or, for another, by own ones.

    Those are fetched into `directory` when they are needed first. Raises `EnvironmentError_` that names what
    cannot be had.
    """

    def __init__(self, processor: str, directory: Path) -> None:
        self._directory = directory
        self._env = dict(os.environ)
        self._listed = processor == os.uname().machine
        self._architecture = ARCHITECTURES[processor]

    def kernel(self) -> str:
        """The package that has the kernel for virtual machines."""
        package = f"{KERNEL_PACKAGE}-{self._architecture}"
        self._list()
        found = re.search(
            r"Depends: (linux-image-\S+)", self._said(["apt-cache", "depends", package], package)
        )
        return found[1] if found else package

    def unpack(self, packages: Sequence[str], into: Path) -> None:
        """Download and unpack into a directory, which is made."""
        self._list()
        into.mkdir(parents=True, exist_ok=True)
        self._said(["apt-get", "-q", "download", *packages], " ".join(packages), into)
        for path in into.glob("*.deb"):
            self._said(["dpkg", "-x", str(path), str(into)], path.name)
            path.unlink()

    def _list(self) -> None:
        if not self._listed:
            self._env["APT_CONFIG"] = str(self._configured())
            self._said(["apt-get", "-q", "update"], "the lists of Debian's packages")
            self._listed = True

    def _configured(self) -> Path:
        state, cache = self._directory / "apt" / "state", self._directory / "apt" / "cache"
        for made in (state / "lists" / "partial", cache / "archives" / "partial"):
            made.mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        config = self._directory / "apt" / "apt.conf"
        config.write_text(
            f'APT::Architecture "{self._architecture}";\nAPT::Architectures {{ "{self._architecture}"; }};\n'
            f'Dir::State "{state}";\nDir::State::status "{state}/status";\nDir::Cache "{cache}";\n',
            encoding="utf-8",
        )
        return config

    def _said(self, command: list[str], package: str, directory: Path | None = None) -> str:
        if shutil.which(command[0]) is None:
            raise EnvironmentError_(f"missing Debian package: {package}: no {command[0]}", code="no_package")
        done = subprocess.run(  # noqa: S603 - our own words
            command, cwd=directory, env=self._env, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = done.stderr.strip().rpartition("\n")[2]
            raise EnvironmentError_(
                f"missing Debian package: {package} ({' '.join(command)}: {last}; try apt-get update)",
                code="no_package",
            )
        return done.stdout


def unpack_wheels(wanted: Sequence[str], processor: str, into: Path) -> None:
    """Unpack wheels such as `msgspec==0.22.0` as they are for that processor; raises `EnvironmentError_`."""
    platforms = [f"--platform={one}_{processor}" for one in _GLIBCS]
    told = ["--target", str(into), "--no-deps", "--no-compile", "--only-binary=:all:", "--upgrade", "--quiet"]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "pip", "install", *told, "--python-version", version, *platforms, *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise EnvironmentError_(f"wheels for {processor}: {' '.join(wanted)}: {last}", code="no_wheel")
