"""Flower app for tests: what the simulated runs run. The repository's root must be importable."""
