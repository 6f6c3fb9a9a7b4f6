import asyncio
import io
import json
import logging

import pytest

from propeller.telemetry import logs


@pytest.fixture
def lines():
    """The lines that the role `tester` has written so far, parsed."""
    stream = io.StringIO()
    logs.configure("tester", "info", stream)
    with logs.role_context("tester"):
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.forget("tester")


def test_a_line_is_json_with_role_round_and_task(lines):
    """Every line is one JSON object that names its role and what it is about."""
    with logs.about(round_id="r-1", task_id="t-1"):
        logs.logger().info("update accepted", participant="p1")
    (line,) = lines()
    assert (line["event"], line["role"], line["round_id"], line["task_id"]) == (
        "update accepted",
        "tester",
        "r-1",
        "t-1",
    )
    assert line["level"] == "info"
    assert line["time"].endswith("Z")


def test_what_is_said_often_is_the_same_line(lines):
    """The quick way leads to the line of the other: same fields, same ids, same mask, same level."""
    with logs.about(task_id="t-1"):
        logs.logger().info("run", state="failed", reason="Bearer abc was refused", api_key="k")
        logs.say("run", state="failed", reason="Bearer abc was refused", api_key="k")
    first, second = lines()
    assert {**first, "time": ""} == {**second, "time": ""}
    assert "abc" not in str(second)
    logs.configure("tester", "warning", io.StringIO())
    logs.say("not said")
    assert len(lines()) == 2


def test_ids_end_with_their_context(lines):
    """A line after the context no longer carries its ids."""
    with logs.about(round_id="r-1"):
        pass
    logs.logger().info("idle")
    assert "round_id" not in lines()[0]


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "api_key",
        "API_KEY",
        "token",
        "update_token",
        "client_key",
        "Authorization",
        "secret",
        "cookie",
    ],
)
def test_secrets_are_masked_at_any_depth(lines, key):
    """The value of a key that names a secret never reaches the stream, however deep it is nested."""
    logs.logger().info("config", **{key: "hunter2"}, nested={"list": [{key: "hunter2"}]})
    assert "hunter2" not in json.dumps(lines())
    assert lines()[0]["nested"]["list"][0][key] == "***"


@pytest.mark.parametrize(
    "text", ["refused Bearer hunter2", "at mqtt://me:hunter2@host:1883", "Basic hunter2, twice Basic hunter2"]
)
def test_secrets_inside_text_are_masked(lines, text):
    """Credentials inside URLs and authorization headers are masked in free text."""
    logs.logger().error("failed: " + text, detail=text)
    assert "hunter2" not in json.dumps(lines())


def test_secrets_inside_tracebacks_are_masked(lines):
    """A traceback that quotes a URL with a password shows no password."""
    try:
        int("http://me:hunter2@host/")
    except ValueError:
        logs.logger().exception("failed")
    assert "ValueError" in lines()[0]["exception"]
    assert "hunter2" not in json.dumps(lines())


def test_innocent_words_are_not_masked(lines):
    """Keys that only look like secrets keep their values."""
    logs.logger().info("x", key="a", monkey="b", tokens_total=3, dataset="c")
    assert [lines()[0][name] for name in ("key", "monkey", "tokens_total", "dataset")] == ["a", "b", 3, "c"]


def test_lines_below_the_level_are_dropped(lines):
    """A role configured at info writes no debug lines."""
    logs.logger().debug("chatter")
    assert lines() == []


async def test_two_roles_in_one_loop_write_to_their_own_streams():
    """Tasks of different roles share the logger and never each other's stream."""
    streams = {"red": io.StringIO(), "blue": io.StringIO()}
    for role, stream in streams.items():
        logs.configure(role, "info", stream)

    async def work(role):
        with logs.role_context(role):
            await asyncio.sleep(0)
            await asyncio.create_task(speak(role))

    async def speak(role):
        logs.logger().info("from " + role)

    await asyncio.gather(work("red"), work("blue"))
    for role, stream in streams.items():
        assert json.loads(stream.getvalue())["event"] == "from " + role
        logs.forget(role)


def test_warnings_of_libraries_take_the_same_way(lines):
    """Standard logging at warning and above becomes a JSON line of the role; info does not."""
    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("uvicorn.error").warning("odd request from %s", "x")
    assert [(line["event"], line["library"]) for line in lines()] == [("odd request from x", "uvicorn.error")]


def test_a_closed_stream_does_not_stop_the_work(tmp_path):
    """Logging to a closed file is silently dropped: the work goes on."""
    stream = (tmp_path / "x.log").open("w")
    logs.configure("closed", "info", stream)
    stream.close()
    with logs.role_context("closed"):
        logs.logger().info("nobody hears")
    logs.forget("closed")
    assert (tmp_path / "x.log").read_text() == ""


def test_a_log_file_is_bounded(tmp_path):
    """Past its bound the file moves aside and a new one starts; both stay near the bound."""
    path = tmp_path / "deep" / "role.log"
    file = logs.LogFile(path, bytes_max=100)
    for number in range(100):
        file.write(f"line {number}\n")
        file.flush()
    file.close()
    assert path.read_text().endswith("line 99\n")
    assert path.stat().st_size < 120
    assert path.with_name("role.log.1").stat().st_size < 120


def test_ports_of_urls_are_no_passwords() -> None:
    """The port of a URL stays readable, alone or in a list of several; a password before an `@` does not."""
    event: dict[str, object] = {
        "urls": {"manager": "http://127.0.0.1:7070", "broker": "tcp://me:secret@localhost:1883"}
    }
    assert logs.mask_secrets(None, "info", event) == {
        "urls": {"manager": "http://127.0.0.1:7070", "broker": "tcp://me:***@localhost:1883"}
    }
