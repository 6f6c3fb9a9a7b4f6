"""Data sets as documents: what is accepted, how they are split, how a synthetic one is made."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propeller.errors import BadInput, DecodeError, StorageBroken
from propeller.federation.data_store import dataset

ROWS = [{"x": [1, 2.5], "y": 1}, {"x": [0.1, -3], "y": 0}]
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)


def accepted(**body):
    """The decoded document for a posted body, and its size."""
    document, size = dataset.accept("p1", json.dumps(body).encode())
    return json.loads(document), size


def test_document_has_the_documented_fields():
    """Numbers stay as posted; ids and size are the store's own."""
    document, size = accepted(data=ROWS, schema="mine", proplet_id="someone-else", size=99)
    assert size == 2
    assert document == {"schema": "mine", "proplet_id": "p1", "entity_id": "p1", "data": ROWS, "size": 2}


@pytest.mark.parametrize("more", [{}, {"schema": ""}])
def test_schema_has_a_default(more):
    """The original's name for its own form."""
    assert accepted(data=ROWS, **more)[0]["schema"] == "fl-demo-dataset-v1"


def test_synthetic_stays_marked_when_posted_back():
    """Made-up data do not become real by a copy."""
    document, _ = dataset.accept("p2", dataset.synthetic("p1"))
    assert json.loads(document)["synthetic"] is True
    assert "synthetic" not in accepted(data=ROWS)[0]


BAD = {
    "not JSON": (b"{", "not valid"),
    "no data": ({}, "data"),
    "data null": ({"data": None}, "data"),
    "no rows": ({"data": []}, "no rows"),
    "x empty": ({"data": [{"x": [], "y": 0}]}, r"data\[0\].x is empty"),
    "x missing": ({"data": [ROWS[0], {"y": 0}]}, r"data\[1\]"),
    "y missing": ({"data": [ROWS[0], {"x": [1, 2]}]}, r"data\[1\]"),
    "ragged": ({"data": [ROWS[0], {"x": [1], "y": 0}]}, r"data\[1\].x has 1 features"),
    "text in x": ({"data": [ROWS[0], {"x": [1, "2"], "y": 0}]}, r"data\[1\].x\[1\]"),
    "boolean y": ({"data": [{"x": [1], "y": True}]}, r"data\[0\].y"),
    "null y": ({"data": [ROWS[0], {"x": [1, 2], "y": None}]}, r"data\[1\].y"),
    "NaN": (b'{"data":[{"x":[NaN],"y":0}]}', "not valid"),
    "infinite": (b'{"data":[{"x":[1e999],"y":0}]}', r"data\[0\].x\[0\]"),
    "integer beyond float64": ({"data": [{"x": [10**400], "y": 0}]}, r"data\[0\] holds a number"),
    "y beyond float64": ({"data": [{"x": [1], "y": -(10**400)}]}, r"data\[0\] holds a number"),
    "long schema": ({"data": ROWS, "schema": "s" * 300}, "schema has 300"),
}


@pytest.mark.parametrize(("body", "says"), BAD.values(), ids=BAD.keys())
def test_bad_body_is_refused_naming_the_row(body, says):
    """A caller with a million rows learns which one is wrong."""
    with pytest.raises((BadInput, DecodeError), match=says):
        dataset.accept("p1", body if isinstance(body, bytes) else json.dumps(body).encode())


def test_parts_are_disjoint_together_whole_and_a_fifth():
    """64 rows: 12 for testing, 52 for training, in their order."""
    document, _ = dataset.accept(
        "p1", json.dumps({"data": [{"x": [i], "y": i % 2} for i in range(64)]}).encode()
    )
    train = json.loads(dataset.part(document, "train"))
    test = json.loads(dataset.part(document, "test"))
    firsts = [[row["x"][0] for row in one["data"]] for one in (train, test)]
    assert (train["size"], test["size"]) == (52, 12)
    assert (train["part"], test["part"]) == ("train", "test")
    assert sorted(firsts[0] + firsts[1]) == list(range(64))
    assert all(one == sorted(one) for one in firsts)


def test_split_is_the_same_every_time_and_differs_between_proplets():
    """It depends on the id and the row's index, on nothing else."""
    body = json.dumps({"data": [{"x": [i], "y": 0} for i in range(100)]}).encode()
    one, other = (dataset.accept(who, body)[0] for who in ("p1", "p2"))
    assert dataset.part(one, "test") == dataset.part(one, "test")
    assert json.loads(dataset.part(one, "test"))["data"] != json.loads(dataset.part(other, "test"))["data"]


def test_split_is_pinned():
    """The rows of a released split may not move: evaluation on a device would leak into training."""
    rows = json.loads(dataset.part(dataset.synthetic("proplet-1"), "test"))["data"]
    assert [row["x"][0] for row in rows] == [0.0, 0.8, 0.1, 0.2, 0.4, 0.5, 0.7, 0.9, 0.2, 0.5, 0.7, 0.6]


def test_synthetic_by_hand():
    """'a' is 97: row 0 has s = 97, so x = (.7, .4, .1) and y = 1; row 3 has s = 100: zeros."""
    made = json.loads(dataset.synthetic("a"))
    assert made["data"][0] == {"x": [0.7, 0.4, 0.1], "y": 1}
    assert made["data"][3] == {"x": [0.0, 0.0, 0.0], "y": 0}
    assert made["size"] == len(made["data"]) == 64
    assert made["synthetic"] is True


@given(ids)
def test_synthetic_is_lawful_for_every_id(proplet_id):
    """Also where the 64-bit hash is negative, which gave the original labels of minus one."""
    made = json.loads(dataset.synthetic(proplet_id))
    assert {row["y"] for row in made["data"]} == {0, 1}
    assert all(0 <= value < 1 for row in made["data"] for value in row["x"])
    again, size = dataset.accept(proplet_id, dataset.synthetic(proplet_id))
    assert (json.loads(again), size) == (made, 64)


numbers = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**60), 2**60))


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.tuples(st.lists(numbers, min_size=n, max_size=n), numbers), min_size=1)
    )
)
def test_any_lawful_rows_come_back_exactly(rows):
    """What a device stored is what its trainer reads."""
    posted = [{"x": x, "y": y} for x, y in rows]
    document, size = accepted(data=posted)
    assert size == len(rows)
    assert document["data"] == posted
    assert all(math.isfinite(value) for row in document["data"] for value in row["x"])


def test_document_that_the_disk_changed_is_storage_broken():
    """Bad bytes of our own are no fault of the reader."""
    with pytest.raises(StorageBroken, match="cannot be read"):
        dataset.part(b"{}", "train")
