"""Searching a space: candidates, fronts, the Optuna study, the run folder."""
