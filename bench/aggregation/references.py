"""Every strategy that Flower has too, against Flower's own, on the same updates over several rounds.

    .venv/bin/python bench/aggregation/references.py

Prints the largest absolute difference of any parameter for each; the last line is one JSON object of them.
Exits 1 if one is beyond `TOLERANCE`. Runs itself in the bench's environment. Where the two mean different
things by one name, Flower is told what the paper says, and the table names it:

* FedAdam: Flower begins v at 0 and corrects the bias of both moments by a changing learning rate; it gets
  v = τ² to begin with, and we get the learning rate that its correction makes of the round.
* FedAdagrad, FedYogi: Flower begins v at 0; it gets v = τ² to begin with.
* FedAvgM: the same recurrence, written with the opposite sign.
* Bulyan: Flower selects all updates at once; it gets a rule that selects them one by one by its own Krum.
* Multi-Krum: Flower weights what it keeps by samples, which a faulty client states itself; here all count
  alike, as in the paper, and so it is told equal samples. The other robust ones do not weight in either.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from environments import SOURCE, environment  # noqa: E402

TOLERANCE = 1e-9
"""Of values around 1, in float64: some hundred roundings."""
ROUNDS = 5
CLIENTS = 11
SHAPES = {"layer/w": (17, 5), "layer/b": (5,)}
ETA, BETA_1, BETA_2, TAU = 0.3, 0.8, 0.95, 0.01
FAULTY = 2
ALIKE = {"multi_krum"}
"""Compared with equal samples."""


def bias_corrected(turn: int) -> float:
    """Flower's learning rate of FedAdam in round `turn`, counted from 1."""
    return ETA * float((1 - BETA_2 ** (turn + 1)) ** 0.5 / (1 - BETA_1 ** (turn + 1)))


def cases() -> dict[str, tuple[Any, Callable[[int], Mapping[str, float]]]]:
    """By our name: Flower's strategy, and our options in each round."""
    from flwr.serverapp import strategy as theirs  # noqa: PLC0415 - in the bench's environment only
    from flwr.serverapp.strategy.multikrum import select_multikrum  # noqa: PLC0415

    def one_by_one(contents: list[Any], faulty: int, wanted: int) -> list[Any]:
        left, chosen = list(contents), []
        while len(chosen) < wanted:
            best = select_multikrum(left, faulty, 1)[0] if len(left) > 1 else left[0]
            chosen.append(best)
            left = [one for one in left if one is not best]
        return chosen

    adaptive = {"eta": ETA, "beta_1": BETA_1, "tau": TAU}
    ours = {"server_learning_rate": ETA, "beta_1": BETA_1, "tau": TAU}
    moments = {**ours, "beta_2": BETA_2}
    no_moment = {name: value for name, value in adaptive.items() if name != "beta_1"}
    return {
        "fedavg": (theirs.FedAvg(), lambda _: {}),
        "fedavgm": (
            theirs.FedAvgM(server_learning_rate=0.7, server_momentum=0.6),
            lambda _: {"server_learning_rate": 0.7, "momentum": 0.6},
        ),
        "fedadagrad": (theirs.FedAdagrad(**no_moment), lambda _: {**ours, "beta_1": 0.0}),
        "fedadam": (
            theirs.FedAdam(**adaptive, beta_2=BETA_2),
            lambda turn: {**moments, "server_learning_rate": bias_corrected(turn)},
        ),
        "fedyogi": (theirs.FedYogi(**adaptive, beta_2=BETA_2), lambda _: moments),
        "median": (theirs.FedMedian(), lambda _: {}),
        "trimmed_mean": (theirs.FedTrimmedAvg(beta=0.2), lambda _: {"trim": 0.2}),
        "krum": (theirs.Krum(num_malicious_nodes=FAULTY), lambda _: {"faulty": FAULTY}),
        "multi_krum": (
            theirs.MultiKrum(num_malicious_nodes=FAULTY, num_nodes_to_select=4),
            lambda _: {"faulty": FAULTY, "keep": 4},
        ),
        "bulyan": (
            theirs.Bulyan(num_malicious_nodes=FAULTY, selection_rule=one_by_one),
            lambda _: {"faulty": FAULTY},
        ),
    }


def rounds_apart(name: str, peer: Any, options: Callable[[int], Mapping[str, float]]) -> float:
    """The largest difference between `peer` and our strategy `name` after any of `ROUNDS` rounds.

    Both start every round from their own last model; clients add the same noise to it.
    """
    import numpy as np  # noqa: PLC0415

    from propeller.fl.aggregation import aggregate  # noqa: PLC0415
    from propeller.fl.strategies.base import Contribution  # noqa: PLC0415
    from propeller.fl.strategies.registry import strategy  # noqa: PLC0415
    from propeller.fl.tensors import EMPTY, Tensors  # noqa: PLC0415

    random = np.random.default_rng(3)
    mine = theirs = {key: random.normal(size=shape) for key, shape in SHAPES.items()}
    samples = [1] * CLIENTS if name in ALIKE else random.integers(10, 200, CLIENTS).tolist()
    state, apart = EMPTY, 0.0
    for turn in range(1, ROUNDS + 1):
        noise = [{key: random.normal(0.3, 1, shape) for key, shape in SHAPES.items()} for _ in samples]
        done = aggregate(
            strategy(name),
            [
                Contribution(
                    participant=f"p{number:02}",
                    samples=count,
                    tensors=Tensors({key: mine[key] + one[key] for key in SHAPES}),
                )
                for number, (one, count) in enumerate(zip(noise, samples, strict=True))
            ],
            base=Tensors(mine) if strategy(name).needs_base else None,
            state=state,
            options=options(turn),
        )
        mine, state = dict(done.model), done.state
        sent = [
            ({key: theirs[key] + one[key] for key in SHAPES}, n)
            for one, n in zip(noise, samples, strict=True)
        ]
        theirs = peer_round(peer, turn, theirs, sent)
        apart = max(apart, *(float(np.abs(mine[key] - theirs[key]).max()) for key in SHAPES))
    return apart


def peer_round(
    peer: Any, turn: int, base: Mapping[str, Any], sent: Iterable[tuple[Mapping[str, Any], int]]
) -> dict[str, Any]:
    """Flower's new model: its own strategy, given replies as its server would."""
    import numpy as np  # noqa: PLC0415
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict  # noqa: PLC0415
    from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415

    def record(model: Mapping[str, Any]) -> Any:
        return ArrayRecord({key: Array(np.ascontiguousarray(model[key])) for key in sorted(model)})

    # A message can only be made within a run of Flower's; this names one.
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    replies = [
        Message(
            content=RecordDict({"arrays": record(model), "metrics": MetricRecord({"num-examples": count})}),
            dst_node_id=number + 1,
            message_type="train",
        )
        for number, (model, count) in enumerate(sent)
    ]
    if hasattr(peer, "v_t"):
        peer.current_arrays = dict(base)
        if peer.v_t is None:
            peer.v_t = {key: np.full(shape, TAU**2) for key, shape in SHAPES.items()}
    elif hasattr(peer, "current_arrays"):
        peer.current_arrays = record(base)
    model, _ = peer.aggregate_train(turn, replies)
    return {key: array.numpy() for key, array in model.items()}


def main() -> None:
    """Compare all, print the table; exit 1 if one differs."""
    python = environment(HERE)
    if python is None:
        sys.exit("Flower cannot be installed here, and so nothing compared")
    if Path(sys.prefix) != HERE / ".env":
        os.execve(  # noqa: S606 - this very script
            python, [str(python), __file__], {**os.environ, "PYTHONPATH": str(SOURCE)}
        )
    logging.disable(logging.CRITICAL)
    found = {name: rounds_apart(name, *one) for name, one in cases().items()}
    for name, apart in found.items():
        print(f"{name:16}{apart:12.1e}{'' if apart <= TOLERANCE else '   differs'}")
    print(json.dumps({"max_abs_difference": found, "tolerance": TOLERANCE, "rounds": ROUNDS}))
    sys.exit(max(found.values()) > TOLERANCE)


if __name__ == "__main__":
    main()
