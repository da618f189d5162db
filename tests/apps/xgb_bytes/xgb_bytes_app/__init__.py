"""Flower app for tests: byte arrays that grow with FedXgbBagging."""
