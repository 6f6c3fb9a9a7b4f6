"""Which rows of a data set are held out for evaluation. Pure, without numpy: devices use it too.

The same data set is always split alike, whoever splits it and for whichever experiment: rows that one
experiment was evaluated on must not be trained on by the next.
"""

import hashlib
from typing import Literal

from propeller import limits

Part = Literal["train", "test"]


def held_out(owner: str, rows: int) -> set[int]:
    """The indices of the test part: the floor of `limits.DATASET_TEST_SHARE` of `rows`.

    Those whose SHA-256 of `owner` and index is lowest.
    """

    def lot(index: int) -> bytes:
        return hashlib.sha256(f"{owner}:{index}".encode()).digest()

    return set(sorted(range(rows), key=lot)[: int(rows * limits.DATASET_TEST_SHARE)])
