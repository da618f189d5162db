"""Who may talk to whom, and under which name."""

from __future__ import annotations

from urllib.parse import urlsplit

from fedkube.api.v1alpha1 import NO_JOURNAL
from fedkube.coordinator.objects.base import (
    PORT,
    ROLE_LABEL,
    RUN_LABEL,
    Defaults,
    Object,
    Run,
    metadata,
)

# Ports of what bundles are fetched from and journals are kept in, where the URL says none.
_PORTS = {"http": 80}
_TLS_PORT = 443


def service(run: Run) -> Object:
    """The server's name and address."""
    exposure = run.spec.server.exposure
    described = metadata(run, "server", "server")
    if exposure.annotations:
        described["annotations"] = dict(exposure.annotations)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": described,
        "spec": {
            "type": exposure.type,
            "selector": {RUN_LABEL: run.name, ROLE_LABEL: "server"},
            "ports": [{"name": "exchange", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
        },
    }


def policies(run: Run, defaults: Defaults) -> list[Object]:
    """Who may talk to whom: workers and the coordinator to the server; everyone to DNS; no more."""
    ours = {"matchLabels": {RUN_LABEL: run.name}}
    server = {"matchLabels": {RUN_LABEL: run.name, ROLE_LABEL: "server"}}
    worker = {"matchLabels": {RUN_LABEL: run.name, ROLE_LABEL: "worker"}}
    exchange = [{"port": PORT, "protocol": "TCP"}]
    dns = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    callers: list[Object] = [{"podSelector": worker}]
    if defaults.coordinator_labels:
        callers.append(
            {
                "podSelector": {"matchLabels": dict(defaults.coordinator_labels)},
                "namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": defaults.coordinator_namespace}
                },
            }
        )

    # Whoever comes from outside has to show a certificate of the run all the same.
    ingress: Object = {"ports": exchange}
    if run.spec.server.exposure.type == "ClusterIP":
        ingress["from"] = callers

    def policy(part: str, role: str, spec: Object) -> Object:
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(run, part, role),
            "spec": spec,
        }

    found = [
        policy(
            "deny",
            "network",
            {
                "podSelector": ours,
                "policyTypes": ["Ingress", "Egress"],
                "egress": [{"ports": dns}],
            },
        ),
        policy(
            "server",
            "server",
            {
                "podSelector": server,
                "policyTypes": ["Ingress"],
                "ingress": [ingress],
            },
        ),
        policy(
            "workers",
            "worker",
            {
                "podSelector": worker,
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"podSelector": server}], "ports": exchange}],
            },
        ),
    ]
    if port := _bundle_port(run):
        out = {"ports": [{"port": port, "protocol": "TCP"}]}
        fetch = {"podSelector": ours, "policyTypes": ["Egress"], "egress": [out]}
        found.append(policy("fetch", "network", fetch))
    if run.spec.server.journal not in ("", NO_JOURNAL):
        out = {"ports": [{"port": _TLS_PORT, "protocol": "TCP"}]}
        keep = {"podSelector": server, "policyTypes": ["Egress"], "egress": [out]}
        found.append(policy("journal", "server", keep))
    return found


def _bundle_port(run: Run) -> int | None:
    """Where pods must get to before they begin, if their app is not in the cluster."""
    bundle = run.spec.app.bundle
    if bundle is None or not bundle.url:
        return None
    parts = urlsplit(bundle.url)
    named = parts.port if parts.scheme in ("http", "https") else None
    return named or _PORTS.get(parts.scheme, _TLS_PORT)


def disruption_budget(run: Run, version: str) -> Object:
    """The server is not evicted by hand; a drain waits for the run's end. ``version``: policy's."""
    return {
        "apiVersion": version,
        "kind": "PodDisruptionBudget",
        "metadata": metadata(run, "server", "server"),
        "spec": {
            # A Job cannot be scaled, so that Kubernetes can make nothing of maxUnavailable.
            "minAvailable": 1,
            "selector": {"matchLabels": {RUN_LABEL: run.name, ROLE_LABEL: "server"}},
        },
    }
