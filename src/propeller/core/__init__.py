"""Pure orchestration: no I/O, no clock, no randomness, no logging. It decides; the shells do."""
