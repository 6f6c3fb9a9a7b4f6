"""The device's own data: every format gives the same document, and what is none says why."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from propeller.errors import BadInput, NotFound
from propeller.federation.data_store.dataset import accept, part
from propeller.proplet.data import LocalData

ROWS = [([1.0, 2.5], 0.0), ([-3.0, 4.0], 1.0), ([0.5, 0.25], 1.0)]
X = np.array([x for x, _ in ROWS])
Y = np.array([y for _, y in ROWS])


def rows_of(path):
    """What a data set's document holds, with its frame checked."""
    document = json.loads(LocalData(path).document("p-1"))
    assert (document["proplet_id"], document["size"]) == ("p-1", len(document["data"]))
    assert document["schema"] == "fl-demo-dataset-v1"
    return [(row["x"], row["y"]) for row in document["data"]]


def test_csv_takes_the_column_y_wherever_it_is(tmp_path):
    """The target is named, the other columns keep their order."""
    (tmp_path / "d.csv").write_text("a,y,b\n1,0,2.5\n-3,1,4\n\n0.5,1,0.25\n")
    assert rows_of(tmp_path) == ROWS


def test_csv_without_a_y_takes_the_last_column(tmp_path):
    """No column named y: the last is the target."""
    (tmp_path / "d.csv").write_text("\ufeffa,b,label\n1,2.5,0\n-3,4,1\n0.5,0.25,1\n", encoding="utf-8")
    assert rows_of(tmp_path / "d.csv") == ROWS


@pytest.mark.parametrize("bare", [True, False])
def test_json_is_the_document_or_its_rows(tmp_path, bare):
    """Both shapes that a data store knows."""
    rows = [{"x": x, "y": y} for x, y in ROWS]
    (tmp_path / "d.json").write_text(json.dumps(rows if bare else {"schema": "s", "data": rows, "size": 9}))
    assert rows_of(tmp_path) == ROWS


@pytest.mark.parametrize("dtype", ["<f8", "<f4"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_with_y_last(tmp_path, dtype, order, version):
    """One table in either memory order, as numpy itself writes it."""
    table = np.asarray(np.column_stack([X, Y]), dtype=dtype, order=order)
    with (tmp_path / "d.npy").open("wb") as file:
        np.lib.format.write_array(file, table, version=version)
    assert rows_of(tmp_path) == ROWS


@pytest.mark.parametrize("y_type", ["i1", "u1", "i2", "i4", "i8", "u8", "f4", "?"])
def test_npy_pair(tmp_path, y_type):
    """x.npy and y.npy, labels of any plain type."""
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y.astype(y_type))
    assert rows_of(tmp_path) == ROWS


def test_safetensors(tmp_path):
    """Tensors x and y, as the library writes them, metadata and strangers ignored."""
    tensors = {"x": X.astype("f4"), "y": Y.astype("i8").reshape(-1, 1), "other": np.zeros((2, 2, 2))}
    save_file(tensors, str(tmp_path / "d.safetensors"), metadata={"a": "b"})
    assert rows_of(tmp_path) == ROWS


def test_train_is_preferred_among_several(tmp_path):
    """A directory with parts: the one named train."""
    (tmp_path / "train.csv").write_text("a,y\n1,0\n")
    (tmp_path / "test.csv").write_text("a,y\n2,1\n")
    (tmp_path / "README").write_text("no data")
    assert rows_of(tmp_path) == [([1.0], 0.0)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("d.csv", "1,2\n3,4\n", "must name the columns"),
        ("d.csv", "a\n1\n", "at least two columns"),
        ("d.csv", "", "at least two columns"),
        ("d.csv", "a,y\n", "has no rows"),
        ("d.csv", "a,y\n1,0\n1,2,3\n", "line 3 has 3 cells"),
        ("d.csv", "a,y\n1,0\nx,1\n", "line 3, column 'a': 'x' is not a number"),
        ("d.csv", "a,y\nnan,1\n", "not finite"),
        ("d.csv", b"a,y\n\xff,1\n", "not CSV in UTF-8"),
        ("d.json", '{"rows": []}', "not a data set"),
        ("d.json", "[", "not a data set"),
        ("d.json", '[{"x":[1],"y":1},{"x":[1,2],"y":1}]', "row 2 has 2 features"),
        ("d.npy", b"PK\x03\x04 not an array", "not a .npy file"),
        ("d.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': 'O'   ", "cannot be read"),
        ("d.safetensors", b"\xff" * 20, "not a safetensors file"),
        ("d.safetensors", b"\x02\0\0\0\0\0\0\0{}", "has no tensor x and y"),
        ("d.safetensors", b"\x01\0\0\0\0\0\0\0{", "cannot be read"),
    ],
)
def test_what_is_no_data_set_says_why(tmp_path, name, content, says):
    """The message names the file and the fault."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=says) as caught:
        LocalData(tmp_path).document("p-1")
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(3), "shape"),
        (np.zeros((3, 1)), "shape"),
        (np.zeros((2, 3), dtype=">f8"), "dtype"),
        (np.zeros((2, 3), dtype="c16"), "dtype"),
        (np.zeros((0, 3)), "no rows"),
    ],
)
def test_arrays_that_are_no_table_are_refused(tmp_path, array, says):
    """Shape and type are checked, not guessed."""
    np.save(tmp_path / "d.npy", array)
    with pytest.raises(BadInput, match=says):
        LocalData(tmp_path).document("p-1")


def test_a_cut_array_is_refused(tmp_path):
    """A file shorter than its header says."""
    np.save(tmp_path / "d.npy", np.zeros((4, 4)))
    content = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(content[:-8])
    with pytest.raises(BadInput, match="bytes of data"):
        LocalData(tmp_path).document("p-1")


def test_tensors_outside_their_file_are_refused(tmp_path):
    """Offsets are held against the file."""
    header = b'{"x":{"dtype":"F32","shape":[1,1],"data_offsets":[0,400]}}'
    (tmp_path / "d.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BadInput, match="outside the file"):
        LocalData(tmp_path).document("p-1")


def test_no_data_is_not_found(tmp_path):
    """An absent path, an empty directory, a half of a pair."""
    with pytest.raises(NotFound, match="does not exist"):
        LocalData(tmp_path / "none").document("p-1")
    with pytest.raises(NotFound, match="holds no data set"):
        LocalData(tmp_path).document("p-1")
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(NotFound, match="cannot read"):
        LocalData(tmp_path).document("p-1")


def test_several_data_sets_are_not_chosen_from(tmp_path):
    """Two candidates and none named train: the device does not guess."""
    for name in ("a.csv", "b.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(BadInput, match="several data sets"):
        LocalData(tmp_path).document("p-1")


def test_a_file_of_another_kind_is_refused(tmp_path):
    """A named file must be of a readable kind."""
    (tmp_path / "d.pickle").write_bytes(b"")
    with pytest.raises(BadInput, match="none of"):
        LocalData(tmp_path / "d.pickle").document("p-1")


def test_the_parts_are_split_as_a_data_store_splits_them(tmp_path):
    """A fifth is held out; together the parts are all rows, in their order, whoever splits them."""
    rows = [{"x": [float(at)], "y": at % 2} for at in range(23)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    stored, _ = accept("p-1", json.dumps({"data": rows}).encode())
    seen = {}
    for which in ("train", "test"):
        own = json.loads(LocalData(tmp_path).document("p-1", which))
        theirs = json.loads(part(stored, which))
        seen[which] = [row["x"][0] for row in own["data"]]
        assert seen[which] == [row["x"][0] for row in theirs["data"]]
        assert own["size"] == theirs["size"] == len(seen[which])
    assert len(seen["test"]) == 4
    assert sorted(seen["train"] + seen["test"]) == [row["x"][0] for row in rows]
