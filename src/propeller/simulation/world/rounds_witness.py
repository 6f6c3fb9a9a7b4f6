"""Sees every commit of the coordinator, and says at once which promise it breaks.

What only shows on the way is checked here: an end is for ever, a pause begins nothing, an update counts once,
whatever round it counts in.
"""

from propeller.fl.experiment import ExperimentState
from propeller.fl.round import RoundState
from propeller.simulation.world.witness import Broken, require
from propeller.stores.coordinator import Changes, RoundRecord, StoredUpdate


class CoordinatorWitness:
    """Follows the coordinator's records through all of its lives; `broken` is the first promise not kept."""

    def __init__(self) -> None:
        self.broken: Broken | None = None
        self._states: dict[str, ExperimentState] = {}
        self._rounds: dict[str, RoundState] = {}
        self._counted: set[tuple[str, str]] = set()

    def saw(self, changes: Changes) -> None:
        """Take in what was committed."""
        try:
            for one in changes.experiments:
                self._saw_experiment(one.experiment.spec.series, one.experiment.state)
            for record in changes.rounds:
                self._saw_round(record)
            for update in changes.updates:
                self._saw_update(update)
        except Broken as broken:
            self.broken = self.broken or broken

    def _saw_experiment(self, series: str, state: ExperimentState) -> None:
        before = self._states.get(series)
        ended = before is not None and before not in {ExperimentState.RUNNING, ExperimentState.PAUSED}
        require(not ended or state is before, "an experiment's end is for ever", (series, before, state))
        self._states[series] = state

    def _saw_round(self, record: RoundRecord) -> None:
        name, state = record.spec.round_id, self._states.get(record.spec.series)
        if name not in self._rounds:
            require(state is ExperimentState.RUNNING, "a pause begins nothing", (record, state))
        before = self._rounds.get(name)
        ended = before in {RoundState.COMPLETED, RoundState.FAILED}
        require(not ended or record.state is before, "a round's end is for ever", (record, before))
        self._rounds[name] = record.state

    def _saw_update(self, update: StoredUpdate) -> None:
        """Of one participant, asked once in one round, one update counts, wherever it does."""
        record = update.record
        key = record.origin or record.round_id, record.accepted.participant
        require(key not in self._counted, "an update counts once", record)
        self._counted.add(key)
