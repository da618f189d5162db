"""Flower app for tests: clients that crash, hang or send nonsense."""
