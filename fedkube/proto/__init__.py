"""What the two ends of a connection say to each other."""
