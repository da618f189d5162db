"""Flower app for tests: Flower's own SecAgg+."""
