"""Whatever the coordinator sends to the API server, against the schemas of Kubernetes releases.

The reconciler is driven as its watches drive it, so that nothing it creates can be forgotten here.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kube_schemas
import pod_security
import pytest
import yaml

from fedkube.api import crd
from fedkube.cli.cluster import reader
from fedkube.coordinator.objects import Defaults
from fedkube.coordinator.reconciler import Reconciler

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
DEFAULTS = Defaults(
    "registry.example.com/fedkube-client:0.1.0",
    "IfNotPresent",
    ("pull",),
    {"app.kubernetes.io/name": "fedkube", "app.kubernetes.io/component": "coordinator"},
    "fedkube",
)
POOL = {"clients": 10, "workers": 4}
SHA = "a" * 64
OVERRIDES: Object = {
    "resources": {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"nvidia.com/gpu": 1, "memory": "4Gi"},
    },
    "nodeSelector": {"gpu": "a100"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"a": "b"}},
                }
            ]
        }
    },
    "priorityClassName": "low",
    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "EMPTY"}],
    "envFromSecrets": ["tokens"],
    "volumes": [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    ],
    "volumeMounts": [
        {"name": "data", "mountPath": "/data", "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
    ],
}
SPECS: dict[str, Object] = {
    "pool": {"pool": POOL},
    "everything": {
        "app": {"image": "registry.example.com/digits:1", "path": "/srv/app"},
        "runConfig": {"num-server-rounds": 3, "lr": 0.1, "fast": True, "name": "x"},
        "seed": 7,
        "pool": POOL | {"threads": 2, "clientTimeoutS": 60, "pod": OVERRIDES},
        "cohort": {"minimum": 3},
        "server": {
            "storage": {"size": "10Gi", "className": "fast", "keep": True},
            "exposure": {"type": "NodePort", "hosts": ["fl.example.com", "10.0.0.7"]},
            "pod": OVERRIDES,
        },
        "activeDeadlineSeconds": 3600,
        "ttlSecondsAfterFinished": 60,
    },
    "bundle": {"app": {"bundle": {"configMap": "app", "sha256": SHA}}, "pool": POOL},
    "bundle-by-url": {
        "app": {"bundle": {"url": "https://example.com/app.zip", "sha256": SHA}},
        "pool": POOL,
    },
    "balancer": {
        "pool": POOL,
        "server": {"exposure": {"type": "LoadBalancer", "annotations": {"example.com/lb": "x"}}},
    },
    "suspended": {"pool": POOL, "suspend": True},
    "sites": {
        "sites": [
            {
                "name": "north",
                "data": {"claim": "north", "mountPath": "/data"},
                "nodeConfig": {"hospital": "north", "beds": 12},
                "pod": OVERRIDES,
            },
            {"name": "south", "data": {"claim": "south", "readOnly": False}, "threads": 2},
        ]
    },
}


class RememberingCluster:
    """Creates what is not there, and keeps it."""

    calls = 0

    def __init__(self, policy: str, devices_version: str) -> None:
        self.policy = policy
        self.devices_version = devices_version
        self.made: list[Object] = []
        self.statuses: list[Object] = []

    def create(self, body: Object) -> bool:
        self.made.append(copy.deepcopy(body))
        return True

    def patch(self, kind: str, namespace: str, name: str, change: Object, sub: str = "") -> None:
        if kind == "FederatedRun":
            self.statuses.append(change["status"])

    def list(self, *_: Any) -> list[Object]:
        return []

    @property
    def events(self) -> int:
        return sum(body["kind"] == "Event" for body in self.made)


def a_run(spec: Object, name: str = "digits") -> Object:
    return {
        "apiVersion": "fedkube.io/v1alpha1",
        "kind": "FederatedRun",
        "metadata": {
            "name": name,
            "namespace": "ml",
            "uid": "0f8fad5b-d9cb-469f-a165-70867728950e",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": copy.deepcopy(spec),
    }


def sent_for(
    spec: Object, policy: str = "policy/v1", devices_version: str = ""
) -> RememberingCluster:
    """All that goes to the API server when a run is new, and when it is resumed if it has to be."""

    async def drive() -> RememberingCluster:
        cluster = RememberingCluster(policy, devices_version)
        found = Reconciler(cluster, DEFAULTS, 5)  # type: ignore[arg-type]
        work = asyncio.create_task(found.run())
        for each in [spec, spec | {"suspend": False}] if "suspend" in spec else [spec]:
            told = cluster.events
            found.saw_run(a_run(each), False)
            async with asyncio.timeout(10):
                while cluster.events == told:  # noqa: ASYNC110 - from a thread, and the last
                    await asyncio.sleep(0.01)
        work.cancel()
        return cluster

    return asyncio.run(drive())


@pytest.fixture(scope="module")
def sent() -> dict[str, RememberingCluster]:
    return {name: sent_for(spec) for name, spec in SPECS.items()}


def pods_of(made: list[Object]) -> Iterator[Object]:
    for body in made:
        if body["kind"] == "Job":
            yield body["spec"]["template"]["spec"]
        elif body["kind"] == "Pod":
            yield body["spec"]


KINDS = {
    "Secret", "ConfigMap", "PersistentVolumeClaim", "Service", "NetworkPolicy",
    "PodDisruptionBudget", "Job", "Event",
}  # fmt: skip


DEVICES = {"devices": {"gpu.nvidia.com": 1, "nic.example.com": 2}}
CLAIMING: dict[str, Object] = {
    "pool": {"pool": POOL | {"pod": DEVICES}, "server": {"pod": DEVICES}},
    "sites": {"sites": [{"name": "north", "pod": DEVICES}, {"name": "south"}]},
}


@pytest.mark.parametrize(
    ("devices_version", "since"), [("v1beta1", 32), ("v1beta2", 33), ("v1", 34)]
)
@pytest.mark.parametrize("name", CLAIMING)
def test_claims_of_devices_are_valid(name: str, devices_version: str, since: int) -> None:
    made = sent_for(CLAIMING[name], devices_version=devices_version).made
    templates = [body for body in made if body["kind"] == "ResourceClaimTemplate"]
    assert {body["apiVersion"] for body in templates} == {f"resource.k8s.io/{devices_version}"}
    versions = [each for each in kube_schemas.VERSIONS if int(each.split(".")[1]) >= since]
    assert versions
    for version in versions:
        for body in [*templates, *(each for each in made if each["kind"] == "Job")]:
            assert kube_schemas.complaints(body, version) == [], version
    # Each pod that claims has a template that is there.
    named = {body["metadata"]["name"] for body in templates}
    claims = [
        claim["resourceClaimTemplateName"]
        for pod in pods_of(made)
        for claim in pod.get("resourceClaims", [])
    ]
    assert sorted(claims) == sorted(named)
    assert claims


@pytest.mark.parametrize("version", kube_schemas.VERSIONS)
@pytest.mark.parametrize("name", SPECS)
def test_what_the_coordinator_creates_is_valid(
    sent: dict[str, RememberingCluster], name: str, version: str
) -> None:
    made = sent[name].made
    assert {body["kind"] for body in made} == KINDS
    for body in made:
        found = kube_schemas.complaints(body, version)
        assert not found, f"{body['kind']} {body['metadata']['name']}: {found}"


@pytest.mark.parametrize("name", SPECS)
def test_the_pods_of_a_run_fit_the_restricted_standard(
    sent: dict[str, RememberingCluster], name: str
) -> None:
    specs = list(pods_of(sent[name].made))
    assert len(specs) == (3 if name == "sites" else 2)
    for spec in specs:
        assert list(pod_security.complaints(spec)) == []
        assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("version", kube_schemas.VERSIONS)
def test_the_pod_by_which_a_model_is_pulled_is_valid(
    sent: dict[str, RememberingCluster], version: str
) -> None:
    for name, spec in SPECS.items():
        jobs = [body for body in sent[name].made if body["metadata"]["name"] == "digits-server"]
        (template,) = [body["spec"]["template"]["spec"] for body in jobs if body["kind"] == "Job"]
        for known in (template, {}):  # whether or not the server's pod is still there
            body = reader.pod(a_run(spec), "digits-run", "i:1", known)
            assert kube_schemas.complaints(body, version) == []
            assert list(pod_security.complaints(body["spec"])) == []


def test_an_older_cluster_gets_the_budget_that_it_knows() -> None:
    made = sent_for(SPECS["pool"], "policy/v1beta1").made
    (budget,) = [body for body in made if body["kind"] == "PodDisruptionBudget"]
    assert budget["apiVersion"] == "policy/v1beta1"


def test_the_schemas_find_a_field_that_is_not_there(sent: dict[str, RememberingCluster]) -> None:
    for body in sent["everything"].made:
        bad = copy.deepcopy(body)
        bad["metadata"]["lables"] = {}
        assert kube_schemas.complaints(bad, kube_schemas.VERSIONS[-1])


# ---------------------------------------------------------------- our own objects


def strict(schema: Object) -> Object:
    """The definition's schema in JSON Schema's words; a field that it does not name is an error."""
    found = {key: value for key, value in schema.items() if not key.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    if "properties" in schema:
        found["properties"] = {key: strict(each) for key, each in schema["properties"].items()}
        found["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found[key] = strict(schema[key])
    if found.pop("nullable", False):
        found = {"anyOf": [{"type": "null"}, found]}
    return found


@pytest.fixture(scope="module")
def own() -> Any:
    (version,) = crd.definition()["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    # OpenAPI's exclusive bounds are flags, as in the fourth draft.
    return jsonschema.Draft4Validator(schema)


def wrong(validator: Any, body: Object) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]


def test_the_definition_is_valid_everywhere() -> None:
    for version in kube_schemas.VERSIONS:
        assert kube_schemas.complaints(crd.definition(), version) == []


@pytest.mark.parametrize("name", SPECS)
def test_runs_fit_the_definition(own: Any, name: str) -> None:
    assert wrong(own, a_run(SPECS[name])) == []


def test_what_the_pages_show_fits_the_definition(own: Any) -> None:
    shown = 0
    for page in sorted((ROOT / "docs").glob("*.md")):
        for part in page.read_text(encoding="utf-8").split("```yaml")[1:]:
            for body in yaml.safe_load_all(part.partition("```")[0]):
                if body and body.get("kind") == "FederatedRun":
                    shown += 1
                    assert wrong(own, body) == [], page.name
    assert shown


def test_the_statuses_that_are_written_fit_the_definition(
    own: Any, sent: dict[str, RememberingCluster]
) -> None:
    for cluster in sent.values():
        assert cluster.statuses
        for status in cluster.statuses:
            # A merge takes null for "delete it".
            kept = {name: value for name, value in status.items() if value is not None}
            assert wrong(own, a_run({"pool": POOL}) | {"status": kept}) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("pool.clients", 1),
        ("pool.client", 2),
        ("pool.workers", "four"),
        ("server.storage.size", "much"),
        ("server.exposure.type", "Public"),
        ("app.bundle.sha256", "short"),
        ("suspend", "yes"),
        ("seed", -1),
    ],
)
def test_the_definition_finds_what_is_wrong(own: Any, path: str, value: Any) -> None:
    body = a_run(SPECS["everything"])
    *way, last = path.split(".")
    place = body["spec"]
    for step in way:
        place = place.setdefault(step, {})
    place[last] = value
    assert wrong(own, body)
