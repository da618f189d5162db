"""FedKube: federated learning on Kubernetes that runs unmodified Flower apps."""

from importlib.metadata import version

__version__ = version("fedkube")
