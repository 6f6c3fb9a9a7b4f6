"""What ids look like: those that are made together lie together, and are still nobody's guess."""

import uuid
from random import Random

from propeller.core.ids import check_id, new_ordered_id


def test_later_ids_sort_behind_and_are_lawful():
    """An id of a later millisecond is greater as text, and each is a UUID of version 7."""
    random = Random(1)  # noqa: S311
    ids = [new_ordered_id(random, 1_700_000_000 + at / 1000) for at in range(200)]
    assert ids == sorted(set(ids))
    for one in ids:
        assert check_id(one, "task id") == one
        assert (uuid.UUID(one).version, uuid.UUID(one).variant) == (7, uuid.RFC_4122)


def test_ids_of_one_moment_differ():
    """Nothing but chance tells two of one millisecond apart."""
    random = Random(1)  # noqa: S311
    assert len({new_ordered_id(random, 5.0) for _ in range(1000)}) == 1000
