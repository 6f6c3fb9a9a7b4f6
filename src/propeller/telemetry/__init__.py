"""What a role says about itself: structured logs and Prometheus metrics. It decides and stores nothing."""
