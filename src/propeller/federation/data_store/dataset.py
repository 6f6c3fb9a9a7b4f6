"""Data sets as JSON documents: reading a posted one, splitting one, making a synthetic one. No I/O.

All functions take and give bytes, so that a large data set can be handled in another process. They must not
know who asks, nor where documents are kept.
"""

from typing import Final

import msgspec

from propeller import limits
from propeller.errors import BadInput, StorageBroken
from propeller.fl.split import Part, held_out
from propeller.wire import codec

DEFAULT_SCHEMA: Final = "fl-demo-dataset-v1"
SCHEMA_CHARS_MAX: Final = 256

_FEATURE_STEPS: Final = 10
_SEED_PERIOD: Final = 1000
_FLOAT_MAX: Final = 1.7976931348623157e308
"""Largest float64: an integer beyond it is a lawful JSON number that no trainer can read."""


class Row(msgspec.Struct, frozen=True):
    """One example: features and label. Integers stay integers, as they were posted."""

    x: list[int | float]
    y: int | float


class _Posted(msgspec.Struct, kw_only=True):
    data: list[Row]
    schema: str = ""
    synthetic: bool = False


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A stored document. `synthetic` is present, and true, only on data that no device measured."""

    schema: str
    proplet_id: str
    entity_id: str
    data: list[Row]
    size: int
    part: Part | msgspec.UnsetType = msgspec.UNSET
    synthetic: bool | msgspec.UnsetType = msgspec.UNSET


def accept(proplet_id: str, body: bytes) -> tuple[bytes, int]:
    """The document to store for a posted `body`, and its number of rows.

    `schema` gets its default; ids and size are set here, whatever the body says. Raises `BadInput` naming the
    row that lacks x or y, holds anything but finite numbers, or differs in length from row 0.
    """
    posted = codec.decode(
        _Posted, body, what="the data set", limit_bytes=limits.HTTP_BODY_BYTES_MAX, strict=True
    )
    if len(posted.schema) > SCHEMA_CHARS_MAX:
        raise BadInput(
            f"schema has {len(posted.schema)} characters; at most {SCHEMA_CHARS_MAX}", code="bad_dataset"
        )
    _check_rows(posted.data)
    document = _document(
        proplet_id, posted.data, schema=posted.schema or DEFAULT_SCHEMA, synthetic=posted.synthetic
    )
    return codec.encode(document), document.size


def part(document: bytes, which: Part) -> bytes:
    """The rows of a stored `document` that belong to `which`, in their order, as a document of its own.

    The test part is the floor of `limits.DATASET_TEST_SHARE` of the rows: those whose hash of proplet id and
    row index is lowest. The same data set is always split alike, and the two parts together are all of it.
    """
    whole = _stored(document)
    chosen = held_out(whole.proplet_id, len(whole.data))
    rows = [row for index, row in enumerate(whole.data) if (index in chosen) == (which == "test")]
    return codec.encode(msgspec.structs.replace(whole, data=rows, size=len(rows), part=which))


def synthetic(proplet_id: str) -> bytes:
    """The made-up data set of the published demo: 64 rows of three features in [0, 1), y in {0, 1}.

    The original's formula, with a remainder that is never negative: h folds the id's characters by
    h·31 + code in 64-bit two's complement; row i has s = (h + i) mod 1000, x_k = (k·s mod 10) / 10 for
    k = 1, 2, 3, and y = s mod 2.
    """
    start = _fold(proplet_id)
    rows = [_synthetic_row((start + index) % _SEED_PERIOD) for index in range(limits.DATASET_SEED_ROWS)]
    return codec.encode(_document(proplet_id, rows, schema=DEFAULT_SCHEMA, synthetic=True))


def _check_rows(rows: list[Row]) -> None:
    if not rows:
        raise BadInput("the data set has no rows; send at least one in `data`", code="bad_dataset")
    width = len(rows[0].x)
    if not width:
        raise BadInput("data[0].x is empty; a row needs at least one feature", code="bad_dataset")
    for index, row in enumerate(rows):
        if len(row.x) != width:
            raise BadInput(
                f"data[{index}].x has {len(row.x)} features, but data[0].x has {width}; "
                "give every row the same number",
                code="bad_dataset",
            )
        if max(*row.x, row.y) > _FLOAT_MAX or min(*row.x, row.y) < -_FLOAT_MAX:
            raise BadInput(f"data[{index}] holds a number beyond float64", code="bad_dataset")


def _document(proplet_id: str, rows: list[Row], *, schema: str, synthetic: bool) -> Dataset:
    return Dataset(
        schema=schema,
        proplet_id=proplet_id,
        entity_id=proplet_id,
        data=rows,
        size=len(rows),
        synthetic=True if synthetic else msgspec.UNSET,
    )


def _stored(document: bytes) -> Dataset:
    try:
        return msgspec.json.decode(document, type=Dataset)
    except msgspec.DecodeError as error:
        raise StorageBroken(f"a stored data set cannot be read: {error}; post it again") from error


def _fold(text: str) -> int:
    folded = 0
    for character in text:
        folded = (folded * 31 + ord(character)) & ((1 << 64) - 1)
    return folded - (1 << 64) if folded >> 63 else folded


def _synthetic_row(step: int) -> Row:
    features: list[int | float] = [(k * step) % _FEATURE_STEPS / _FEATURE_STEPS for k in (1, 2, 3)]
    return Row(x=features, y=step % 2)
