"""The first version of the objects that a user declares."""

from fedkube.api.v1alpha1.federated_run import (
    Checkpoints,
    ConfigValue,
    FederatedRunSpec,
    Pool,
    Server,
)

__all__ = ["Checkpoints", "ConfigValue", "FederatedRunSpec", "Pool", "Server"]
