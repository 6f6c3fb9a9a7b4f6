"""A participant of Flower: trains `softmax.py` whenever it is asked."""

import softmax
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(asked: Message, context: Context) -> Message:
    """One epoch on the rows of this node."""
    x, y = softmax.part(int(context.node_config["number"]), int(context.node_config["participants"]))
    (weights,) = asked.content["arrays"].to_numpy_ndarrays()
    made = softmax.epoch(weights, x, y)
    answer = {"arrays": ArrayRecord([made]), "metrics": MetricRecord({"num-examples": len(y)})}
    return Message(content=RecordDict(answer), reply_to=asked)
