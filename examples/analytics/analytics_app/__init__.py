"""Flower app: global statistics of data that stays with the clients."""
