"""Whole runs with faults in one thread, from a seed: the same seed is the same run, to the byte.

What runs is the product: Flower's strategies, the grid, the journal, the driver, sessions, agents.
Clock, threads, network, disk and the executor's process are stand-ins that do what real ones may
do at their worst. ``python -m tests.simulation --help`` runs many seeds, or one again.
"""
