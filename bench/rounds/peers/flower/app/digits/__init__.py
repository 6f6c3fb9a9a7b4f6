"""The peer's app: federated averaging of softmax regression, as every contender does it."""
