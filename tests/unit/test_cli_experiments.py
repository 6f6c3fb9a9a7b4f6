"""Experiments on the command line: files, numbers and drawings, without a system."""

import pytest

from propeller.cli import render, tables_of_training
from propeller.cli.experiment_numbers import _csv, _points
from propeller.cli.experiments import _models, experiment_in
from propeller.errors import BadInput, NotFound
from propeller.wire.experiments import MetricRow


def row(number, mode="train", version=None, **metrics):
    """One round in numbers."""
    return MetricRow(
        round_id=f"e-{number}" + ("-eval" if mode == "evaluate" else ""),
        number=number,
        mode=mode,
        state="completed",
        model_version=version,
        metrics=metrics,
        num_updates=3,
        samples=30,
        bytes=600,
        seconds=0.5,
    )


ROWS = [
    row(1, version=1, loss=0.7),
    row(1, "evaluate", loss=0.6, accuracy=0.5),
    row(2, version=2, loss=0.5),
    row(2, "evaluate", loss=0.4, accuracy=0.75),
]


def test_a_file_says_all_that_a_request_can():
    """Tables become the nested objects of the request."""
    body = experiment_in(
        b"""rounds = 3
        experiment_id = "e"
        selector = {clients = 2, labels = {site = "a"}}
        [stop]
        metric = "loss"
        patience = 2
        [strategy]
        name = "fedprox"
        options = {mu = 0.1}""",
        "e.toml",
    )
    assert (body.rounds, body.selector.clients, body.selector.labels) == (3, 2, {"site": "a"})
    assert (body.stop.patience, body.strategy.options) == (2, {"mu": 0.1})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"rounds = ", "not TOML"),
        (b"\xff", "not TOML"),
        (b"round = 3", "no experiment has a field 'round'"),
        (b"rounds = 'three'", "rounds"),
        (b"selector = {clients = -1}", "clients"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(text, says):
    """One line that says which file and which field."""
    with pytest.raises(BadInput, match=says) as caught:
        experiment_in(text, "wrong.toml")
    assert "wrong.toml" in caught.value.message


def test_a_metric_is_drawn_from_evaluations_where_they_have_it(capsys):
    """Else from the training; bars are as long as values are great."""
    assert _points(ROWS, "loss") == ("loss", [(1, 0.6), (2, 0.4)])
    assert _points(ROWS[::2], "") == ("loss", [(1, 0.7), (2, 0.5)])
    for rows, metric in ((ROWS, "unknown"), ([], "")):
        with pytest.raises(NotFound):
            _points(rows, metric)
    render.show(tables_of_training.Bars(metric="loss", points=[(1, 0.6), (2, 0.3), (3, 0.0)]), as_json=False)
    lengths = [line.count("█") for line in capsys.readouterr().out.splitlines()]
    assert lengths == [0, tables_of_training.BAR_CHARS, tables_of_training.BAR_CHARS // 2, 0]


def test_numbers_go_to_other_programs():
    """A row for each round, a column for each metric; a version with what was measured of it."""
    header, first, *_ = _csv(ROWS).splitlines()
    assert header.endswith("bytes,seconds,accuracy,loss")
    assert first == "1,e-1,train,completed,1,3,30,600,0.5,,0.7"
    assert _models(ROWS)[1] == {
        "version": 2,
        "round": "e-2",
        "trained": {"loss": 0.5},
        "evaluated": {"loss": 0.4, "accuracy": 0.75},
    }
