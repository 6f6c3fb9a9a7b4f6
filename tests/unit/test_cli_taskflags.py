"""Tasks as they are described on the command line and in files."""

import base64
import inspect
import json

import pytest

from propeller.cli import tasks
from propeller.cli.taskflags import TaskFlags, condition, described, preference, task_bodies
from propeller.errors import BadInput
from propeller.wire.tasks import TaskBody

MODULE = b"\0asm\1\0\0\0"


def test_options_become_the_fields_of_a_request():
    """Each option has its effect; what was not given stays out."""
    body = TaskFlags(
        inputs="1, 2", cli_args='["a,b", "c"]', env=["A=1=2"], metadata=['{"n": 1}'], wall_s=3.0,
        constraint=["labels.zone not in north,south", "tags exists"], affinity=["-2.5: cpu_arch=arm64"],
        restart="2", reschedule="attempts=1,delay_s=0.5", disconnect="60,replace=false",
        schedule="* * * * *", is_recurring=True, replicas=0, rollout="2,healthy_s=1",
        scale="max=3,on=cpu,target=50",
    ).body("add", task_id="t")  # fmt: skip
    assert (body.name, body.id, body.inputs, body.cli_args) == ("add", "t", ["1", "2"], ["a,b", "c"])
    assert (body.env, body.metadata, body.limits.wall_s) == ({"A": "1=2"}, {"n": 1}, 3.0)
    assert [(one.attribute, one.operator, one.value) for one in body.constraints] == [
        ("labels.zone", "not in", "north,south"),
        ("tags", "exists", ""),
    ]
    assert [(one.attribute, one.value, one.weight) for one in body.affinities] == [
        ("cpu_arch", "arm64", -2.5)
    ]
    assert (body.restart.attempts, body.reschedule.delay_s) == (2, 0.5)
    assert (body.disconnect.lost_after_s, body.disconnect.replace) == (60, False)
    assert (body.replicas, body.rollout.surge, body.rollout.healthy_s) == (0, 2, 1)
    assert (body.scale.max, body.scale.on, body.scale.target) == (3, "cpu", 50)
    assert (body.schedule, body.is_recurring, body.daemon) == ("* * * * *", True, None)


def test_a_description_names_modules_by_path_and_options_win(tmp_path):
    """A path is seen from where the description lies; what the line says goes over what the file says."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.wasm").write_bytes(MODULE)
    text = 'name = "x"\nfile = "m/x.wasm"\npriority = 7\n[limits]\nwall_s = 5\ncpu_s = 4\n'
    (tmp_path / "task.toml").write_text(text)
    body = TaskFlags(definition=tmp_path / "task.toml", wall_s=9.0).body()
    assert base64.b64decode(body.file) == MODULE
    assert (body.name, body.priority, body.limits.wall_s, body.limits.cpu_s) == ("x", 7, 9.0, 4)
    several = [{"name": "a", "file": "m/x.wasm"}, {"name": "b", "image_url": "r/x:1"}]
    (tmp_path / "tasks.json").write_text(json.dumps(several))
    bodies = task_bodies(described(tmp_path / "tasks.json", bare=True)["tasks"], "tasks.json")
    assert [(one.name, bool(one.file)) for one in bodies] == [("a", True), ("b", False)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('nmae = "x"', "unknown field 'nmae'"),
        ("[limits]\nwall = 1", "limits: unknown field 'wall'"),
        ("[[constraints]]\nattribut = 1", "constraints: unknown field 'attribut'"),
        ("name = 5", r"Expected `str`, got `int` - at `\$.name`"),
        ("name =", "is not TOML"),
        ('name = "x"\nfile = "no.wasm"', "cannot read"),
    ],
)
def test_a_wrong_description_is_refused_by_name(tmp_path, text, says):
    """A misspelt field would have no effect: it is named, and the file with it."""
    (tmp_path / "task.toml").write_text(text)
    with pytest.raises(BadInput, match=says) as caught:
        TaskFlags(definition=tmp_path / "task.toml").body()
    assert "task.toml" in caught.value.message or "no.wasm" in caught.value.message


def test_conditions_are_read_with_and_without_blanks():
    """Every operator of the wire, longest first."""
    for text, parts in {
        "a=1": ("a", "=", "1"), "a != b c": ("a", "!=", "b c"), "a<=1": ("a", "<=", "1"),
        "labels.x-y in p, q": ("labels.x-y", "in", "p, q"), "index = 1": ("index", "=", "1"),
    }.items():  # fmt: skip
        assert tuple(condition(text, "--constraint").values()) == parts
    assert preference("a=1") == {"attribute": "a", "operator": "=", "value": "1"}


def test_every_option_of_a_task_is_on_every_command_that_describes_one():
    """And each of them is a field of the request, or part of one."""
    for command in (tasks.create, tasks.run, tasks.update):
        assert set(TaskFlags.__slots__) <= set(inspect.signature(command).parameters)
    fields = set(TaskBody.__struct_fields__)
    spelt = {"definition", "constraint", "affinity", "wall_s", "cpu_s", "memory_bytes"}
    assert set(TaskFlags.__slots__) - spelt <= fields
