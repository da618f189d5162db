"""Flower app for tests: a metrics function that sees every update."""
