"""The manager's HTTP routes: they read requests, ask the services, and shape answers. They decide nothing."""
