"""Strategies: one file per algorithm that folds updates into a new model, and the seam they share."""
