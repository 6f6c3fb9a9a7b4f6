"""What the command line prints: tables and JSON of everything it is given."""

import json

import msgspec
import pytest

from propeller.cli.render import show
from propeller.roles.images import Inspected
from propeller.wire.tasks import TaskView

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
