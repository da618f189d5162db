"""``helm test``: whether a release works, asked from within the cluster.

``python -m fedkube.coordinator.check --url URL --lease NAMESPACE/NAME --namespace NAMESPACE ...``
prints a line for each thing that holds, and ends with 1 at the first that does not in time.
"""

# The Kubernetes client is untyped.
# mypy: allow-untyped-calls
from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from prometheus_client.parser import text_string_to_metric_families
from urllib3.exceptions import HTTPError

from fedkube.api.v1alpha1 import federated_run as api
from fedkube.coordinator import cluster

_PATIENCE_S = 90.0
_PAUSE_S = 2.0
_TIMEOUT_S = 5
# A lease that nobody has renewed for so long is nobody's.
_STALE_S = 60.0


def ready(url: str) -> str:
    """The coordinator says that it is ready."""
    return f"the coordinator at {url} is ready and {_get(f'{url}/readyz').strip()}"


def metrics(url: str) -> str:
    """Its metrics can be read."""
    families = list(text_string_to_metric_families(_get(f"{url}/metrics")))
    if not any(each.name == "fedkube_leading" for each in families):
        raise ValueError(f"{url}/metrics has no fedkube_leading")
    return f"its page of metrics has {len(families)} of them"


def led(read: Callable[[], Any], now: datetime) -> str:
    """Some coordinator holds the lease."""
    spec = read().spec
    if spec is None or not spec.holder_identity or spec.renew_time is None:
        raise ValueError("no coordinator leads")
    age = (now - spec.renew_time).total_seconds()
    if age > _STALE_S:
        raise ValueError(f"{spec.holder_identity} led last, {age:.0f} s ago")
    return f"{spec.holder_identity} leads"


def served(custom: Any, namespace: str) -> str:
    """The API server knows FederatedRuns, and the coordinator's account may list them."""
    custom.list_namespaced_custom_object(
        api.GROUP, api.VERSION, namespace, api.PLURAL, limit=1, _request_timeout=_TIMEOUT_S
    )
    return f"FederatedRuns of the namespace {namespace} can be listed"


def insist(question: Callable[[], str], deadline: float) -> str:
    """Ask until the answer is good; ValueError with the last bad one when the time is up."""
    while True:
        try:
            return question()
        except (OSError, ValueError, HTTPError, ApiException) as error:
            if time.monotonic() > deadline:
                raise ValueError(_words(error)) from None
        time.sleep(_PAUSE_S)


def _words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.url} answers {error.code}: {error.read().decode('utf-8', 'replace')}"
    if isinstance(error, ApiException):
        return f"the API server answers {error.status} {error.reason}"
    return str(error)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the chart's own
        text: str = answer.read().decode()
        return text


def main() -> None:
    """Ask everything, in order."""
    parser = argparse.ArgumentParser(prog="fedkube.coordinator.check")
    parser.add_argument("--url", required=True)
    parser.add_argument("--lease", required=True)
    parser.add_argument("--namespace", action="append", required=True)
    arguments = parser.parse_args()
    api_client = cluster.load()
    space, _, name = arguments.lease.partition("/")
    read = partial(
        client.CoordinationV1Api(api_client).read_namespaced_lease,
        name,
        space,
        _request_timeout=_TIMEOUT_S,
    )
    custom = client.CustomObjectsApi(api_client)
    questions: list[Callable[[], str]] = [
        partial(ready, arguments.url),
        partial(metrics, arguments.url),
        lambda: led(read, datetime.now(UTC)),
        *(partial(served, custom, each) for each in arguments.namespace),
    ]
    deadline = time.monotonic() + _PATIENCE_S
    for question in questions:
        try:
            sys.stdout.write(f"ok: {insist(question, deadline)}\n")
        except ValueError as error:
            sys.exit(f"failed: {error}")


if __name__ == "__main__":
    main()
