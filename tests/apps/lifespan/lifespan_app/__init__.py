"""Flower app for tests: lifespan functions of both apps."""
