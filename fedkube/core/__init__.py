"""Pure rules: ids, seeds, errors, how a task and a run move from state to state, the planner.

Nothing here reads a clock, a network, a disk or a random generator: what is needed is handed in.
"""
