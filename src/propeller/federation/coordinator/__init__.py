"""The coordinator: owns experiments and rounds, admits updates, has them aggregated."""
