"""The aggregation server: the process of one run that executes its ServerApp and serves workers."""
