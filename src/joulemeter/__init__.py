"""Joulemeter: where the joules of deep-learning code go, each number with its origin and an interval."""
