"""Ready data sets: nothing lost, nothing known of what is held out, and files that a proplet reads."""

import json

import numpy as np
import pytest

from propeller.cli import main
from propeller.errors import BadInput
from propeller.proplet.data import LocalData
from propeller.roles.ready_data import KINDS, PARTITIONS, deal


def table(documents):
    """All rows of documents, features and label, as one array in a fixed order."""
    rows = np.array([[*row["x"], row["y"]] for one in documents for row in one["data"]])
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("by", [one for one in PARTITIONS if one != "natural"])
@pytest.mark.parametrize("name", ["breast-cancer", "digits"])
def test_parts_and_held_out_rows_are_the_whole_set(name, by):
    """Every row is in exactly one place, whatever the partition; a seed repeats it, another does not."""
    made, kind = deal(name, 7, by=by, seed=2), KINDS[name]
    assert len(made.clients) == 7
    everything = [*made.clients, made.held_out]
    rows = sum(one["size"] for one in everything)
    assert (rows, made.features) == (kind.rows, kind.features)
    assert made.held_out["size"] == round(0.2 * kind.rows)
    assert len({row["y"] for one in everything for row in one["data"]}) == kind.classes
    if name == "digits":  # scaled by a constant, so that another split has the same rows
        assert np.array_equal(table(everything), table(deal(name, 1, hold_out=0.0).clients))
    assert deal(name, 7, by=by, seed=2).clients == made.clients
    assert deal(name, 7, by=by, seed=3).clients != made.clients


def test_scaling_knows_nothing_of_the_held_out_rows():
    """Patients are standardised by those who are trained on: mean 0, deviation 1; the others are not."""
    made = deal("breast-cancer", 4)
    trained = table(made.clients)[:, :-1]
    assert np.allclose(trained.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(trained.std(axis=0), 1, atol=1e-5)
    assert not np.allclose(table([made.held_out])[:, :-1].mean(axis=0), 0, atol=1e-2)


def archive(folder, people=(1, 1, 2, 3, 3, 4)):
    """A folder as UCI's archive unpacks, of six rows in either half."""
    for shift, half in enumerate(("Train", "Test")):
        place = folder / half
        place.mkdir(parents=True)
        x = np.arange(12).reshape(6, 2) / 100 + shift
        np.savetxt(place / f"X_{half.lower()}.txt", x)
        np.savetxt(place / f"y_{half.lower()}.txt", [1, 2, 3, 1, 2, 12], fmt="%d")
        np.savetxt(place / f"subject_id_{half.lower()}.txt", [*people], fmt="%d")
    return folder


def test_a_users_own_copy_makes_a_client_of_each_person(tmp_path):
    """Labels begin at 0; whole persons are held out, so that the model is tried on strangers."""
    made = deal("hapt", 1, by="natural", hold_out=0.25, folder=archive(tmp_path))
    assert sorted(one["size"] for one in [*made.clients, made.held_out]) == [2, 2, 4, 4]
    assert {row["y"] for one in [*made.clients, made.held_out] for row in one["data"]} == {0, 1, 2, 11}
    (tmp_path / "Test" / "y_test.txt").write_text("1\n2\n")
    with pytest.raises(BadInput, match="differ in length"):
        deal("hapt", 1, by="natural", folder=tmp_path)
    (tmp_path / "Train" / "X_train.txt").write_text("one two\n")
    with pytest.raises(BadInput, match=r"cannot read .*X_train\.txt"):
        deal("hapt", 1, folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nobody", 3), "no data set"),
        (("hapt", 3), "--from"),
        (("digits", 0), "cannot be split"),
        (("digits", 3, "natural"), "who each row is from"),
        (("digits", 3, "fair"), "no partition"),
    ],
)
def test_what_cannot_be_dealt_is_refused(arguments, says):
    """With a sentence that names what to change."""
    name, clients, *by = arguments
    with pytest.raises(BadInput, match=says):
        deal(name, clients, by=by[0] if by else "iid")


def test_the_command_writes_what_a_proplet_reads(tmp_path, capsys):
    """A directory for each client, as `proplet --data` takes it; the rows held out lie beside them."""
    asked = ["data", "partition", "digits", "--clients", "3", "--by", "dirichlet", "-o", "json"]
    with pytest.raises(SystemExit) as end:
        main([*asked, "--out", str(tmp_path)])
    assert end.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["client"] for one in told] == ["client-01", "client-02", "client-03", "held-out"]
    for one in told[:3]:
        read = json.loads(LocalData(tmp_path / one["client"]).document("p"))
        assert (read["size"], len(read["data"][0]["x"])) == (one["rows"], 64)
    assert json.loads((tmp_path / "held-out.json").read_text())["size"] == told[3]["rows"] == 359
