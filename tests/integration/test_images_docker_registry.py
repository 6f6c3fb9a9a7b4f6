"""Our client against Debian's docker-registry, an independent server, with and without authentication."""

import asyncio
import base64
import json
import os
import shutil
import signal
import socket

import pytest

from propeller.errors import Denied, NotFound, PeerUnavailable
from propeller.http.client import AiohttpHttp
from propeller.images.auth import Credential
from propeller.images.client import OciImages
from propeller.images.credentials import read_credentials
from propeller.images.models import OciModels
from propeller.images.reference import Reference
from propeller.storage.memory_blobs import MemoryBlobs

WASM = b"\0asm\x01\0\0\0" + os.urandom(2_000_000)
HTPASSWD = "ann:$2y$05$0TPvF/TTN9D2PH2cfd5biux0q.Y1.m5lmIAzL08GGt.u3SbB6zkLq\n"
"""User ann, password secret, bcrypt: the only form that this registry takes."""


def config_of(port: int, folder, *, auth: bool) -> str:
    """The registry's configuration, which is YAML, of which JSON is a part."""
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if auth:
        (folder / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    return json.dumps(config)


@pytest.fixture(params=[False, True], ids=["open", "with a password"])
async def server(request, tmp_path):
    """(`localhost:PORT` of a running registry, the credentials for it)."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("missing Debian package: docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "config.yml").write_text(config_of(port, tmp_path, auth=request.param))
    process = await asyncio.create_subprocess_exec(
        program, "serve", str(tmp_path / "config.yml"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    await asyncio.sleep(0.05)
            writer.close()
        host = f"localhost:{port}"
        ann = Credential(username="ann", password="secret")
        yield host, {host: ann} if request.param else {}
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


@pytest.fixture
async def http():
    """A real HTTP client."""
    made = AiohttpHttp()
    yield made
    await made.close()


async def test_an_image_from_push_to_deletion(server, http):
    """Pushed, resolved, listed, pulled by tag and digest, deleted."""
    host, credentials = server
    images = OciImages(http, credentials=credentials)
    reference = Reference.parse(f"{host}/fleet/trainer:v1")
    digest = await images.push(reference, WASM, {"org.example": "yes"})
    assert await images.push(reference, WASM, {"org.example": "yes"}) == digest
    assert await images.resolve(reference) == await images.pin(str(reference)) == digest
    assert await images.repositories(host) == ["fleet/trainer"]
    assert await images.tags(reference) == ["v1"]
    for name in (str(reference), f"{host}/fleet/trainer@{digest}"):
        got = await images.fetch(name)
        assert (got.content, got.manifest_digest) == (WASM, digest)
    assert await images.delete(reference) == digest
    with pytest.raises(NotFound):
        await images.fetch(str(reference))


@pytest.mark.parametrize("server", [True], indirect=True)
async def test_who_has_no_or_a_wrong_password_is_told(server, http, tmp_path):
    """A clear refusal that names the registry and never the password; the file of Docker's form lets in."""
    host, _ = server
    reference = Reference.parse(f"{host}/a:v1")
    with pytest.raises(Denied, match="wants a user name and password"):
        await OciImages(http).push(reference, WASM)
    wrong = {host: Credential(username="ann", password="wrong")}
    with pytest.raises(Denied) as caught:
        await OciImages(http, credentials=wrong).push(reference, WASM)
    assert host in caught.value.message
    assert "wrong" not in caught.value.message
    secret = base64.b64encode(b"ann:secret").decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    held = read_credentials(tmp_path / "auth.json")
    assert await OciImages(http, credentials=held).push(reference, WASM)


async def test_nobody_there_is_said_as_that(http):
    """`PeerUnavailable`: trying again later may help."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(PeerUnavailable):
            await OciImages(http).fetch(f"localhost:{probe.getsockname()[1]}/a:v1")


async def test_a_model_goes_there_and_back(server, http):
    """Pushed in streams and pulled by tag and digest, byte for byte, on the first use of the password."""
    host, credentials = server
    model, state, blobs = os.urandom(3_000_000), os.urandom(1_000), MemoryBlobs()
    reference = f"{host}/models/m:v1"
    pushed = await OciModels(http, credentials=credentials).push(
        reference, memoryview(model), state=memoryview(state), about=b'{"name":"m"}', annotations={"a": "b"}
    )
    again = OciModels(http, credentials=credentials)
    assert (await again.describe(reference)).reference == pushed
    for name in (reference, pushed):
        got = await OciModels(http, credentials=credentials).pull(name, blobs.open_writer)
        assert (got.reference.rpartition("@")[2], got.about) == (pushed.rpartition("@")[2], b'{"name":"m"}')
        assert (await blobs.get(got.model), await blobs.get(got.state)) == (model, state)
    with pytest.raises(NotFound):
        await again.pull(f"{host}/models/none:v1", blobs.open_writer)
