"""What the cluster refuses, in sentences that say what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from fedkube.api.v1alpha1 import federated_run as api
from fedkube.core.errors import Environment, FedKubeError, Usage

_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]*)" '
    r'in API group "(?P<group>[^"]*)"(?: in the namespace "(?P<space>[^"]*)")?'
)
# What goes away by itself: the server restarts, or has too much to do.
PASSING = frozenset({0, 408, 429, 500, 502, 503, 504})
_INSTALL = "install it: helm install fedkube helm/fedkube (docs/kubernetes.md)"


def explain(error: ApiException | HTTPError, where: str) -> FedKubeError:
    """A failed request as an error for a person. ``where``: the API server's address."""
    if isinstance(error, ApiException):
        if error.status == 0:
            # So the client reports what TLS has to say.
            return explain(SSLError(str(error.reason).partition("\n")[2]), where)
        return _refused(error)
    return Environment(unreachable(error, where), hint=_mend(error))


def unreachable(error: HTTPError, where: str) -> str:
    """Why nobody answers at an address."""
    if isinstance(error, NameResolutionError):
        return f"the cluster's name cannot be resolved: {where}"
    if isinstance(error, SSLError):
        return f"the certificate of {where} is not to be trusted: {error}"
    if isinstance(error, ProxyError):
        return f"the proxy on the way to {where} does not let through: {error}"
    if isinstance(error, NewConnectionError):
        # "...: Failed to establish a new connection: [Errno 111] Connection refused"
        why = str(error).rpartition("] ")[2] or str(error)
        return f"nobody answers at {where}: {why.lower()}"
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return f"the cluster at {where} does not answer in time"
    return f"the connection to {where} broke: {error}"


def _mend(error: HTTPError) -> str:
    if isinstance(error, SSLError):
        return "check certificate-authority in the kubeconfig, or fetch a new kubeconfig"
    return "is the cluster up, and is this the right --context?"


def _refused(error: ApiException) -> FedKubeError:
    status, message = error.status, message_of(error)
    if status == 401:
        return Environment(
            "the cluster does not know who you are (401)",
            hint="the kubeconfig's token or certificate has expired or is of another cluster: "
            "log in again, or choose another --context",
        )
    if status == 403:
        return _forbidden(message)
    if status == 404:
        return _not_found(error, message)
    if status == 409:
        return Usage(f"the cluster refuses: {message}")
    if status in (400, 422):
        causes = details(error).get("causes") or []
        said = [f"{each.get('field')}: {each.get('message')}" for each in causes]
        return Usage("the cluster refuses: " + ("; ".join(said) or message))
    if status in PASSING:
        return Environment(
            f"the cluster cannot answer now ({status}): {message}", hint="try again in a while"
        )
    return Environment(f"the cluster refuses ({status}): {message}")


def _forbidden(message: str) -> FedKubeError:
    found = _FORBIDDEN.search(message)
    if found is None:
        # A quota, or an admission policy: it has words of its own.
        return Environment(f"the cluster refuses: {message}")
    group, space = found["group"], found["space"]
    resource = f"{found['resource']}.{group}" if group else found["resource"]
    where = f"in namespace {space!r}" if space else "in all namespaces"
    kind = "role" if space else "clusterrole"
    scope = f" -n {space}" if space else ""
    # kubectl writes resource.group/subresource.
    plain, _, sub = found["resource"].partition("/")
    named = plain + (f".{group}" if group else "") + (f"/{sub}" if sub else "")
    return Environment(
        f"you ({found['user']}) may not {found['verb']} {resource} {where}",
        hint="ask whoever runs the cluster for a binding to: "
        f"kubectl create {kind} fedkube-user{scope} --verb={found['verb']} --resource={named}",
    )


def _not_found(error: ApiException, message: str) -> FedKubeError:
    about = details(error)
    if about.get("kind") == "namespaces" and about.get("name"):
        space = about["name"]
        return Usage(f"there is no namespace {space!r}", hint=f"kubectl create namespace {space}")
    if not about.get("name"):
        return Environment(f"the cluster knows no {api.KIND} ({api.API_VERSION})", hint=_INSTALL)
    return Usage(f"the cluster refuses: {message}")


def message_of(error: ApiException) -> str:
    """The API server's own sentence, or whatever it answered instead."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.body or error.reason or "no reason given").strip()[:500]


def details(error: ApiException) -> dict[str, Any]:
    """What a refusal is about, where the API server says it."""
    try:
        found = json.loads(error.body or "")["details"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
