"""Flower app for tests: a ServerApp that raises."""
