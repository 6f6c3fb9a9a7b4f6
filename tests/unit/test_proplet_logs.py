"""A guest's log: chunks in order, at a bounded pace, gaps counted; and the measuring of guests beside it."""

import asyncio
import os

from proplet_fakes import in_virtual_time

from propeller.proplet.gauges import ProcessReading, ProcGauges
from propeller.proplet.logs import BURST_BYTES, CHUNK_BYTES_MAX, PACE_BYTES_PER_S, GuestLog
from propeller.proplet.monitor import DAEMON_S, TASK_S, Monitor
from propeller.wire.messages import AttemptKey, CpuMetrics, HostMetrics, MemoryMetrics, TaskMetrics

KEY = AttemptKey(task_id="t", run=2, attempt=3)


class Sent:
    """Takes chunks, unless it is full."""

    def __init__(self):
        self.chunks = []
        self.full = False

    def __call__(self, chunk):
        """Take one."""
        if not self.full:
            self.chunks.append(chunk)
        return not self.full

    def text(self, stream="stdout"):
        """All of a stream."""
        return "".join(chunk.text for chunk in self.chunks if chunk.stream == stream)


def logged(scenario, streams=("stdout", "stderr")):
    """Run a scenario with a log in virtual time."""

    async def main(clock):
        sent = Sent()
        await scenario(GuestLog(KEY, clock=clock, send=sent, streams=streams), sent)

    in_virtual_time(main)


def test_pieces_are_gathered_and_numbered():
    """What comes within a moment goes out together, per stream, numbered, and ends with a last word."""

    async def scenario(log, sent):
        log.take("stdout", b"one ", 0)
        log.take("stdout", b"two\n", 0)
        log.take("stderr", b"oops\n", 0)
        assert sent.chunks == []
        await asyncio.sleep(0.2)
        log.take("stdout", b"three\n", 0)
        log.close()
        assert [(c.seq, c.stream, c.text, c.last) for c in sent.chunks] == [
            (0, "stdout", "one two\n", False),
            (1, "stderr", "oops\n", False),
            (2, "stdout", "three\n", False),
            (3, "stdout", "", True),
        ]
        assert {(c.task_id, c.run, c.attempt) for c in sent.chunks} == {("t", 2, 3)}

    logged(scenario)


def test_a_silent_guest_says_nothing():
    """No message for a guest that printed nothing."""

    async def scenario(log, sent):
        log.close()
        assert sent.chunks == []

    logged(scenario)


def test_text_is_not_torn_between_chunks():
    """A character whose bytes come in two pieces is whole; bytes that are no text become U+FFFD."""

    async def scenario(log, sent):
        log.take("stdout", "é".encode()[:1], 0)
        await asyncio.sleep(1)
        log.take("stdout", "é".encode()[1:] + b"\xff", 0)
        log.close()
        assert sent.text() == "é\ufffd"

    logged(scenario)


def test_a_flood_is_held_to_its_pace():
    """A burst goes through, then so many bytes in a second; all that is missing is counted."""

    async def scenario(log, sent):
        for _ in range(100):
            log.take("stdout", b"x" * CHUNK_BYTES_MAX, 0)
        assert len(sent.text()) == BURST_BYTES
        await asyncio.sleep(2)
        for _ in range(100):
            log.take("stdout", b"y" * CHUNK_BYTES_MAX, 7)
        assert len(sent.text()) == BURST_BYTES + 2 * PACE_BYTES_PER_S
        log.close()
        assert sent.chunks[-1].dropped_bytes == 200 * CHUNK_BYTES_MAX + 700 - len(sent.text())
        assert [c.seq for c in sent.chunks] == list(range(len(sent.chunks)))

    logged(scenario)


def test_a_bus_that_is_behind_costs_log_and_nothing_else():
    """A chunk that finds no room is dropped and counted; the next one has its number."""

    async def scenario(log, sent):
        sent.full = True
        log.take("stdout", b"lost", 0)
        await asyncio.sleep(1)
        sent.full = False
        log.take("stdout", b"kept", 0)
        await asyncio.sleep(1)
        (chunk,) = sent.chunks
        assert (chunk.seq, chunk.text, chunk.dropped_bytes) == (0, "kept", 4)

    logged(scenario)


def test_a_stream_that_is_no_log_is_left_out():
    """The standard output of a training round is its update: it is no log."""

    async def scenario(log, sent):
        log.take("stdout", b"weights", 0)
        log.take("stderr", b"epoch 1\n", 0)
        log.close()
        assert (sent.text("stdout"), sent.text("stderr")) == ("", "epoch 1\n")

    logged(scenario, streams=("stderr",))


class FakeGauges:
    """A machine whose guest uses half a processor and reads ten bytes a second."""

    def __init__(self, clock):
        self.clock = clock
        self.gone = False

    def host(self):
        """Fixed figures."""
        return CpuMetrics(percent=12.5), MemoryMetrics(rss_bytes=1000)

    def process(self, _pid):
        """Figures that grow with time."""
        now_s = self.clock.now().mono_s
        if self.gone:
            return None
        return ProcessReading(
            cpu_s=now_s / 2, memory_bytes=int(now_s), read_bytes=int(10 * now_s), written_bytes=0,
            threads=2, descriptors=5,
        )  # fmt: skip


def measured(scenario, interval_s=10.0):
    """Run a scenario with a monitor at work."""

    async def main(clock):
        sent, gauges = [], FakeGauges(clock)
        monitor = Monitor("p-1", "edge", gauges, interval_s=interval_s, clock=clock, send=sent.append)
        running = asyncio.ensure_future(monitor.run())
        await scenario(monitor, sent, gauges)
        running.cancel()
        await asyncio.wait([running])

    in_virtual_time(main)


def test_the_host_is_measured_at_its_interval():
    """One message per interval, with an RFC 3339 time; none when measuring is off."""

    async def scenario(_monitor, sent, _gauges):
        await asyncio.sleep(35)
        assert len(sent) == 3
        assert all(isinstance(one, HostMetrics) and one.timestamp.endswith("Z") for one in sent)
        assert (sent[0].proplet_id, sent[0].namespace, sent[0].cpu_metrics.percent) == ("p-1", "edge", 12.5)

    async def silent(_monitor, sent, _gauges):
        await asyncio.sleep(100)
        assert sent == []

    measured(scenario)
    measured(silent, interval_s=0.0)


def test_a_guest_is_measured_at_once_and_then_in_turn():
    """Rates between samples, sums from the guest's beginning, averages over all; a daemon's rarely."""

    async def scenario(monitor, sent, _gauges):
        await asyncio.sleep(100)
        monitor.watch(KEY, 1, daemon=False)
        await asyncio.sleep(2 * TASK_S + 1)
        monitor.unwatch(KEY)
        await asyncio.sleep(1000)
        assert len(sent) == 3
        assert all(isinstance(one, TaskMetrics) for one in sent)
        last = sent[-1]
        assert (last.task_id, last.run, last.attempt, last.proplet_id) == ("t", 2, 3, "p-1")
        assert last.metrics.cpu_percent == 50.0
        assert last.metrics.disk_read_bytes == 201
        assert last.metrics.uptime_seconds == 20
        assert last.aggregated.sample_count == 3
        assert last.aggregated.max_memory_usage == last.metrics.memory_bytes

    async def daemon(monitor, sent, gauges):
        monitor.watch(KEY, 1, daemon=True)
        await asyncio.sleep(DAEMON_S + 1)
        assert len(sent) == 2
        gauges.gone = True
        await asyncio.sleep(10 * DAEMON_S)
        assert len(sent) == 2

    async def replica(monitor, sent, _gauges):
        monitor.watch(KEY, 1, daemon=True, every_s=15.0)
        await asyncio.sleep(46)
        assert len(sent) == 4

    measured(scenario, interval_s=0.0)
    measured(daemon, interval_s=0.0)
    measured(replica, interval_s=0.0)


def test_the_kernels_instruments_are_read():
    """This very process has memory, threads and open files; a process that is not there has nothing."""
    gauges = ProcGauges()
    reading = gauges.process(os.getpid())
    assert reading.memory_bytes > 1 << 20
    assert reading.threads >= 1
    assert reading.descriptors >= 3
    assert gauges.process(2**22 + 1) is None
    cpu, memory = gauges.host()
    assert 0 <= cpu.percent <= 100
    assert memory.rss_bytes > 1 << 20
