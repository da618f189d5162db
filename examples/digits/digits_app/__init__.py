"""Flower app: a small CNN on 8x8 handwritten digits, federated by label skew."""
