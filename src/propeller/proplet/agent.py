"""The proplet's decisions: events in, commands out. No await, clock, randomness, log; time is an argument.

The agent holds attempts (`records.Held`) until the manager has acknowledged how they ended. Three rules carry
everything. What is promised is saved first: `accepted` and `finished` are in the spool before they are said.
What is said is said again until it is acknowledged: an attempt's latest event, which implies those before it,
goes out with backoff and after every reconnection. And what is over stays over: a finished attempt never runs
again, and once acknowledged its key is remembered, so that a start that arrives late, twice or after its stop
changes nothing. So losing, repeating or reordering any message is harmless, and a crash costs at most the
work of the guests that ran.
"""

from collections.abc import Iterable

import msgspec

from propeller import limits
from propeller.errors import Bug
from propeller.proplet import events as e
from propeller.proplet.entries import NEVER, RESEND_S, RESEND_S_MAX, Entry, Kin, latest, rank
from propeller.proplet.records import TRANSITIONS, AttemptState, Held, Outcome, finished, show
from propeller.wire.messages import AckItem, AttemptKey, HeldAttempt, Start

ANNOUNCE_S = 60.0
"""A welcomed proplet announces itself again this often, in case the manager has lost its memory."""
HEARTBEAT_S_MIN = 0.1
HEARTBEAT_S_MAX = 3600.0
"""A welcome may ask for heartbeats between these intervals; what is outside is moved to the nearer one."""
HELD_MAX = 256
"""Attempts held at once. Further starts are not taken, and the manager sends them again or elsewhere."""
TOMBSTONES_MAX = 1024
"""Attempts remembered as done; the oldest is forgotten first."""


class Agent:
    """Decides for one proplet. Not thread-safe: one owner feeds it one event at a time."""

    def __init__(
        self,
        proplet_id: str,
        *,
        slots: int = 1,
        heartbeat_s: float = limits.HEARTBEAT_S,
        held: Iterable[Held] = (),
        tombstones: Iterable[AttemptKey] = (),
    ) -> None:
        self.proplet_id = proplet_id
        self.slots = slots
        self.heartbeat_s = heartbeat_s
        self.welcomed = False
        self.heartbeat_due_s = NEVER
        """When a `HeartbeatDue` is due (monotonic seconds)."""
        self._entries = {item.key: Entry(item) for item in sorted(held, key=lambda item: item.order)}
        self._order = max((entry.held.order for entry in self._entries.values()), default=0)
        self._busy: set[AttemptKey] = set()
        """Attempts whose work was commanded and has not been reported over; each takes a slot."""
        self._done = dict.fromkeys(tombstones)
        self._kin = Kin((*self._entries, *self._done))
        self._announce_s = -NEVER
        self._announce_pause_s = RESEND_S
        self._out: list[e.Command] = []

    # --- what the shell reads --------------------------------------------------------------------------

    @property
    def resend_due_s(self) -> float:
        """When a `ResendDue` is due (monotonic seconds); infinity if everything is acknowledged."""
        if not self.welcomed:
            return NEVER
        return min((entry.resend_s for entry in self._entries.values() if not entry.told), default=NEVER)

    @property
    def running(self) -> int:
        """Attempts that take a slot now."""
        return len(self._busy)

    @property
    def inventory(self) -> tuple[HeldAttempt, ...]:
        """Every attempt held, as the heartbeat lists it."""
        return tuple(
            HeldAttempt(task_id=key.task_id, run=key.run, attempt=key.attempt, state=entry.held.state.value)
            for key, entry in self._entries.items()
        )

    def start_of(self, key: AttemptKey) -> Start | None:
        """The start message of a live attempt."""
        return self._entries[key].held.start if key in self._entries else None

    def handle(self, event: e.Event, now_s: float) -> list[e.Command]:
        """What follows from `event` at `now_s` (monotonic seconds), in the order it must be done."""
        self._out = []
        match event:
            case e.Booted():
                self._fill()
            case e.Connected():
                self._connected(now_s)
            case e.Welcomed(heartbeat_s):
                self._welcome(heartbeat_s, now_s)
            case e.StartReceived():
                self._start(event, now_s)
            case e.StopReceived():
                self._stop(event, now_s)
            case e.AckReceived(items):
                for item in items:
                    self._acknowledged(item)
            case e.HeartbeatDue():
                self._heartbeat(now_s)
            case e.ResendDue():
                self._resend(now_s)
            case _:
                self._worked(event, now_s)
        return self._out

    def validate(self) -> None:
        """Raise `Bug` if the state breaks an invariant; tests call it after every event."""
        for key, entry in self._entries.items():
            held = entry.held
            if (
                held.key != key
                or (held.start is None) == entry.live
                or bool(held.finished) == entry.live
                or key in self._done
            ):
                raise Bug(f"attempt {show(key)} is impossible: {entry!r}")
        waiting = [
            key
            for key, entry in self._entries.items()
            if entry.live and not entry.serving and key not in self._busy
        ]
        if len(self._busy) > self.slots or (waiting and len(self._busy) < self.slots):
            raise Bug(f"{len(self._busy)} of {self.slots} slots are taken while {waiting} wait")

    # --- connection ------------------------------------------------------------------------------------

    def _connected(self, now_s: float) -> None:
        self._announce_pause_s = RESEND_S
        self._announce(now_s)
        if self.welcomed:
            self._say_all(now_s)

    def _welcome(self, heartbeat_s: float, now_s: float) -> None:
        self.heartbeat_s = min(max(heartbeat_s, HEARTBEAT_S_MIN), HEARTBEAT_S_MAX)
        self._announce_s = now_s + ANNOUNCE_S
        self._announce_pause_s = RESEND_S
        if not self.welcomed:
            self.welcomed = True
            self._say_all(now_s)
        self.heartbeat_due_s = min(self.heartbeat_due_s, now_s + self.heartbeat_s)

    def _say_all(self, now_s: float) -> None:
        """A heartbeat, and everything that the manager has not acknowledged."""
        self._alive(now_s)
        for entry in self._entries.values():
            if not entry.told:
                entry.pause_s = RESEND_S
                self._tell(entry, now_s)

    def _announce(self, now_s: float) -> None:
        self._out.append(e.PublishCreate())
        pause_s = ANNOUNCE_S if self.welcomed else self._announce_pause_s
        self._announce_pause_s = min(2 * self._announce_pause_s, RESEND_S_MAX)
        self._announce_s = now_s + pause_s
        if not self.welcomed:
            self.heartbeat_due_s = self._announce_s

    def _heartbeat(self, now_s: float) -> None:
        if self._announce_s <= now_s:
            self._announce(now_s)
        if self.welcomed:
            self._alive(now_s)

    def _alive(self, now_s: float) -> None:
        self._out.append(e.PublishAlive(self.inventory))
        self.heartbeat_due_s = now_s + self.heartbeat_s

    def _resend(self, now_s: float) -> None:
        for entry in self._entries.values():
            if not entry.told and entry.resend_s <= now_s:
                if not entry.saved:
                    entry.saved = True
                    self._out.append(e.SaveHeld(entry.held))
                self._tell(entry, now_s)

    # --- orders ----------------------------------------------------------------------------------------

    def _start(self, event: e.StartReceived, now_s: float) -> None:
        key, start = event.key, event.start
        addressee = start.proplet_id
        if not start.broadcast and isinstance(addressee, str) and addressee != self.proplet_id:
            self._ignore("not_mine", key)
        elif key in self._entries:
            self._tell(self._entries[key], now_s)
        elif key in self._done:
            self._answer_done(key)
        elif len(self._entries) >= HELD_MAX:
            self._ignore("full", key)
        elif newer := self._newer(key, event.start):
            self._hold_stopped(key, f"superseded by run {newer.run} attempt {newer.attempt}", now_s)
        else:
            self._accept(event, now_s)

    def _accept(self, event: e.StartReceived, now_s: float) -> None:
        key = event.key
        for other in self._kin.rivals(key, event.start):
            if other in self._entries:
                self._end_by_order(other, f"superseded by run {key.run} attempt {key.attempt}", now_s)
        held = Held(key=key, state=AttemptState.ACCEPTED, order=self._next_order(), start=event.start)
        # The required save comes after everything that concerns other attempts: its failure drops the rest.
        self._out.append(e.SaveHeld(held, required=True))
        self._add(held)
        self._tell(self._entries[key], now_s)
        self._fill()

    def _newer(self, key: AttemptKey, start: Start) -> AttemptKey | None:
        """A later rival of the attempt that is or was here, if any."""
        latest = max(self._kin.rivals(key, start), key=rank, default=key)
        return latest if rank(latest) > rank(key) else None

    def _add(self, held: Held) -> None:
        self._entries[held.key] = Entry(held)
        self._kin.add(held.key)

    def _stop(self, event: e.StopReceived, now_s: float) -> None:
        stop = event.stop
        reason = stop.reason or "stopped by the manager"
        if not stop.broadcast and isinstance(stop.proplet_id, str) and stop.proplet_id != self.proplet_id:
            self._out.append(e.Ignored("not_mine", stop.id))
        elif isinstance(stop.run, int) and isinstance(stop.attempt, int):
            key = AttemptKey(task_id=stop.id, run=stop.run, attempt=stop.attempt)
            self._stop_one(key, reason, now_s)
        else:
            for key in [item for item in self._entries if item.task_id == stop.id]:
                self._end_by_order(key, reason, now_s)

    def _stop_one(self, key: AttemptKey, reason: str, now_s: float) -> None:
        entry = self._entries.get(key)
        if entry is not None and entry.live:
            self._end_by_order(key, reason, now_s)
        elif entry is not None:
            self._tell(entry, now_s)
        elif key in self._done:
            self._answer_done(key)
        elif len(self._entries) >= HELD_MAX:
            self._ignore("full", key)
        else:
            # The stop overtook its start: hold the end, so that the start finds it when it comes.
            self._hold_stopped(key, reason, now_s)

    def _answer_done(self, key: AttemptKey) -> None:
        """Answer an order for an attempt whose end was acknowledged before.

        A manager that knows that end ignores this; one that has lost it, or gives the id a second life,
        learns at once that the attempt will not run here.
        """
        self._ignore("already_done", key)
        if self.welcomed:
            why = f"{show(key)} has already been run and acknowledged on this proplet"
            self._out.append(e.PublishFinished(key, self._encode(key, Outcome(error=why, failure="lost"))))

    def _end_by_order(self, key: AttemptKey, reason: str, now_s: float) -> None:
        """Finish a live attempt as stopped and kill its work; its slot is free once the work is over."""
        entry = self._entries[key]
        if not entry.live:
            return
        if key in self._busy or entry.serving:
            self._out.append(e.Kill(key))
        self._finish(entry, Outcome(error=reason, failure="stopped"), now_s)

    def _hold_stopped(self, key: AttemptKey, reason: str, now_s: float) -> None:
        payload = self._encode(key, Outcome(error=reason, failure="stopped"))
        held = Held(key=key, state=AttemptState.FINISHED, order=self._next_order(), finished=payload)
        self._add(held)
        self._out.append(e.SaveHeld(held))
        self._tell(self._entries[key], now_s)

    # --- acknowledgement -------------------------------------------------------------------------------

    def _acknowledged(self, item: AckItem) -> None:
        key = AttemptKey(task_id=item.task_id, run=item.run, attempt=item.attempt)
        entry = self._entries.get(key)
        if entry is None:
            return
        if item.kind == "finished":
            self._forget(key, entry)
        elif item.kind == latest(entry.held):
            entry.told = True

    def _forget(self, key: AttemptKey, entry: Entry) -> None:
        """Drop an attempt that the manager knows the end of, or never wants to hear of again."""
        del self._entries[key]
        self._done[key] = None
        while len(self._done) > TOMBSTONES_MAX:
            oldest = next(iter(self._done))
            del self._done[oldest]
            self._kin.drop(oldest)
        if entry.live and (key in self._busy or entry.serving):
            self._out.append(e.Kill(key))
        self._out.append(e.Forget(key))

    # --- work ------------------------------------------------------------------------------------------

    def _worked(
        self, event: e.GuestStarted | e.Serving | e.UpdateMade | e.GuestEnded | e.SaveFailed, now_s: float
    ) -> None:
        entry = self._entries.get(event.key)
        live = entry if entry is not None and entry.live else None
        match event:
            case e.GuestStarted() if live and live.held.state is AttemptState.ACCEPTED:
                self._move(live, AttemptState.RUNNING)
                self._tell(live, now_s)
            case e.Serving():
                self._busy.discard(event.key)
                if live:
                    live.serving = True
                else:
                    # Ended by order while it was loading: what was loaded goes.
                    self._out.append(e.Kill(event.key))
                self._fill()
            case e.UpdateMade() if live:
                made = {"update": event.update, "form": event.form, "usage": event.usage}
                self._move(live, AttemptState.RUNNING, **made)
                self._out += [e.SaveHeld(live.held), e.Deliver(live.held)]
            case e.UpdateMade() | e.GuestEnded():
                self._busy.discard(event.key)
                if live and isinstance(event, e.GuestEnded):
                    self._finish(live, event.outcome, now_s)
                self._fill()
            case e.SaveFailed() if entry:
                self._unsaved(event.key, entry)

    def _unsaved(self, key: AttemptKey, entry: Entry) -> None:
        """An attempt that could not be saved is not taken; an end that could not be is saved again later."""
        if entry.held.state is AttemptState.ACCEPTED:
            del self._entries[key]
            self._kin.drop(key)
            self._busy.discard(key)
            self._ignore("unsaved", key)
            self._fill()
        else:
            entry.saved = False

    def _fill(self) -> None:
        """Give free slots to the attempts that wait, in the order of their starts."""
        for key, entry in self._entries.items():
            if len(self._busy) >= self.slots:
                return
            if entry.live and not entry.serving and key not in self._busy:
                self._busy.add(key)
                if entry.held.update:
                    self._out.append(e.Deliver(entry.held))
                else:
                    self._out.append(e.Run(entry.held))

    def _finish(self, entry: Entry, outcome: Outcome, now_s: float) -> None:
        payload = self._encode(entry.held.key, outcome)
        self._move(entry, AttemptState.FINISHED, start=None, update=b"", form="", finished=payload)
        self._out.append(e.SaveHeld(entry.held))
        self._tell(entry, now_s)

    # --- state -----------------------------------------------------------------------------------------

    def _move(self, entry: Entry, state: AttemptState, **changes: object) -> None:
        if state not in TRANSITIONS[entry.held.state]:
            raise Bug(f"attempt {show(entry.held.key)}: {entry.held.state} → {state}: {entry!r}")
        entry.told = entry.told and state is entry.held.state
        entry.held = msgspec.structs.replace(entry.held, state=state, **changes)
        entry.pause_s = RESEND_S

    def _tell(self, entry: Entry, now_s: float) -> None:
        """Say the attempt's latest event now, if the directed lane is open, and plan the next time."""
        if not self.welcomed:
            entry.resend_s = now_s
            return
        held = entry.held
        if held.state is AttemptState.FINISHED:
            self._out.append(e.PublishFinished(held.key, held.finished))
        else:
            self._out.append(e.PublishEvent(held.key, started=held.state is AttemptState.RUNNING))
        entry.resend_s = now_s + entry.pause_s
        entry.pause_s = min(2 * entry.pause_s, RESEND_S_MAX)

    def _encode(self, key: AttemptKey, outcome: Outcome) -> bytes:
        return finished(key, outcome, self.proplet_id)

    def _next_order(self) -> int:
        self._order += 1
        return self._order

    def _ignore(self, why: str, key: AttemptKey) -> None:
        self._out.append(e.Ignored(why, key.task_id))
