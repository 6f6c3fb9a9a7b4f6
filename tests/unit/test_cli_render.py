"""What the command line prints: tables and JSON of everything it is given."""

import io
import json

import msgspec
import pytest
from rich.console import Console

from propeller.cli.render import rendered, show
from propeller.cli.tables import columns
from propeller.roles.images import Inspected
from propeller.wire.tasks import AttemptView, ServiceView, TaskPage, TaskView

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


def test_a_list_fits_a_narrow_terminal_and_its_ids_can_be_copied():
    """In a hundred columns the text gives way and the proplet is cut, never what one types next."""
    stream = io.StringIO()
    Console(file=stream, width=100).print(rendered(PAGE))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].startswith(LONG_ID)
    assert LONG_ID[::-1] not in stream.getvalue()


def test_a_list_of_proplets_can_be_read_on_80_columns():
    """Ids, states, counts and moments are whole words there; names and labels give way."""
    stream = io.StringIO()
    names = ("ID", "NAME", "STATE", "TASKS", "LAST HEARTBEAT", "LABELS")
    row = (LONG_ID, "wise-raven", "cordoned", "0/1", "2026-11-22 23:04:26", "zone=north")
    Console(file=stream, width=80).print(columns(names, [row]))
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    for word in (LONG_ID, "cordoned", "TASKS", "0/1", "2026-11-22", "23:04:26"):
        assert word in shown


def test_a_list_in_a_pipe_is_whole_and_has_no_trailing_blanks(capsys):
    """A program that reads a table finds every word of a row on its line."""
    show(PAGE, as_json=False)
    line = capsys.readouterr().out.splitlines()[1]
    assert LONG_ID in line
    assert LONG_ID[::-1] in line
    assert line.endswith("the guest exited with status 3")
