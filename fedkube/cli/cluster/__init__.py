"""The commands that talk to a cluster, by the caller's kubeconfig and rights.

A module a command; ``connection`` and ``api`` are the way to the cluster, and the only ones here
that import the Kubernetes client when they are imported themselves are ``api``, ``refusals`` and
``follow``: the commands do so when they run.
"""
