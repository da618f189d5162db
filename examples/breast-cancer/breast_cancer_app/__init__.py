"""Flower app: logistic regression on the Wisconsin breast cancer data."""
