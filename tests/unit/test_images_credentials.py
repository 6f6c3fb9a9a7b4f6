"""Credentials as Docker and Podman keep them."""

import base64
import json

import pytest

from propeller.errors import BadInput
from propeller.images.auth import Credential
from propeller.images.credentials import read_credentials


def test_reads_what_docker_writes(tmp_path):
    """By the registry's name in references; entries that a helper holds are passed over."""
    path = tmp_path / "config.json"
    secret = base64.b64encode(b"ann:pass:word").decode()
    entries = {
        "https://index.docker.io/v1/": {"auth": secret},
        "Registry.Example:5000": {"auth": secret, "email": "x"},
        "plain.example": {"username": "bob", "password": "p"},
        "helped.example": {},
    }
    path.write_text(json.dumps({"auths": entries, "credsStore": "desktop", "HttpHeaders": {}}))
    ann = Credential(username="ann", password="pass:word")
    assert read_credentials(path) == {
        "docker.io": ann,
        "registry.example:5000": ann,
        "plain.example": Credential(username="bob", password="p"),
    }
    assert read_credentials(None) == {}


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"auths": 3}', '{"auths": {"h": {"auth": "%%"}}}', '{"auths": {"h": {"auth": "YQ=="}}}'],
)
def test_another_file_is_refused_without_showing_it(tmp_path, text):
    """The message names the file and the form that is wanted."""
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(BadInput, match="registry credentials") as caught:
        read_credentials(path)
    assert "YQ" not in caught.value.message
    with pytest.raises(BadInput, match="No such file"):
        read_credentials(tmp_path / "none")
