"""Topics and messages: what travels between roles, typed, versioned, and nothing else."""
