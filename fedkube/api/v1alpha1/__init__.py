"""The first version of the objects that a user declares."""

from fedkube.api.v1alpha1.federated_run import (
    FederatedRunSpec,
    FederatedRunStatus,
    State,
)
from fedkube.api.v1alpha1.run_spec import (
    JOURNAL_PATTERN,
    NO_JOURNAL,
    Checkpoints,
    Cohort,
    ConfigValue,
    Pool,
    RunSpec,
    Server,
)

__all__ = [
    "JOURNAL_PATTERN",
    "NO_JOURNAL",
    "Checkpoints",
    "Cohort",
    "ConfigValue",
    "FederatedRunSpec",
    "FederatedRunStatus",
    "Pool",
    "RunSpec",
    "Server",
    "State",
]
