"""The chart as Helm itself renders it, for whatever Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helm_python
import yaml
from helm_python import _native

PATH = Path(__file__).parents[2] / "helm" / "fedkube"
NEWEST = "1.36.0"
MONITORING = "monitoring.coreos.com/v1"

Object = dict[str, Any]


def files(
    values: Object | None = None, *, kube: str = NEWEST, apis: tuple[str, ...] = ()
) -> dict[str, str]:
    """What each template gives; ``apis``: what the cluster has beside Kubernetes' own."""
    chart = helm_python.Chart.load(str(PATH))
    options = {
        "name": "fedkube",
        "namespace": "ml",
        "kube_version": f"v{kube}",
        "api_versions": list(apis),
    }
    # Chart.render() does not hand the last two on, though the library beneath it takes them.
    rendered: dict[str, str] = json.loads(
        _native.call_string(
            "helm_render", chart._raw(), json.dumps(values or {}), json.dumps(options)
        )
    )
    return rendered


def objects(
    values: Object | None = None, *, kube: str = NEWEST, apis: tuple[str, ...] = ()
) -> list[Object]:
    """All objects, hooks too."""
    return [
        document
        for name, text in files(values, kube=kube, apis=apis).items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def of_kind(kind: str, documents: list[Object]) -> list[Object]:
    """Those of a kind, by name."""
    return [each for each in documents if each["kind"] == kind]


PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}

# Sets of values that together reach every branch of the templates.
DEFAULT: Object = {}
FULL: Object = {
    "image": {
        "registry": "registry.example.com/team",
        "digest": "sha256:" + "a" * 64,
        "pullSecrets": ["pull", "other"],
        "pullPolicy": "Always",
    },
    "runs": {
        "image": {"registry": "registry.example.com/team", "tag": "2", "pullPolicy": "Never"},
        "namespaces": ["team-a", "team-b"],
        "max": 3,
    },
    "coordinator": {
        "replicas": 3,
        "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": 2, "memory": "1Gi"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "edge", "operator": "DoesNotExist"}]}
                    ]
                }
            }
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "fedkube"}},
            }
        ],
        "priorityClassName": "system-cluster-critical",
        "env": [
            {"name": "TZ", "value": "UTC"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "podAnnotations": {"example.com/owner": "ml"},
        "podLabels": {"team": "ml"},
    },
    "serviceAccount": {"annotations": {"example.com/role": "none"}},
    "rbac": {"aggregate": True},
    "metrics": {
        "serviceMonitor": {"enabled": True, "interval": "10s", "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
    "networkPolicy": {
        "denyNamespaces": True,
        "metricsFrom": [PROMETHEUS],
        "apiServerPorts": [6443],
        "apiServerCidrs": ["10.0.0.1/32", "fd00::1/128"],
        "dnsPorts": [53, 5353],
    },
}
BARE: Object = {
    "crds": {"enabled": False},
    "serviceAccount": {"name": "mine"},
    "rbac": {"create": False},
    "networkPolicy": {"enabled": False},
    "coordinator": {"podDisruptionBudget": {"enabled": False}, "resources": {}},
}
PAIR: Object = {"coordinator": {"replicas": 2}, "crds": {"keep": False}}
SETS = {"default": DEFAULT, "full": FULL, "bare": BARE, "pair": PAIR}
