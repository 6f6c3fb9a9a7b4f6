"""The program: exit codes, the one line of an error, options anywhere, and files from a shell's hands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from propeller.cli import main
from propeller.cli.app import app, hoisted
from propeller.cli.session import commas, json_option, pairs
from propeller.errors import BadInput

NOWHERE = "http://127.0.0.1:9"
EVERY_URL = [
    f"--{role}-url={NOWHERE}"
    for role in ("manager", "coordinator", "aggregator", "model-registry", "data-store")
]


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """What a command line exits with, prints and complains."""
    status = 0
    try:
        main(list(arguments))
    except SystemExit as end:
        status = int(end.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_role_that_is_not_there_is_one_line_and_exit_1(capsys):
    """A refused connection names the URL and the flag, on one line of stderr."""
    status, out, err = _run(capsys, "tasks", "list", "-m", NOWHERE)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert NOWHERE in err
    assert "connection refused" in err
    assert "--manager-url" in err


@pytest.mark.parametrize("arguments", [["tasks", "nonsense"], ["--nonsense"], ["tasks", "view"]])
def test_wrong_usage_exits_2(capsys, arguments):
    """Unknown commands and options and missing arguments are told apart from failures."""
    status, _, err = _run(capsys, *arguments)
    assert status == 2
    assert err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tasks", "create", "n", "--file", "/nowhere/x.wasm"], "cannot read /nowhere/x.wasm"),
        (["tasks", "create", "n", "--env", "novalue"], "NAME=VALUE"),
        (["tasks", "create", "n", "--constraint", "zone"], "ATTRIBUTE OPERATOR VALUE"),
        (["tasks", "create", "n", "--restart", "often"], "--restart 'often': 'often' is no number"),
        (["tasks", "create", "n", "--restart", "delay_s=nan"], "'nan' is no number"),
        (["tasks", "create", "n", "--wall-s", "inf"], "wall_s cannot be without end"),
        (["tasks", "view", ""], "'' is no id"),
        (["tasks", "delete", ".."], "'..' is no id"),
        (["models", "post", "/nowhere/model.json"], "cannot read /nowhere/model.json"),
        (["image", "push", __file__, "localhost:9/x"], f"{__file__} is no Wasm module"),
        (["emulate", "/nowhere/sweep.toml"], "cannot read /nowhere/sweep.toml: No such file or directory"),
        (["emulate", "--memory", "much"], "'much' is no size; write a number"),
        (["health", "all", *EVERY_URL], "model-registry, data-store: no answer"),
        (["tasks", "create", "n", "--disconnect", "attempts=2"], "unknown field 'attempts'"),
        (["tasks", "create", "-f", "/nowhere/task.toml"], "cannot read /nowhere/task.toml"),
        (["tasks", "create", "n", "--inputs", "[1"], "is not a JSON array"),
        (["jobs", "create", "--name", "j"], "at least one task is required"),
        (["jobs", "create", "--tasks", "[]"], "at least one task is required"),
        (["jobs", "create", "--tasks", "[]", "--tasks-file", "x"], "not both"),
        (["workflows", "create", "--tasks", "[1]"], "task 1: a task is an object"),
        (["proplets", "label", "p"], "NAME=VALUE"),
        (["fl", "configure", "--experiment-id", "e", "--participants", "a", "--task-wasm-image", "i",
          "--hyperparams", "{"], "--hyperparams is not JSON"),
        (["image", "inspect", "https://example.org/x.wasm"], "is a URL"),
        (["proplet", "--config", "/nowhere/config.toml"], "add-proplets"),
        (["logs", "manager", "--data-dir", "/nowhere"], "no log"),
        (["up", "--broker", "gopher://x"], "gopher"),
        (["manager", "--port", "0", "--log-level", "loud", "--config", "/nowhere"], "no identity"),
        (["aggregator", "--log-level", "loud"], "loud"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(capsys, monkeypatch, tmp_path, arguments, says):
    """Whatever is wrong with what was typed is said once, and nothing was started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROPELLER_DATA_DIR", raising=False)
    status, _, err = _run(capsys, *arguments)
    assert status == 1
    assert says in err
    assert err.count("\n") == 1


def test_global_options_stand_anywhere_after_an_asking_noun():
    """As with the original, `-m` may follow the command; after `--` everything is an argument."""
    assert hoisted(["tasks", "list", "-m", "u", "--limit", "5"]) == [
        "-m",
        "u",
        "tasks",
        "list",
        "--limit",
        "5",
    ]
    assert hoisted(["tasks", "list", "--output=json"]) == ["--output=json", "tasks", "list"]
    assert hoisted(["-o", "json", "tasks", "view", "--", "-m"]) == ["-o", "json", "tasks", "view", "--", "-m"]
    assert hoisted(["proplet", "--coordinator-url", "u"]) == ["proplet", "--coordinator-url", "u"]


def test_values_from_a_shell_are_read(tmp_path: Path):
    """Pairs keep what follows the first equal sign; JSON may stand in a file."""
    assert pairs(["A=1=2", "B="], "--env") == {"A": "1=2", "B": ""}
    assert pairs(None, "--env") is None
    assert commas("a, b,,") == ["a", "b"]
    assert commas(None) is None
    (tmp_path / "h.json").write_text('{"lr": 0.1}')
    assert json_option(f"@{tmp_path / 'h.json'}", "--hyperparams") == {"lr": 0.1}
    with pytest.raises(BadInput, match="object"):
        json_option("[1]", "--hyperparams")


def test_provisioning_from_nothing_asks_nothing(capsys, tmp_path):
    """Two commands make a second worker: ids, keys and the next step are written without a question."""
    config, data = str(tmp_path / "c.toml"), str(tmp_path / "d")
    status, out, _ = _run(capsys, "provision", "-f", config, "--data-dir", data, "--proplets", "2")
    assert status == 0
    assert "proplet2" in out
    assert f"propeller broker --data-dir {data}" in out
    more = str(tmp_path / "more.toml")
    status, out, _ = _run(
        capsys, "-o", "json", "provision", "add-proplets", "1", "-f", more, "--data-dir", data
    )
    assert status == 0
    assert list(json.loads(out)) == ["proplet1"]


def test_provisioning_for_mosquitto_writes_its_files(capsys, tmp_path):
    """`--broker mosquitto` also writes the configuration, the ACL and the passwords."""
    config, data = str(tmp_path / "c.toml"), tmp_path / "d"
    status, out, _ = _run(
        capsys,
        "provision",
        "-f",
        config,
        "--data-dir",
        str(data),
        "--broker",
        "mosquitto",
        "--mqtt-port",
        "1999",
    )
    assert status == 0
    assert f"mosquitto -c {data / 'broker' / 'mosquitto.conf'}" in out
    assert "listener 1999 127.0.0.1" in (data / "broker" / "mosquitto.conf").read_text()
    assert (data / "broker" / "mosquitto.acl").is_file()
    assert (data / "broker" / "passwords").is_file()


def test_logs_are_found_by_round(capsys, tmp_path):
    """`logs --round` shows the lines about one round and no others, damaged lines included in neither."""
    (tmp_path / "logs").mkdir()
    lines = [{"event": "a", "round_id": "r1"}, {"event": "b", "round_id": "r2"}, {"event": "c"}]
    text = "\n".join(json.dumps(line) for line in lines) + "\nnot json\n"
    (tmp_path / "logs" / "manager.log").write_text(text)
    status, out, _ = _run(capsys, "logs", "manager", "--data-dir", str(tmp_path), "--round", "r1")
    assert (status, json.loads(out)["event"]) == (0, "a")
    status, out, _ = _run(capsys, "logs", "manager", "--data-dir", str(tmp_path))
    assert (status, out) == (0, text)


def test_help_imports_nothing_heavy():
    """`--help` must answer at once: no HTTP, no arrays, no web framework, no terminal toolkit."""
    code = (
        "import sys\nfrom propeller.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'aiohttp', 'numpy', 'litestar', 'rich', 'msgspec', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tasks" in done.stdout


def test_help_loads_nothing_heavy():
    """`--help` answers at once, as it imports neither numbers, nor servers, nor the runtime."""
    code = (
        "import atexit, runpy, sys\n"
        "heavy = {'numpy', 'aiohttp', 'litestar', 'wasmtime', 'amqtt', 'matplotlib'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules))))\n"
        "sys.argv = ['propeller', '--help']\n"
        "runpy.run_module('propeller', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stdout.endswith("heavy: []\n")


def test_provision_takes_its_options_on_either_side_of_add_proplets(capsys, tmp_path):
    """`provision --data-dir D add-proplets 1` means the same as with the option last."""
    config, data = str(tmp_path / "config.toml"), str(tmp_path / "d")
    assert _run(capsys, "provision", "-f", config, "--data-dir", data)[0] == 0
    for arguments in (
        ("provision", "-f", config, "--data-dir", data, "add-proplets", "1"),
        ("provision", "add-proplets", "1", "-f", config, "--data-dir", data),
    ):
        status, out, err = _run(capsys, *arguments)
        assert (status, err) == (0, "")
        assert config in out


def test_urls_come_from_the_shell_and_a_flag_wins(capsys, monkeypatch):
    """After `. ./.propeller.env` commands find a system on other ports."""
    monkeypatch.setenv("MANAGER_URL", "http://127.0.0.1:7")
    assert "http://127.0.0.1:7 " in _run(capsys, "tasks", "list")[2]
    assert NOWHERE in _run(capsys, "tasks", "list", "-m", NOWHERE)[2]


def _commands(group, path=()):
    for name, command in group.commands.items():
        yield (*path, name), command, group
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))


def test_every_option_is_explained_and_every_list_of_commands_is_whole():
    """No option of any command is bare, and no summary ends in an ellipsis on 80 columns."""
    program = typer.main.get_command(app)
    found = list(_commands(program))
    assert len(found) > 80
    bare = {
        f"{' '.join(path)} {option.opts[0]}"
        for path, command, _ in [((), program, None), *found]
        for option in command.params
        if option.param_type_name == "option" and not option.help and not option.hidden
    }
    assert bare == set()
    # On 80 columns `click` writes 78, six of them around the names.
    cut = {
        " ".join(path)
        for path, command, group in found
        if command.get_short_help_str(78 - 6 - max(map(len, group.commands))).endswith("...")
    }
    assert cut == set()
