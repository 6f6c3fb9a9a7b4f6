"""What agent and worker say to each other: it arrives as sent, and nonsense is only `DecodeError`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propeller import limits
from propeller.errors import DecodeError
from propeller.ports import GuestDone, GuestFailed, GuestJob
from propeller.runtime import messages

TEXTS = st.dictionaries(st.text(), st.text(), max_size=3)
JOBS = st.builds(
    GuestJob,
    module=st.just(b""),
    digest=st.text(),
    name=st.text(),
    args=st.tuples(st.text()),
    inputs=st.tuples(st.text()),
    env=TEXTS,
    host_strings=TEXTS,
)
ANSWERS = st.one_of(
    st.builds(messages.Ready),
    st.builds(messages.Loading),
    st.builds(messages.NeedModule),
    st.builds(messages.Started),
    st.builds(
        messages.Finished,
        done=st.builds(GuestDone, stdout=st.text(), stderr=st.text(), result=st.none() | st.binary()),
    ),
    st.builds(messages.Finished, failed=st.builds(GuestFailed, kind=st.just("trap"), message=st.text())),
)


def body(message: messages.ToWorker | messages.FromWorker) -> bytes:
    """The message without its length, which must agree."""
    framed = messages.encode(message)
    size = messages.HEADER.size
    assert messages.length(framed[:size]) == len(framed) - size
    return framed[size:]


@given(JOBS)
def test_a_job_arrives_as_it_was_sent(job):
    """Every field of a job but the module's bytes survives the pipe."""
    message = messages.job_message(job)
    assert messages.decode_to_worker(body(message)) == message


@given(ANSWERS)
def test_an_answer_arrives_as_it_was_sent(answer):
    """So does every answer of a worker."""
    assert messages.decode_from_worker(body(answer)) == answer


@given(ANSWERS, st.data())
def test_a_broken_worker_can_only_cause_a_decode_error(answer, data):
    """Any byte changed, any tail cut: a message, or `DecodeError`, and nothing else."""
    raw = bytearray(body(answer))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    del raw[data.draw(st.integers(1, len(raw))) :]
    try:
        messages.decode_from_worker(bytes(raw))
    except DecodeError:
        return


def test_an_announcement_over_the_bound_is_no_message():
    """Nothing is allocated for a length that no message of ours has."""
    with pytest.raises(DecodeError, match="announces"):
        messages.length(messages.HEADER.pack(limits.WORKER_FRAME_BYTES_MAX + 1))
