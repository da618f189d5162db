"""Flower app for tests: a ServerApp that fails to import."""
