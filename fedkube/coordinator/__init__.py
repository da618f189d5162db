"""The coordinator: it turns ``FederatedRun`` objects into pods and keeps them true.

``reconciler`` (what happens, thin) -> ``plan`` (pure) -> ``cluster`` (I/O); ``objects`` builds what
is created (pure).
"""
