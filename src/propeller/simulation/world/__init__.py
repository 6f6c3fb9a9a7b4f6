"""The deterministic world: real shells on in-memory ports, virtual time, crashes; replayed by its seed."""
