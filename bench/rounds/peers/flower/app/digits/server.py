"""The server's part: FedAvg over all nodes in every round, each of which it notes."""

from collections.abc import Iterable
from pathlib import Path

import softmax
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Noting(FedAvg):
    """FedAvg that says when a round begins, and from which model."""

    def __init__(self, times: Path, participants: int) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=participants, min_available_nodes=participants
        )
        self._times, self._participants = times, participants

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See the base class; the first round waits for all nodes, and begins once they are there."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if len(messages) != self._participants:
            raise RuntimeError(f"round {server_round} asks {len(messages)} of {self._participants} nodes")
        (weights,) = arrays.to_numpy_ndarrays()
        softmax.note(self._times, weights)
        return messages


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds."""
    asked = context.run_config
    strategy = Noting(Path(str(asked["times"])), int(asked["participants"]))
    strategy.start(grid=grid, initial_arrays=ArrayRecord([softmax.zeros()]), num_rounds=int(asked["rounds"]))
