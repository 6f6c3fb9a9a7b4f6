"""Pure orchestration: no I/O, no clock, no randomness, no logging; standard library, errors and limits only."""
