"""The work on one attempt, from its start message to an outcome. Decides nothing about any other attempt.

Everything that can go wrong with it ends here as an `Outcome` with a typed failure; only cancellation, which
is how an attempt is killed, goes through.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from random import Random

from propeller import limits
from propeller.errors import Bug, CallerError, PropellerError
from propeller.fl.update_format import JSON, WHOLE, parse_format
from propeller.ports import Clock, GuestDone, GuestFailed, GuestJob, Runtime
from propeller.proplet.delivery import DELIVERY_LEAST_S, Courier, deliver
from propeller.proplet.events import GuestEnded, GuestStarted, Serving, UpdateMade
from propeller.proplet.failure import AttemptFailed, of_failure, of_guest, usage_of
from propeller.proplet.functions import Functions
from propeller.proplet.job import FORMAT, Fetched, Supply, env_of, is_federated, limits_of, prepare
from propeller.proplet.model import MODEL, keep_state, plain
from propeller.proplet.offload import Offload, for_size
from propeller.proplet.packing import PackOrder
from propeller.proplet.records import Held, show
from propeller.proplet.services import Patience
from propeller.proplet.update import TENSORS, make_update, pack_order
from propeller.wire.messages import AttemptKey, Start


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything that attempts are worked on with."""

    supply: Supply
    courier: Courier
    runtime: Runtime
    clock: Clock
    random: Random
    offload: Offload
    functions: Functions
    observe: Callable[[AttemptKey, Start, GuestJob], AbstractContextManager[GuestJob]]
    """Makes a job that tells what its guest prints and where it runs, for as long as the context is open."""
    fetched: Callable[[Fetched], None]
    """Told of every module fetched, for the counters."""
    failed: Callable[[str, Exception], None]
    """Told of defects: an attempt that ended with an error nobody expected."""


async def run_guest(
    held: Held, bench: Bench, started: Callable[[GuestStarted], None]
) -> UpdateMade | Serving | GuestEnded:
    """Prepare and run the attempt's guest; `started` is called when it begins."""
    try:
        return await _run(held, _start_of(held), bench, started)
    except PropellerError as error:
        return GuestEnded(held.key, of_failure(_typed(error)))
    except Exception as error:  # noqa: BLE001 - the boundary of an attempt: a defect fails it, not the proplet
        bench.failed(show(held.key), error)
        return GuestEnded(held.key, of_failure(_defect(error)))


async def deliver_update(held: Held, bench: Bench) -> GuestEnded:
    """Deliver the attempt's saved update, in what the guest left of the attempt's time."""
    try:
        left_s = limits_of(_start_of(held), bench.supply.limits).wall_s - held.usage.wall_s
        patience = _patience(bench, max(left_s, DELIVERY_LEAST_S))
        return GuestEnded(held.key, await deliver(held, bench.courier, patience))
    except PropellerError as error:
        return GuestEnded(held.key, of_failure(_typed(error), usage=held.usage))
    except Exception as error:  # noqa: BLE001 - as above
        bench.failed(show(held.key), error)
        return GuestEnded(held.key, of_failure(_defect(error), usage=held.usage))


async def _run(
    held: Held, start: Start, bench: Bench, started: Callable[[GuestStarted], None]
) -> UpdateMade | Serving | GuestEnded:
    # The guest's own time counts from its start.
    patience = _patience(bench, min(limits.FETCH_S, limits_of(start, bench.supply.limits).wall_s))
    files = bench.supply.workspace
    folder = None if files is None else partial(files.open, held.key)
    try:
        job, module = await prepare(start, bench.supply, patience, folder)
        bench.fetched(module)
        if start.latent:
            return await _offer(held, job, bench, started)
        started(GuestStarted(held.key))
        with bench.observe(held.key, start, job) as observed:
            ended = await bench.runtime.run(observed)
        return await _ended(held, start, job, ended, bench)
    finally:
        if files is not None and files.knows(held.key):
            await bench.offload(lambda: files.close(held.key))


async def _ended(
    held: Held, start: Start, job: GuestJob, ended: GuestDone | GuestFailed, bench: Bench
) -> UpdateMade | GuestEnded:
    """What becomes of what the guest left."""
    try:
        if isinstance(ended, GuestFailed) or not is_federated(start):
            return GuestEnded(held.key, of_guest(ended))
        told_bytes = len(ended.result or ended.stdout)
        offload = bench.offload if job.files is not None else for_size(told_bytes, bench.offload)
        update = await offload(
            lambda: make_update(ended, start, bench.supply.proplet_id, job.digest, job.files)
        )
        env = env_of(start)
        form = parse_format(env.get(FORMAT, ""))
        by_file = job.files is not None and plain(job.files / TENSORS)
        if (form.name == JSON and not by_file) or env.get("FL_MODE") == "evaluate":
            return UpdateMade(held.key, update, usage_of(ended))
        name = WHOLE if form.name == JSON else env[FORMAT]
        said = await _packed(held, update, name, job, bench)
        if bench.supply.workspace is not None and job.files is not None:
            await bench.offload(partial(keep_state, job, env, bench.supply.workspace))
        return UpdateMade(held.key, said, usage_of(ended), name)
    except AttemptFailed as error:
        return GuestEnded(held.key, of_failure(error, stderr=ended.stderr, usage=usage_of(ended)))


async def _packed(held: Held, update: bytes, form: str, job: GuestJob, bench: Bench) -> bytes:
    """What is said of the update; its tensors are in the workspace's file then."""
    files, pack = bench.supply.workspace, bench.supply.pack
    if files is None:
        raise Bug("an update to be packed, and no workspace")

    def order() -> tuple[bytes, PackOrder]:
        folder = files.folder(held.key)
        base = folder / MODEL
        if not base.exists():
            # The registry knows JSON only.
            base = files.open(held.key) / "model.json"
            base.write_text(job.env["MODEL_DATA"])
        return pack_order(update, form, base, folder, files.packed(held.key))

    said, work = await bench.offload(order)
    await pack(work)
    return said


async def _offer(
    held: Held, job: GuestJob, bench: Bench, started: Callable[[GuestStarted], None]
) -> Serving | GuestEnded:
    """Load a latent task's module; it runs from then on, without a guest until it is called."""
    failed = await bench.functions.load(held.key, job)
    if failed is not None:
        return GuestEnded(held.key, of_guest(failed))
    started(GuestStarted(held.key))
    return Serving(held.key)


def _patience(bench: Bench, wall_s: float) -> Patience:
    return Patience(bench.clock, bench.random, bench.clock.now().mono_s + wall_s)


def _start_of(held: Held) -> Start:
    if held.start is None:
        raise Bug(f"{show(held.key)} has no start message: {held!r}")
    return held.start


def _typed(error: PropellerError) -> AttemptFailed:
    if isinstance(error, AttemptFailed):
        return error
    # The runtime refuses a job that no guest could be given: the task's own words are at fault.
    return AttemptFailed("configuration" if isinstance(error, CallerError) else "internal", error.message)


def _defect(error: Exception) -> AttemptFailed:
    return AttemptFailed(
        "internal", f"a defect of the proplet ({type(error).__name__}: {error}); see its log"
    )
