"""Flower app for tests: a ClientApp that fails to import."""
