"""How many workers, and where: from what is free and what is asked for.

Pure: no clock, network, disk or randomness but what is handed in, and nothing of Kubernetes but how
its objects are written.
"""
