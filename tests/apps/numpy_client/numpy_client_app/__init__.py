"""Flower app for tests: NumPyClient, client_fn and server_fn."""
