"""Every strategy that Flower ships, compared with Flower's own aggregation."""
