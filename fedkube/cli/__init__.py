"""The ``fedkube`` command."""
