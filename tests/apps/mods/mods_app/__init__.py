"""Flower app for tests: mods of the app and of single functions."""
