"""Everything of the server that knows Flower; nothing else in this package imports flwr."""
