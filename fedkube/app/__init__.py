"""A Flower app: find it, load it, merge its run config, and turn its records into frames.

What is here is shared by both ends. It knows nothing of gRPC, of rounds, or of who runs it.
"""
