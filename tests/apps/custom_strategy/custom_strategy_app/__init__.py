"""Flower app for tests: a strategy of the app's own."""
