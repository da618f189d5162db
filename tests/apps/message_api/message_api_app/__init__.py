"""Flower app for tests: the message API with FedAvg."""
