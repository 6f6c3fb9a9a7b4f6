"""The files of a gateway of another processor than this machine's.

Debian's Python for it, wheels from PyPI for packages that are compiled, and this machine's own files for all
that is Python alone. It must not know who boots them.
"""

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from propeller.emulation.packages import Debian, unpack_wheels

PYTHON: Final = f"python3.{sys.version_info.minor}"
INTERPRETER: Final = f"/usr/bin/{PYTHON}"
_PACKAGES: Final = (
    f"{PYTHON}-minimal", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libc6", "libgcc-s1", "zlib1g",
    "libexpat1", "libssl3", "libffi8", "libuuid1", "liblzma5", "libbz2-1.0", "libsqlite3-0",
)  # fmt: skip
_LEFT_OUT: Final = {"gconv", "engines-3", "ossl-modules", "modules"}
"""Of Debian's libraries."""


def files(
    ours: Mapping[str, Path], directory: Path, debian: Debian, processor: str, stdlib_left_out: set[str]
) -> dict[str, Path]:
    """What the gateway has, by name, from what this machine's has; downloads are kept in `directory`."""
    packages = {name: path for name, path in ours.items() if name.startswith("site/")}
    compiled = {_top(name) for name, path in packages.items() if path.suffix == ".so"}
    wheels = _wheels(compiled)
    root, site, known = directory / "root", directory / "site", directory / "fetched"
    wanted = "\n".join((*_PACKAGES, *wheels))
    if not (known.exists() and known.read_text(encoding="utf-8") == wanted):
        debian.unpack(_PACKAGES, root)
        unpack_wheels(wheels, processor, site)
        known.write_text(wanted, encoding="utf-8")
    taken = {name: path for name, path in packages.items() if _top(name) not in compiled}
    for top in compiled:
        taken |= {f"site/{path.relative_to(site)}": path for path in _below(site / top, {"tests"})}
    taken |= {f"site/{path.relative_to(site)}": path for path in site.glob("*.dist-info/METADATA")}
    taken[INTERPRETER.lstrip("/")] = root / INTERPRETER.lstrip("/")
    parts = {f"usr/lib/{PYTHON}": stdlib_left_out, "lib": _LEFT_OUT, "usr/lib": {*_LEFT_OUT, PYTHON}}
    for part, left_out in parts.items():
        taken |= {str(path.relative_to(root)): path for path in _below(root / part, left_out)}
    return taken


def _top(name: str) -> str:
    return Path(name).parts[1]


def _wheels(packages: AbstractSet[str]) -> list[str]:
    """The wheels that this machine's packages came in, with their versions."""
    came_in = importlib.metadata.packages_distributions()
    names = sorted(came_in[package][0] for package in packages)
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]


def _below(directory: Path, left_out: set[str]) -> Iterator[Path]:
    """The files below; links that lead out of what was unpacked are none."""
    for path in sorted(directory.iterdir()):
        away = path.is_symlink() and path.readlink().is_absolute()
        if path.name in left_out or away:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _below(path, left_out)
        elif path.is_file():
            yield path
