"""The embedded registry on a real port, with independent clients: oras (Python) and skopeo (Go)."""

import asyncio
import json
import os
import shutil
import signal
import sys
from random import SystemRandom

import oras.client
import pytest

from propeller.errors import PeerUnavailable
from propeller.http.client import AiohttpHttp
from propeller.http.listen import bind, port_of, serve
from propeller.http.server import create_app
from propeller.images.cache import CachedImages
from propeller.images.client import OciImages
from propeller.images.digest import digest_of
from propeller.images.manifest import IMAGE_MANIFEST
from propeller.images.reference import Reference
from propeller.images.registry.app import RegistryApp, create_registry_app
from propeller.images.registry.index import FileIndex
from propeller.ports import Instant
from propeller.storage.blobs import FileBlobs
from propeller.telemetry.metrics import RoleMetrics

WASM = b"\0asm\x01\0\0\0" + os.urandom(3_000_000)


class LoopClock:
    """The running loop's time."""

    def now(self):
        """The present moment."""
        return Instant(asyncio.get_running_loop().time(), 0.0)


@pytest.fixture
async def host(tmp_path):
    """`localhost:PORT` of a registry on files, mounted in a role's application as in production."""
    index = FileIndex(tmp_path / "index")
    app = RegistryApp(FileBlobs(tmp_path / "blobs"), index, LoopClock(), SystemRandom())
    whole = create_app("registry", [create_registry_app(app)], RoleMetrics("registry"), dict)
    socket = bind("127.0.0.1", 0, "--port")
    server = asyncio.create_task(serve(whole, socket))
    yield f"localhost:{port_of(socket)}"
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)
    await app.close()
    index.close()


@pytest.fixture
async def http():
    """A real HTTP client."""
    made = AiohttpHttp()
    yield made
    await made.close()


async def skopeo(*arguments):
    """Run skopeo; its standard output."""
    if shutil.which("skopeo") is None:
        pytest.skip("missing Debian package: skopeo")
    process = await asyncio.create_subprocess_exec(
        "skopeo", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output


@pytest.mark.parametrize("chunked", [False, True], ids=["monolithic", "chunked"])
async def test_oras_pushes_and_pulls(host, http, tmp_path, chunked):
    """A module that oras pushes, whole or in chunks, is pulled the same by oras and by us."""
    source = tmp_path / "trainer.wasm"
    source.write_bytes(WASM)
    client = oras.client.OrasClient(hostname=host, insecure=True)
    target = f"{host}/fl-client-wasm:latest"
    await asyncio.to_thread(
        client.push,
        target=target,
        files=[str(source)],
        disable_path_validation=True,
        do_chunked=chunked,
        chunk_size=1_000_000,
        quiet=True,
    )
    (pulled,) = await asyncio.to_thread(client.pull, target=target, outdir=str(tmp_path / "out"))
    assert await asyncio.to_thread(_read, pulled) == WASM
    got = await OciImages(http).fetch(target)
    assert (got.content, f"sha256:{got.digest}") == (WASM, digest_of(WASM))
    assert await asyncio.to_thread(client.get_tags, f"{host}/fl-client-wasm") == ["latest"]


async def test_oras_pulls_what_we_push(host, http, tmp_path):
    """Our layer is found by oras under its title."""
    await OciImages(http).push(Reference.parse(f"{host}/a/b:v1"), WASM, title="mine.wasm")
    client = oras.client.OrasClient(hostname=host, insecure=True)
    (pulled,) = await asyncio.to_thread(client.pull, target=f"{host}/a/b:v1", outdir=str(tmp_path))
    assert pulled.endswith("/mine.wasm")
    assert await asyncio.to_thread(_read, pulled) == WASM


async def test_skopeo_sees_what_we_push(host, http):
    """Our image is read by skopeo (manifest, config, tags) and deleted by it."""
    images = OciImages(http)
    reference = Reference.parse(f"{host}/fl-client-wasm:latest")
    pushed = await images.push(reference, WASM, {"org.example": "yes"})
    where = f"docker://{reference}"
    raw = await skopeo("inspect", "--raw", where, "--tls-verify=false")
    assert digest_of(raw) == pushed
    assert json.loads(raw)["mediaType"] == IMAGE_MANIFEST
    config = json.loads(await skopeo("inspect", "--raw", "--config", where, "--tls-verify=false"))
    assert (config["architecture"], config["os"]) == ("wasm", "wasip1")
    tags = json.loads(await skopeo("list-tags", f"docker://{host}/fl-client-wasm", "--tls-verify=false"))
    assert tags["Tags"] == ["latest"]
    await skopeo("delete", where, "--tls-verify=false")
    assert await images.tags(reference) == []


async def test_skopeo_copies_between_repositories(host, http, tmp_path):
    """What skopeo copies (streamed uploads, mounts) stays the same image."""
    images = OciImages(http)
    pushed = await images.push(Reference.parse(f"{host}/one:v1"), WASM)
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
    await skopeo("copy", f"docker://{host}/one:v1", f"dir:{tmp_path}/copy", *plain)
    await skopeo("copy", f"dir:{tmp_path}/copy", f"docker://{host}/two/deep:v2", *plain)
    await skopeo("copy", f"docker://{host}/one:v1", f"docker://{host}/three:v3", *plain)
    for name in ("two/deep:v2", "three:v3"):
        got = await images.fetch(f"{host}/{name}")
        assert (got.content, got.manifest_digest) == (WASM, pushed)


async def test_cache_on_disk_serves_a_digest_without_the_registry(host, http, tmp_path):
    """A module fetched once is read from disk by digest through a client that reaches nobody."""
    reference = Reference.parse(f"{host}/a:v1")
    pushed = await OciImages(http).push(reference, WASM)
    blobs = FileBlobs(tmp_path / "cache")
    await CachedImages(OciImages(http), blobs).fetch(str(reference))
    alone = AiohttpHttp()
    await alone.close()
    cached = CachedImages(OciImages(alone), blobs)
    assert (await cached.fetch(str(reference.with_digest(pushed)))).content == WASM
    with pytest.raises(PeerUnavailable):
        await cached.fetch(str(reference))


SERVER = """
import asyncio, sys
from pathlib import Path
from random import SystemRandom
from propeller.http.listen import bind, port_of, serve
from propeller.images.registry.app import RegistryApp
from propeller.images.registry.index import FileIndex
from propeller.ports import Instant
from propeller.storage.blobs import FileBlobs

class Clock:
    def now(self):
        return Instant(asyncio.get_running_loop().time(), 0.0)

async def main():
    root = Path(sys.argv[1])
    app = RegistryApp(FileBlobs(root / "blobs"), FileIndex(root / "index"), Clock(), SystemRandom())
    socket = bind("127.0.0.1", 0, "--port")
    print(port_of(socket), flush=True)
    await serve(app, socket)

asyncio.run(main())
"""


async def start(root):
    """A registry process over a directory, and its `localhost:PORT`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(root), stdout=asyncio.subprocess.PIPE
    )
    line = await process.stdout.readline()
    return process, f"localhost:{int(line)}"


async def test_kill_9_loses_no_accepted_image(tmp_path, http):
    """Images whose push was answered are whole after SIGKILL in the middle of the next ones."""
    process, host = await start(tmp_path)
    images, accepted = OciImages(http), {}

    async def push(number):
        for turn in range(1000):
            wasm = b"\0asm\x01\0\0\0" + f"{number}-{turn}".encode() * 1000
            tag = f"n{number}-{turn}"
            pushed = await images.push(Reference.parse(f"{host}/a/b:{tag}"), wasm)
            accepted[tag] = (pushed, wasm)
            if len(accepted) == 20:
                process.send_signal(signal.SIGKILL)

    outcomes = await asyncio.gather(*(push(number) for number in range(3)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [PeerUnavailable] * 3
    await process.wait()
    process, host = await start(tmp_path)
    try:
        assert len(accepted) >= 20
        for tag, (pushed, wasm) in accepted.items():
            got = await images.fetch(f"{host}/a/b:{tag}")
            assert (got.manifest_digest, got.content) == (pushed, wasm)
        for tag in await images.tags(Reference.parse(f"{host}/a/b")):
            assert (await images.fetch(f"{host}/a/b:{tag}")).content.startswith(b"\0asm")
    finally:
        process.kill()
        await process.wait()


def _read(path):
    with open(path, "rb") as file:  # noqa: PTH123 - oras answers a string
        return file.read()
