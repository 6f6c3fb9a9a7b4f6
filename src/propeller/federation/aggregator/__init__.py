"""The aggregator: folds the updates it is sent into a new model. It remembers nothing between requests."""
