"""Flower app for tests: clients that have data of their own where their node says."""
