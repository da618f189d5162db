"""Flower app for tests: LegacyContext and DefaultWorkflow."""
