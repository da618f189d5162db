"""Flower app for tests: the grid's methods without a strategy."""
