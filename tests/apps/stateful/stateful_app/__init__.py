"""Flower app for tests: client state over rounds."""
