"""Hours of faults on real processes: ``python -m tests.soak --help``."""
