"""The way to the cluster: the caller's kubeconfig and rights, and errors in sentences."""
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fedkube.core.errors import Environment, Usage

if TYPE_CHECKING:
    from fedkube.cli.cluster.api import Api

_KUBECONFIG = "~/.kube/config"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@contextmanager
def connect(namespace: str | None, context: str | None) -> Iterator[tuple[Api, str]]:
    """The cluster's API, and the namespace to work in.

    What the cluster refuses or cannot do while the block runs becomes an error for a person.
    """
    # The client takes a third of a second to import, which `fedkube run` need not wait for.
    try:
        from kubernetes.client import ApiClient, Configuration
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        from fedkube.cli.cluster.api import Api
        from fedkube.cli.cluster.refusals import explain
    except ImportError:
        raise Environment(
            "the Kubernetes client is not installed", hint="pip install 'fedkube[kubernetes]'"
        ) from None
    configuration = Configuration()
    of_context = _configure(configuration, context)
    # Whoever waits at a terminal hears of a cluster that is not there at once.
    configuration.retries = False
    try:
        yield Api(ApiClient(configuration)), namespace or of_context
    except (ApiException, HTTPError) as error:
        raise explain(error, configuration.host) from None


def _configure(configuration: Any, context: str | None) -> str:
    """Fill in address and credentials; the namespace that goes with them."""
    from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

    files = os.environ.get("KUBECONFIG") or _KUBECONFIG
    there = any(Path(each).expanduser().is_file() for each in files.split(os.pathsep) if each)
    if not there and "KUBERNETES_SERVICE_HOST" in os.environ and context is None:
        try:
            load_incluster_config(client_configuration=configuration)
            return (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
        except (ConfigException, OSError) as error:
            raise Environment(
                f"this pod has no account to talk to its cluster by: {error}",
                hint="set automountServiceAccountToken in the pod, or KUBECONFIG",
            ) from None
    if not there:
        raise Environment(
            f"there is no kubeconfig at {files}, so there is no cluster to talk to",
            hint="set KUBECONFIG to the file that your cluster gave you, or `fedkube run` here",
        )
    try:
        merged = KubeConfigMerger(files).config
        if merged is None:
            raise ConfigException("it is empty")
        known = [each["name"] for each in merged.value.get("contexts") or []]
        if context is not None and context not in known:
            raise Usage(
                f"the kubeconfig has no context {context!r}",
                hint=f"it has: {', '.join(known) or 'none at all'}",
            )
        loader = KubeConfigLoader(config_dict=merged, active_context=context)
        space = loader.current_context["context"].get("namespace") or "default"
        load_kube_config(files, context, configuration)
    except (ConfigException, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise Environment(
            f"the kubeconfig {files} cannot be used: {error}",
            hint="`kubectl config view` shows it; --context chooses one of its contexts",
        ) from None
    return str(space)
