"""The device's own data set, read from files into the data-store document. Sends nothing anywhere.

A data set is rows of numbers `x` with one number `y` each. It may be
  `NAME.csv`          a header line; `y` is the column named `y`, else the last;
  `NAME.json`         the data-store document, or just its list of rows: `[{"x": […], "y": n}, …]`;
  `NAME.safetensors`  tensors `x` (2-D) and `y` (1-D);
  `NAME.npy`          a 2-D array whose last column is `y`; or `x.npy` (2-D) with `y.npy` (1-D).
A directory must hold exactly one of these, or one named `train`. Arrays are read without numpy, which the
proplet's process must not load (`arrays.py`).
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from propeller.errors import BadInput, NotFound
from propeller.fl.split import Part, held_out
from propeller.proplet.arrays import Array, read_npy, read_safetensors

SCHEMA = "fl-demo-dataset-v1"
_SUFFIXES = (".csv", ".json", ".safetensors", ".npy")


class Row(msgspec.Struct, frozen=True):
    """One example."""

    x: list[float]
    y: float


class _Document(msgspec.Struct, frozen=True):
    data: list[Row]
    proplet_id: str = ""
    schema: str = SCHEMA


class OwnData(Protocol):
    """A device's data set, wherever it keeps it."""

    def document(self, proplet_id: str, part: Part | None = None) -> bytes:
        """The data-store document as JSON, or its part. Blocks. Raises `NotFound` or `BadInput`."""
        ...


def as_document(proplet_id: str, rows: Sequence[Row], part: Part | None) -> bytes:
    """The data-store document of these rows, or of a part, split as a data store splits it."""
    chosen = list(rows)
    if part is not None:
        test = held_out(proplet_id, len(rows))
        chosen = [row for index, row in enumerate(rows) if (index in test) == (part == "test")]
    return msgspec.json.encode(
        {
            "schema": SCHEMA,
            "proplet_id": proplet_id,
            "entity_id": proplet_id,
            "data": chosen,
            "size": len(chosen),
        }
    )


class LocalData:
    """A data set on this device. `path` is a file or a directory; it is read anew for every task."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def document(self, proplet_id: str, part: Part | None = None) -> bytes:
        """See `OwnData`."""
        try:
            path = self._find()
            rows = _READERS[path.suffix.lower()](path)
        except OSError as error:
            raise NotFound(f"cannot read the data set {self._path}: {error.strerror or error}") from error
        if not rows:
            raise BadInput(f"{path} has no rows")
        _check(rows, path)
        return as_document(proplet_id, rows, part)

    def _find(self) -> Path:
        """The one file that is the data set."""
        if not self._path.exists():
            raise NotFound(f"the data set {self._path} does not exist")
        if self._path.is_file():
            if self._path.suffix.lower() in _SUFFIXES:
                return self._path
            raise BadInput(f"{self._path} is none of {', '.join(_SUFFIXES)}")
        found = sorted(item for item in self._path.iterdir() if item.suffix.lower() in _SUFFIXES)
        if [item.name for item in found] == ["x.npy", "y.npy"]:
            return found[0]
        chosen = [item for item in found if item.stem == "train"] if len(found) > 1 else found
        if len(chosen) == 1:
            return chosen[0]
        if not found:
            raise NotFound(f"{self._path} holds no data set: no file {', '.join('*' + s for s in _SUFFIXES)}")
        names = ", ".join(item.name for item in found[:5])
        raise BadInput(f"{self._path} holds several data sets ({names}); keep one, or name one `train`")


def _read_csv(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            lines = csv.reader(file, strict=True)
            header = [name.strip() for name in next(lines, [])]
            target = _target(header, path)
            return [
                _csv_row(cells, header, target, f"{path}, line {lines.line_num}") for cells in lines if cells
            ]
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadInput(f"{path} is not CSV in UTF-8: {error}") from error


def _target(header: Sequence[str], path: Path) -> int:
    """The index of the column that is `y`."""
    if len(header) < 2:  # noqa: PLR2004 - one column for x, one for y
        raise BadInput(f"{path} needs a header line with at least two columns, x and y")
    if all(_is_number(name) for name in header):
        raise BadInput(f"{path} begins with numbers; its first line must name the columns")
    return header.index("y") if "y" in header else len(header) - 1


def _csv_row(cells: Sequence[str], header: Sequence[str], target: int, where: str) -> Row:
    if len(cells) != len(header):
        raise BadInput(f"{where} has {len(cells)} cells, the header has {len(header)}")
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        bad = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        raise BadInput(f"{where}, column {header[bad]!r}: {cells[bad][:40]!r} is not a number") from None
    y = values.pop(target)
    return Row(values, y)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_json(path: Path) -> list[Row]:
    try:
        read = msgspec.json.decode(path.read_bytes(), type=_Document | list[Row])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not a data set (`data`: rows of `x` and `y`): {error}") from error
    return read.data if isinstance(read, _Document) else read


def _read_safetensors(path: Path) -> list[Row]:
    tensors = read_safetensors(path)
    missing = [name for name in ("x", "y") if name not in tensors]
    if missing:
        names = ", ".join(sorted(tensors)[:10]) or "none"
        raise BadInput(f"{path} has no tensor {' and '.join(missing)} (it has: {names})")
    return _rows(tensors["x"], tensors["y"], path)


def _read_npy(path: Path) -> list[Row]:
    array = read_npy(path)
    if path.name == "x.npy":
        return _rows(array, read_npy(path.with_name("y.npy")), path)
    if len(array.shape) != 2 or array.shape[1] < 2:  # noqa: PLR2004 - rows of x and y
        raise BadInput(f"{path} has shape {array.shape}; it needs rows of at least one x and, last, y")
    return [Row(row[:-1], row[-1]) for row in array.rows()]


def _rows(x: Array, y: Array, path: Path) -> list[Row]:
    if len(x.shape) != 2 or y.shape not in {(x.shape[0],), (x.shape[0], 1)}:  # noqa: PLR2004 - a table
        raise BadInput(f"{path}: x has shape {x.shape} and y {y.shape}; they need (n, features) and (n,)")
    return [Row(row, value) for row, value in zip(x.rows(), y.values(), strict=True)]


def _check(rows: Sequence[Row], path: Path) -> None:
    """Every row as wide as the first, every number finite."""
    width = len(rows[0].x)
    for number, row in enumerate(rows, 1):
        if len(row.x) != width:
            raise BadInput(f"{path}, row {number} has {len(row.x)} features, row 1 has {width}")
        if not (math.isfinite(row.y) and all(map(math.isfinite, row.x))):
            raise BadInput(f"{path}, row {number} holds a number that is not finite")


_READERS = {".csv": _read_csv, ".json": _read_json, ".safetensors": _read_safetensors, ".npy": _read_npy}
