"""Flower app for tests: arrays there and back, for benchmarks."""
