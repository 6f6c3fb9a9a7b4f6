"""What the command line prints: tables and JSON of everything it is given."""

import io
import json

import msgspec
import pytest
from rich.console import Console

from propeller.cli.render import rendered, show
from propeller.roles.images import Inspected
from propeller.wire.tasks import AttemptView, PropletPage, PropletView, ServiceView, TaskPage, TaskView

RESULTS = {"loss": 0.5, "lines": ["a", "b"]}
TASK = TaskView(
    id="t1",
    name="train",
    state=4,
    error="[Errno 2] not found [/fl] :smile:",
    results=msgspec.Raw(json.dumps(RESULTS).encode()),
)


def test_a_task_with_results_is_a_table(capsys):
    """Results, which are a document inside the view, are shown; brackets in an error are only brackets."""
    show(TASK, as_json=False)
    shown = capsys.readouterr().out
    assert '"loss": 0.5' in shown
    assert "[Errno 2] not found [/fl] :smile:" in shown
    assert "Failed" in shown


def test_a_task_with_results_is_json(capsys):
    """The same for programs: one document, the results a part of it and not a text."""
    show(TASK, as_json=True)
    assert json.loads(capsys.readouterr().out)["results"] == RESULTS


@pytest.mark.parametrize("as_json", [False, True])
def test_an_image_shows_its_manifest(capsys, as_json):
    """A manifest as the registry sent it is part of what is shown."""
    image = Inspected(
        reference="localhost:5000/a:b",
        digest="sha256:0",
        media_type="application/vnd.oci.image.manifest.v1+json",
        manifest=msgspec.Raw(b'{"schemaVersion":2}'),
    )
    show(image, as_json=as_json)
    assert "schemaVersion" in capsys.readouterr().out


def test_a_service_is_shown_with_its_replicas(capsys):
    """How many of how many run, of which revision, how the last rollout went, and a line for each replica."""
    replica = AttemptView(task_id="w.replica-1", revision=3, attempt=2, proplet_id="p", state="running")
    service = ServiceView(
        wanted=2,
        ready=1,
        updated=1,
        revision=3,
        phase="rolling_back",
        outcome="rolled_back",
        why="it trapped",
    )
    task = msgspec.structs.replace(TASK, state=2, service=service, attempts=[replica])
    show(task, as_json=False)
    show(TaskPage(offset=0, limit=1, total=1, tasks=[task]), as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    for line in ("ready 1 of 2", "revision 3, on 1 of 1", "rolling_back (rolled_back)", "why it trapped"):
        assert line in shown
    assert "REPLICA REVISION ATTEMPT STATE PROPLET SAYS w.replica-1 3 2 running p" in shown
    assert "Running 1/2" in shown


LONG_ID = "11111111-2222-4333-8444-555555555555"
PAGE = TaskPage(
    offset=0,
    limit=10,
    total=1,
    tasks=[
        TaskView(
            id=LONG_ID, name="fail", state=4, proplet_id=LONG_ID[::-1], error="the guest exited with status 3"
        )
    ],
)


def seen(value, width: int) -> list[str]:
    """The lines that a terminal of so many columns shows."""
    stream = io.StringIO()
    Console(file=stream, width=width).print(rendered(value))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 130])
def test_a_list_shows_all_on_a_terminal_of_any_width(width):
    """What has no room beside its row stands below it: ids can be copied, and no word is lost."""
    lines = seen(PAGE, width)
    assert max(map(len, lines)) <= width
    assert any(line.startswith(LONG_ID) for line in lines)
    for word in ("fail", "Failed", LONG_ID[::-1], "the guest exited with status 3"):
        assert word in "\n".join(lines)


def test_a_list_of_proplets_shows_names_and_labels_on_80_columns():
    """Ids, states, moments and labels are in one piece; a proplet without labels has no line about them."""
    bare = PropletView(id=LONG_ID, name="quiet-otter", alive=True, last_alive_at="2026-11-22T23:04:26Z")
    named = msgspec.structs.replace(bare, id=LONG_ID[::-1], labels={"zone": "north", "disk": "ssd"})
    lines = seen(PropletPage(offset=0, limit=10, total=2, proplets=[bare, named]), 80)
    assert lines[1].startswith(f"{LONG_ID}  quiet-otter  ")
    assert lines[2] == "  LAST HEARTBEAT 2026-11-22 23:04:26"
    assert lines[4] == "  LAST HEARTBEAT 2026-11-22 23:04:26  LABELS zone=north, disk=ssd"


def test_short_words_stay_in_their_columns():
    """The widest go below a row, wherever they stand, so that states are read down a column."""
    long = msgspec.structs.replace(TASK, id=LONG_ID, name=f"fl-round-3-{LONG_ID}", error="")
    lines = seen(TaskPage(offset=0, limit=1, total=1, tasks=[long]), 80)
    assert lines[0].split() == ["ID", "STATE", "PROPLET", "SAYS"]
    assert lines[1].split() == [LONG_ID, "Failed"]
    assert lines[2] == f"  NAME fl-round-3-{LONG_ID}"


def test_what_fits_nowhere_is_folded():
    """A name that is longer than the terminal, and a text below a row, go on on the next line."""
    task = msgspec.structs.replace(TASK, id="#" * 100, error="word " * 30)
    lines = seen(TaskPage(offset=0, limit=1, total=1, tasks=[task]), 80)
    assert max(map(len, lines)) <= 80
    shown = "".join(lines)
    assert shown.count("#") == 100
    assert shown.count("word") == 30


def test_a_list_in_a_pipe_is_whole_and_has_no_trailing_blanks(capsys):
    """A program that reads a table finds every word of a row on its line."""
    long = "the guest said " + "word " * 1000 + "and exited with status 3"
    task = msgspec.structs.replace(PAGE.tasks[0], error=long.replace("word and", "word\nand"))
    show(msgspec.structs.replace(PAGE, tasks=[task]), as_json=False)
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[0] == LONG_ID
    assert LONG_ID[::-1] in line
    assert line.endswith(long)
