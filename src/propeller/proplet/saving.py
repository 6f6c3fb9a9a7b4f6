"""Makes what the agent decides durable, many records at a sync, and lets what hangs on it go on afterwards.

Of an attempt nothing is said before it is on disk. Its acceptance may wait a moment for that: the work goes
on meanwhile, most short tasks end within it, and are then saved once instead of twice. An attempt that
cannot be saved is not taken, and its work is ended. Forgetting is in no hurry: it goes along with the next
save.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from propeller.errors import EnvironmentError_
from propeller.ports import Clock
from propeller.proplet import events as e
from propeller.proplet.bell import Bell
from propeller.proplet.counters import Counters
from propeller.proplet.offload import Offload
from propeller.proplet.place import Log
from propeller.proplet.records import AttemptState, Held
from propeller.proplet.spool import Spool
from propeller.proplet.workspace import Workspace
from propeller.wire.messages import AttemptKey

ACCEPTANCE_S = 0.02
"""How long an acceptance may wait to be saved, and so to be said."""
BURIAL_S = 0.5
"""How long what is forgotten may stay on disk while nothing else is saved."""


@dataclass(slots=True)
class _Save:
    """A record that is to be on disk by `due_s`, and what waits for that."""

    held: Held
    due_s: float
    then: list[e.Command] = field(default_factory=list)
    heard: list[e.Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """What the saver asks of the shell once something is saved, or is not."""

    do: Callable[[e.Command], None]
    put: Callable[[e.Event], None]
    failed: Callable[[e.SaveFailed], None]
    """Called before anything that waited goes on."""
    end: Callable[[AttemptKey], None]
    """End the work on an attempt that was not taken."""


class Saver:
    """The spool's only writer: `run` it beside the rest. Everything else is called between its steps."""

    def __init__(
        self,
        spool: Spool,
        workspace: Workspace | None,
        *,
        clock: Clock,
        offload: Offload,
        log: Log,
        counters: Counters,
        aftermath: Aftermath,
    ) -> None:
        self._spool, self._workspace = spool, workspace
        self._clock, self._offload = clock, offload
        self._log, self._counters = log, counters
        self._after = aftermath
        self._waiting: dict[AttemptKey, _Save] = {}
        self._writing: dict[AttemptKey, _Save] = {}
        self._untaken: set[AttemptKey] = set()
        self._buried: list[AttemptKey] = []
        self._burial_s = float("inf")
        self._bell = Bell()
        self.in_trouble = False
        """The last record could not be saved: until one can be, no work is begun before it is taken."""

    def save(self, held: Held, *, required: bool) -> None:
        """Save the record, in place of one of its attempt that still waits. `required`: it is the first."""
        key, now_s = held.key, self._clock.now().mono_s
        if required:
            self._untaken.add(key)
        patient = held.state is AttemptState.ACCEPTED and key in self._untaken and not self.in_trouble
        last = self._waiting.pop(key, None)
        self._waiting[key] = save = _Save(held, now_s + ACCEPTANCE_S if patient else now_s)
        if last is not None:
            save.then, save.heard = last.then, last.heard
        self._bell.ring()

    def bury(self, key: AttemptKey) -> None:
        """Forget the attempt soon."""
        self._waiting.pop(key, None)
        self._untaken.discard(key)
        self._buried.append(key)
        if self._burial_s == float("inf"):
            self._burial_s = self._clock.now().mono_s + BURIAL_S
            self._bell.ring()

    def taken(self, key: AttemptKey) -> bool:
        """Whether the attempt has been on disk, or never had to be."""
        return key not in self._untaken

    def then(self, key: AttemptKey, command: e.Command) -> bool:
        """Have a command done once the attempt's record is saved; False if none waits."""
        save = self._waiting.get(key) or self._writing.get(key)
        if save is not None:
            save.then.append(command)
        return save is not None

    def hold_back(self, event: e.Event, key: AttemptKey) -> bool:
        """Keep an event of an attempt that is not taken yet until it is; False if it is, or will never be."""
        save = (self._waiting.get(key) or self._writing.get(key)) if key in self._untaken else None
        if save is not None:
            save.heard.append(event)
        return save is not None

    def recall(self, key: AttemptKey) -> bool:
        """Take back work on the attempt that waits for its record; whether there was any."""
        found = False
        for save in (self._writing.get(key), self._waiting.get(key)):
            if save is not None:
                kept: list[e.Command] = [one for one in save.then if not isinstance(one, e.Run | e.Deliver)]
                found, save.then = found or len(kept) < len(save.then), kept
        return found

    def held_back(self, key: AttemptKey) -> list[e.Event]:
        """Take back the events of an attempt whose end is here, which says more than its acceptance."""
        found: list[e.Event] = []
        for save in (self._writing.get(key), self._waiting.get(key)):
            if save is not None:
                found += save.heard
                save.heard = []
        return found

    # --- the writer ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        while True:
            now_s = self._clock.now().mono_s
            due = {key: save for key, save in self._waiting.items() if save.due_s <= now_s}
            if due:
                await self._write(due)
            elif self._burial_s <= now_s:
                await self.settle()
            else:
                next_s = min((save.due_s for save in self._waiting.values()), default=self._burial_s)
                await self._bell.wait(min(next_s, self._burial_s) - now_s)

    async def settle(self) -> None:
        """Forget now what is to be forgotten."""
        buried = self._take_buried()
        if not buried:
            return
        await self._sweep(buried)
        try:
            await self._spool.bury(*buried)
        except EnvironmentError_ as error:
            self._counters.spool_errors += 1
            self._log.warning("attempts not remembered", attempts=len(buried), reason=error.message)

    async def _write(self, due: dict[AttemptKey, _Save]) -> None:
        for key in due:
            del self._waiting[key]
        self._writing = due
        buried = self._take_buried()
        await self._sweep(buried)
        try:
            await self._spool.save(*(save.held for save in due.values()), buried=buried)
        except EnvironmentError_:
            self._buried[:0] = buried
            self._burial_s = self._clock.now().mono_s + BURIAL_S
            await self._write_each(due)
        else:
            self.in_trouble = False
            self._writing = {}
            for save in due.values():
                self._saved(save)

    async def _write_each(self, due: dict[AttemptKey, _Save]) -> None:
        """The group could not be saved: each of it is tried by itself."""
        for key, save in list(due.items()):
            try:
                await self._spool.save(save.held)
            except EnvironmentError_ as error:
                del self._writing[key]
                self.in_trouble = True
                self._failed(save, error.message)
            else:
                del self._writing[key]
                self.in_trouble = False
                self._saved(save)

    def _saved(self, save: _Save) -> None:
        self._untaken.discard(save.held.key)
        for command in save.then:
            self._after.do(command)
        for event in save.heard:
            self._after.put(event)

    def _failed(self, save: _Save, why: str) -> None:
        """It stays in memory, and is said if it is an end; an attempt that was not taken is given up."""
        held, key = save.held, save.held.key
        newer = self._waiting.get(key)
        if newer is not None:
            newer.then[:0], newer.heard[:0] = save.then, save.heard
            return
        self._counters.spool_errors += 1
        self._log.warning("attempt not saved", task_id=key.task_id, reason=why)
        given_up = key in self._untaken and held.state is not AttemptState.FINISHED
        self._untaken.discard(key)
        self._after.failed(e.SaveFailed(key, why))
        if given_up:
            self._after.end(key)
            return
        for command in save.then:
            self._after.do(command)

    # --- files -----------------------------------------------------------------------------------------

    def _take_buried(self) -> Sequence[AttemptKey]:
        taken, self._buried, self._burial_s = self._buried, [], float("inf")
        return taken

    async def _sweep(self, keys: Sequence[AttemptKey]) -> None:
        """Drop the files of these attempts, where they have any."""
        files = self._workspace
        used = [key for key in keys if files.knows(key)] if files is not None else []
        if files is not None and used:
            await self._offload(lambda: files.forget(used))
