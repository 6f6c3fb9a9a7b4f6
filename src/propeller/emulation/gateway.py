"""What a gateway boots: Debian's kernel, and an initial file system with this very Python and our proplet.

Nothing is installed: the kernel's package is downloaded and unpacked, and the file system is packed from the
interpreter that runs this, the packages that the proplet imports, and the shared libraries that they load;
for another processor than this machine's, `foreign` finds their like. It must not know who boots it.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import propeller
from propeller.emulation import foreign, guest_init
from propeller.emulation.boards import Board, Image
from propeller.emulation.initramfs import pack
from propeller.emulation.packages import Debian
from propeller.errors import EnvironmentError_

_STARTS: Final = "propeller.roles.device", "propeller.proplet.app", "propeller.runtime.worker"
"""What is imported to see which packages a proplet needs."""
_STDLIB_LEFT_OUT: Final = {
    "__pycache__", "config", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "test", "tests", "tkinter", "turtledemo", "unittest", "venv", "wsgiref",
}  # fmt: skip
_LEFT_OUT: Final = {"rich", "pygments"}
"""Packages that are imported where they are there, and missed by nobody on a device: a colourful log."""
_SITE: Final = "site"
_NOT_RUN: Final = {".a", ".pyi", ".h", ".pyx", ".c"}
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")
_MAGIC = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
"""The head of a compiled module whose source nobody looks for (PEP 552, unchecked)."""


def build(board: Board, cache: Path) -> Image:
    """The image for a board, made in a directory of `cache` unless what is there is still the same.

    Raises `EnvironmentError_` where the kernel's package, another that it needs or a program cannot be had.
    """
    own = board.processor == os.uname().machine
    directory = cache / ("gateway" if own else f"gateway-{board.processor}")
    directory.mkdir(parents=True, exist_ok=True)
    debian = Debian(board.processor, directory)
    kernel, modules = _kernel(directory / "kernel", debian)
    files = own_files()
    if not own:
        files = foreign.files(files, directory, debian, board.processor, _STDLIB_LEFT_OUT)
    key = _digest(files, kernel)
    initrd, known = directory / "initrd", directory / "initrd.key"
    if not (initrd.exists() and known.exists() and known.read_text(encoding="ascii") == key):
        interpreter = os.path.realpath(sys.executable) if own else foreign.INTERPRETER
        files |= _libraries(files.values()) if own else {}
        pack(_contents(interpreter, files, modules), initrd)
        known.write_text(key, encoding="ascii")
    return Image(kernel=kernel, initrd=initrd)


# --- the kernel ------------------------------------------------------------------------------------------


def _kernel(directory: Path, debian: Debian) -> tuple[Path, dict[str, Path]]:
    """Debian's kernel and the modules that `guest_init` wants, by name."""
    if not list(directory.glob("boot/vmlinuz-*")):
        shutil.rmtree(directory, ignore_errors=True)
        debian.unpack([debian.kernel()], directory)
    kernel = next(iter(directory.glob("boot/vmlinuz-*")))
    found = {path.name.partition(".")[0]: path for path in directory.rglob("*.ko*")}
    if missing := [name for name in guest_init.MODULES if name not in found]:
        raise EnvironmentError_(
            f"{kernel.name} comes without the modules {', '.join(missing)}", code="no_module"
        )
    return kernel, {name: found[name] for name in guest_init.MODULES}


# --- what goes in ----------------------------------------------------------------------------------------


def own_files() -> dict[str, Path]:
    """Every file of this machine that a device like it has too, by name, but for shared libraries."""
    loaded = _loaded()
    stdlib, site = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    top = {path.relative_to(site).parts[0] for path in loaded if path.is_relative_to(site)} - _LEFT_OUT
    taken = [Path(os.path.realpath(sys.executable)), *_below(stdlib, {*_STDLIB_LEFT_OUT, "lib-dynload"})]
    for name in top:
        taken += _below(site / name, {"__pycache__", "tests"}) if (site / name).is_dir() else [site / name]
    taken += [path for path in loaded if path.parent.name == "lib-dynload"]
    # What a package says of itself is read at run time: its version is shown by the manager.
    taken += [path for path in site.glob("*.dist-info/METADATA") if path.parent.name.split("-")[0] in top]
    taken += _below(Path(propeller.__file__).parent, {"__pycache__"})
    return {_there(path): path for path in sorted(set(taken)) if path.suffix not in _NOT_RUN}


def _loaded() -> list[Path]:
    """The files of all modules that a proplet has imported when it is ready."""
    script = (
        f"import sys, json, {', '.join(_STARTS)}\n"
        "print(json.dumps([m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    return [Path(name) for name in json.loads(done.stdout)]


def _below(directory: Path, left_out: set[str]) -> Iterator[Path]:
    for root, names, files in os.walk(directory):
        names[:] = [name for name in names if name not in left_out and not name.startswith("config-")]
        yield from (Path(root) / name for name in files)


def _libraries(files: Iterable[Path]) -> dict[str, Path]:
    """The shared libraries that programs and modules among `files` load, and the loader itself."""
    binaries = [os.path.realpath(sys.executable)]
    binaries += [str(path) for path in files if path.suffix == ".so" or ".so." in path.name]
    done = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return {_there(Path(found)): Path(found) for found in _LIBRARY.findall(done.stdout)}


def _digest(files: Mapping[str, Path], kernel: Path) -> str:
    known = hashlib.sha256(f"{sys.version} {kernel}\n".encode())
    for name, path in sorted(files.items()):
        known.update(f"{name} {path} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    return known.hexdigest()


def _contents(
    interpreter: str, files: Mapping[str, Path], modules: Mapping[str, Path]
) -> Iterator[tuple[str, int, bytes]]:
    """Name, mode and content of all that the initial file system has."""
    init = (
        f"#!{interpreter} -S\nimport os, sys\nos.environ['PYTHONPATH'] = '/{_SITE}'\n"
        f"sys.path.insert(0, '/{_SITE}')\nos.environ['PATH'] = '/usr/bin:/bin'\n"
        "from propeller.emulation.guest_init import start\nstart()\n"
    )
    yield "init", 0o755, init.encode()
    for name, module in modules.items():
        yield f"modules/{name}.ko", 0o644, _unpacked(module)
    for name, path in files.items():
        if path.suffix == ".py":
            yield str(Path(name).with_suffix(".pyc")), 0o644, _compiled(path)
        elif path.suffix not in _NOT_RUN:
            yield name, stat.S_IMODE(path.stat().st_mode), _without_symbols(path)


def _there(path: Path) -> str:
    """Where a file of this machine is on the device: packages together, all else where it is here."""
    for packages in (Path(sysconfig.get_path("purelib")), Path(propeller.__file__).parents[1]):
        if path.is_relative_to(packages):
            return f"{_SITE}/{path.relative_to(packages)}"
    return str(path).lstrip("/")


def _unpacked(module: Path) -> bytes:
    if module.suffix == ".xz":
        import lzma  # noqa: PLC0415 - only newer kernels have packed modules

        return lzma.decompress(module.read_bytes())
    return module.read_bytes()


def _without_symbols(path: Path) -> bytes:
    """The file, a shared library without what only debuggers read, where there is `strip` for it.

    That is a third of all that the emulated processor would unpack.
    """
    content = path.read_bytes()
    if content[:4] != b"\x7fELF" or shutil.which("strip") is None:
        return content
    with tempfile.TemporaryDirectory() as directory:
        bare = Path(directory, "bare")
        told = ["strip", "--strip-debug", "-o", str(bare), str(path)]
        done = subprocess.run(told, capture_output=True, check=False)  # noqa: S603 - ours
        # It leaves nothing of a file for another processor.
        return bare.read_bytes() if done.returncode == 0 else content


def _compiled(source: Path) -> bytes:
    """The module's code, from the cache beside it if that is there and new, else compiled now."""
    cached = Path(importlib.util.cache_from_source(str(source)))
    if cached.exists() and cached.stat().st_mtime >= source.stat().st_mtime:
        content = cached.read_bytes()
        if content[:4] == _MAGIC[:4]:
            return _MAGIC + content[len(_MAGIC) :]
    import marshal  # noqa: PLC0415 - where a cache is there, nothing is compiled

    try:
        code = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return b""
    return _MAGIC + marshal.dumps(code)
