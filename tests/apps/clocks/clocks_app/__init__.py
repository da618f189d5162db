"""Flower app for tests: clocks that jump."""
