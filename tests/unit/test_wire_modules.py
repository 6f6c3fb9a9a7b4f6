"""Inline modules: long base64 is cut out of a body and comes back, whatever stands around it."""

import base64
import json

import pytest

from propeller import limits
from propeller.errors import BadInput, DecodeError
from propeller.wire.flows import JobBody
from propeller.wire.modules import LongText, decode_body, decode_module, is_long
from propeller.wire.tasks import TaskBody

MODULE = b"\0asm" + bytes(range(256)) * 3000 + b"x"
TEXT = base64.b64encode(MODULE * 2).decode()


def test_a_long_module_is_read_without_being_copied():
    """It is recognised as long, and is the module that was sent; short ones are plain text."""
    body = decode_body(TaskBody, json.dumps({"name": "x", "file": TEXT, "inputs": [1]}).encode(), "the task")
    assert isinstance(body.file, LongText)
    assert is_long(body.file)
    assert (body.name, body.inputs) == ("x", [1])
    assert decode_module(body.file) == MODULE * 2
    short = decode_body(TaskBody, b'{"name":"x","file":"AGFzbQ=="}', "the task")
    assert (short.file, is_long(short.file)) == ("AGFzbQ==", False)


def test_every_task_of_a_job_gets_its_own():
    """Several long texts, with blanks around the colon, among tasks without any."""
    other = base64.b64encode(b"\0asm" + b"y" * 2_000_000).decode()
    data = f'{{"tasks":[{{"name":"a","file" :\n "{TEXT}"}},{{"name":"b"}},{{"name":"c","file":"{other}"}}]}}'
    first, second, third = decode_body(JobBody, data.encode(), "the job").tasks
    assert (decode_module(first.file), second.file) == (MODULE * 2, None)
    assert decode_module(third.file).endswith(b"y")


@pytest.mark.parametrize(
    "around",
    [
        {"metadata": {"file": TEXT}},
        {"metadata": {"note": '"file": "'}, "env": {"file": "<cut 0>"}},
        {"file": TEXT[:-4] + "\\/=="},
        {"name": "file", "cli_args": ["file", ":"]},
    ],
)
def test_what_only_looks_like_a_module_stays_where_it_is(around):
    """A long `file` elsewhere, escapes, and the word in other places are read as any JSON is."""
    document = {"name": "x", **around}
    data = json.dumps(document).encode().replace(b"\\\\/", b"\\/")
    body = decode_body(TaskBody, data, "the task")
    for name, value in json.loads(data).items():
        assert getattr(body, name) == value


def test_duplicate_keys_and_broken_ends_are_refused():
    """Two modules for one task, and a text without an end, are errors of the sender."""
    data = b'{"name":"x","file":"' + TEXT.encode() + b'","file":"AGFzbQ=="}'
    with pytest.raises(DecodeError, match="file"):
        decode_body(TaskBody, data, "the task")
    with pytest.raises(DecodeError):
        decode_body(TaskBody, data[:-30], "the task")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TEXT[:-1], "not standard base64"),
        ("A" * (limits.HTTP_JSON_OFFLOAD_BYTES - 4) + "AA==" + TEXT, "not standard base64"),
        ("AGFzbQ==AGFzbQ==", "not standard base64"),
        ("AGF zbQ==", "not standard base64"),
        ("AGFzbQ-_", "not standard base64"),
        (base64.b64encode(b"\x7fELF").decode(), "missing magic bytes"),
    ],
)
def test_what_is_no_module_is_refused(text, says):
    """Wrong padding, padding in the middle at a border of pieces, blanks, the other alphabet, other bytes."""
    with pytest.raises(BadInput, match=says):
        decode_module(text)
