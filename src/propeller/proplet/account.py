"""Counts and logs what matters about a proplet's events, as an operator reads them. Changes nothing."""

from propeller.proplet import events as e
from propeller.proplet.agent import Agent
from propeller.proplet.counters import Counters
from propeller.proplet.job import env_of
from propeller.proplet.place import Log
from propeller.proplet.records import show
from propeller.wire.messages import AttemptKey, Start


class Account:
    """One proplet's log lines and counters."""

    def __init__(self, log: Log, counters: Counters) -> None:
        self._log = log
        self._counters = counters

    def note(self, event: e.Event, agent: Agent) -> None:
        """Take note of an event that `agent` is about to handle."""
        match event:
            case e.Welcomed() if not agent.welcomed:
                self._log.info("welcomed by the manager", heartbeat_s=event.heartbeat_s)
            case e.StartReceived(key, start):
                self._log.info("start received", task=show(key), **_about(key, start))
            case e.GuestStarted() | e.Serving() | e.UpdateMade() | e.GuestEnded():
                self._work(event, _about(event.key, agent.start_of(event.key)))

    def _work(
        self, event: e.GuestStarted | e.Serving | e.UpdateMade | e.GuestEnded, about: dict[str, str]
    ) -> None:
        log, counters, task = self._log, self._counters, show(event.key)
        match event:
            case e.GuestStarted():
                counters.started += 1
                log.info("guest started", task=task, **about)
            case e.Serving():
                log.info("latent task waits for calls", task=task, **about)
            case e.UpdateMade():
                log.info("update made", task=task, update_bytes=len(event.update), **about)
            case e.GuestEnded() if event.outcome.failure:
                counters.failed += 1
                failure, why = event.outcome.failure, event.outcome.error
                log.warning("attempt failed", task=task, failure=failure, reason=why, **about)
            case e.GuestEnded():
                counters.completed += 1
                log.info("attempt completed", task=task, **about)


def _about(key: AttemptKey, start: Start | None) -> dict[str, str]:
    round_id = env_of(start).get("ROUND_ID") if start is not None else None
    return {"task_id": key.task_id} | ({"round_id": round_id} if round_id else {})
