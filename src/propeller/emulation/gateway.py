"""What a gateway boots: Debian's kernel, and an initial file system with this very Python and our proplet.

Nothing is installed: the kernel's package is downloaded and unpacked, and the file system is packed from the
interpreter that runs this, the packages that the proplet imports, and the shared libraries that they load. It
must not know who boots it.
"""

import contextlib
import gzip
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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

import propeller
from propeller.emulation import guest_init
from propeller.emulation.boards import Image
from propeller.errors import EnvironmentError_

KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"
_STARTS: Final = "propeller.roles.device", "propeller.proplet.app", "propeller.runtime.worker"
"""What is imported to see which packages a proplet needs."""
_STDLIB_LEFT_OUT: Final = {
    "__pycache__", "config", "distutils", "ensurepip", "idlelib", "lib2to3", "lib-dynload", "pydoc_data",
    "site-packages", "test", "tests", "tkinter", "turtledemo", "unittest", "venv", "wsgiref",
}  # fmt: skip
_LEFT_OUT: Final = {"rich", "pygments"}
"""Packages that are imported where they are there, and missed by nobody on a device: a colourful log."""
_SITE: Final = "site"
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")
_MAGIC = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
"""The head of a compiled module whose source nobody looks for (PEP 552, unchecked)."""


def build(directory: Path) -> Image:
    """The image, made in `directory` unless what is there is still the same.

    Raises `EnvironmentError_` where the kernel's package or a program cannot be had.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kernel, modules = _kernel(directory / "kernel")
    files = _files()
    key = _digest(files, kernel)
    initrd, known = directory / "initrd", directory / "initrd.key"
    if not (initrd.exists() and known.exists() and known.read_text(encoding="ascii") == key):
        _pack(_contents(files, modules), initrd)
        known.write_text(key, encoding="ascii")
    return Image(kernel=kernel, initrd=initrd)


# --- the kernel ------------------------------------------------------------------------------------------


def _kernel(directory: Path) -> tuple[Path, dict[str, Path]]:
    """Debian's kernel and the modules that `guest_init` wants, by name."""
    if not list(directory.glob("boot/vmlinuz-*")):
        _fetch(directory)
    kernel = next(iter(directory.glob("boot/vmlinuz-*")))
    found = {path.name.partition(".")[0]: path for path in directory.rglob("*.ko*")}
    if missing := [name for name in guest_init.MODULES if name not in found]:
        raise EnvironmentError_(
            f"{kernel.name} comes without the modules {', '.join(missing)}", code="no_module"
        )
    return kernel, {name: found[name] for name in guest_init.MODULES}


def _fetch(directory: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise EnvironmentError_(f"missing Debian package: {KERNEL_PACKAGE}", code="no_kernel")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    depends = _said(["apt-cache", "depends", KERNEL_PACKAGE])
    real = re.search(r"Depends: (linux-image-\S+)", depends)
    _said(["apt-get", "download", real[1] if real else KERNEL_PACKAGE], directory)
    package = next(iter(directory.glob("*.deb")))
    _said(["dpkg", "-x", str(package), str(directory)])
    package.unlink()


def _said(command: list[str], directory: Path | None = None) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise EnvironmentError_(
            f"missing Debian package: {KERNEL_PACKAGE} ({' '.join(command)}: {last}; try apt-get update)",
            code="no_kernel",
        )
    return done.stdout


# --- what goes in ----------------------------------------------------------------------------------------


def _files() -> list[Path]:
    """Every file of this machine that the device has too, shared libraries not yet among them."""
    loaded = _loaded()
    stdlib, site = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    top = {path.relative_to(site).parts[0] for path in loaded if path.is_relative_to(site)} - _LEFT_OUT
    taken = [Path(os.path.realpath(sys.executable)), *_below(stdlib, _STDLIB_LEFT_OUT)]
    for name in top:
        taken += _below(site / name, {"__pycache__", "tests"}) if (site / name).is_dir() else [site / name]
    taken += [path for path in loaded if path.parent.name == "lib-dynload"]
    # What a package says of itself is read at run time: its version is shown by the manager.
    taken += [path for path in site.glob("*.dist-info/METADATA") if path.parent.name.split("-")[0] in top]
    taken += _below(Path(propeller.__file__).parent, {"__pycache__"})
    return sorted({path for path in taken if path.suffix not in {".a", ".pyi", ".h", ".pyx", ".c"}})


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


def _libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that programs and modules among `files` load, and the loader itself."""
    binaries = [os.path.realpath(sys.executable)]
    binaries += [str(path) for path in files if path.suffix == ".so" or ".so." in path.name]
    done = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return {Path(found) for found in _LIBRARY.findall(done.stdout)}


def _digest(files: list[Path], kernel: Path) -> str:
    known = hashlib.sha256(f"{sys.version} {kernel}\n".encode())
    for path in files:
        known.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    return known.hexdigest()


def _contents(files: list[Path], modules: dict[str, Path]) -> Iterator[tuple[str, int, bytes]]:
    """Name, mode and content of all that the initial file system has."""
    init = (
        f"#!{os.path.realpath(sys.executable)} -S\nimport os, sys\nos.environ['PYTHONPATH'] = '/{_SITE}'\n"
        f"sys.path.insert(0, '/{_SITE}')\nos.environ['PATH'] = '/usr/bin:/bin'\n"
        "from propeller.emulation.guest_init import start\nstart()\n"
    )
    yield "init", 0o755, init.encode()
    for name, module in modules.items():
        yield f"modules/{name}.ko", 0o644, _unpacked(module)
    for one in [*files, *sorted(_libraries(files))]:
        if one.suffix == ".py":
            yield _there(one.with_suffix(".pyc")), 0o644, _compiled(one)
        else:
            yield _there(one), stat.S_IMODE(one.stat().st_mode), _without_symbols(one)


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
    with tempfile.NamedTemporaryFile() as bare:
        told = ["strip", "--strip-debug", "-o", bare.name, str(path)]
        done = subprocess.run(told, capture_output=True, check=False)  # noqa: S603 - ours
        return Path(bare.name).read_bytes() if done.returncode == 0 else content


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


# --- packing ---------------------------------------------------------------------------------------------


def _pack(contents: Iterable[tuple[str, int, bytes]], path: Path) -> None:
    """Write a compressed archive in the kernel's format (newc, Documentation/driver-api/early-userspace)."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file, _packing(file) as packed:
        seen: set[str] = set()
        for number, (name, mode, content) in enumerate(contents, start=1000):
            for parent in reversed(Path(name).parents):
                if str(parent) not in {".", *seen}:
                    seen.add(str(parent))
                    packed.write(_entry(len(seen), str(parent), stat.S_IFDIR | 0o755, b""))
            packed.write(_entry(number, name, stat.S_IFREG | mode, content))
        packed.write(_entry(0, "TRAILER!!!", 0, b""))
    fresh.replace(path)


@contextlib.contextmanager
def _packing(file: BinaryIO) -> Iterator[BinaryIO]:
    """A stream whose content is compressed into `file`, by zstd where that program is installed.

    An emulated processor unpacks it in a third of the time that gzip takes.
    """
    if shutil.which("zstd") is None:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed:
            yield cast("BinaryIO", packed)
        return
    file.flush()
    with subprocess.Popen(["zstd", "-q", "-3", "-c"], stdin=subprocess.PIPE, stdout=file) as zstd:  # noqa: S607
        assert zstd.stdin is not None  # noqa: S101 - a pipe was asked for
        with zstd.stdin as packed:
            yield cast("BinaryIO", packed)
    if zstd.returncode != 0:
        raise EnvironmentError_("zstd could not pack the gateway's file system", code="no_initrd")


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    spelled = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(spelled), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + spelled
    return _padded(head) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
