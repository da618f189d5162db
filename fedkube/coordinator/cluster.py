"""The cluster's API, as far as the coordinator uses it. Calls block; call them off the loop.

What only a person at a terminal asks for (logs, exec) is in ``fedkube.cli.cluster.api``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from fedkube.api.v1alpha1 import federated_run as api
from fedkube.coordinator.objects import DEVICES_GROUP, Object
from fedkube.core.errors import Environment
from fedkube.wire.channels import Credentials

PATHS = {
    "Pod": "/api/v1/namespaces/{}/pods",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "Service": "/api/v1/namespaces/{}/services",
    "Event": "/api/v1/namespaces/{}/events",
    "ResourceQuota": "/api/v1/namespaces/{}/resourcequotas",
    "LimitRange": "/api/v1/namespaces/{}/limitranges",
    "Node": "/api/v1/nodes",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "FederatedRun": f"/apis/{api.API_VERSION}/namespaces/{{}}/{api.PLURAL}",
}
# Of the devices that a cluster gives out by claims, in whatever version it has them.
_OF_DEVICES = {
    "DeviceClass": "deviceclasses",
    "ResourceSlice": "resourceslices",
    "ResourceClaim": "namespaces/{}/resourceclaims",
    "ResourceClaimTemplate": "namespaces/{}/resourceclaimtemplates",
}
_TIMEOUT_S = 15
# The server ends a watch after this time, and a cut that nobody tells of is noticed a little later.
_WATCH_S = 50
SILENCE_S = 65.0
_CHUNK = 64 * 1024


def load() -> client.ApiClient:
    """By the pod's own account, or by the kubeconfig of whoever starts it."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        config.load_kube_config()
    return client.ApiClient()


class Cluster:
    """Objects as plain dictionaries. ``calls`` counts requests.

    ``may_write``: asked before anything is changed.
    """

    def __init__(
        self, api_client: client.ApiClient, may_write: Callable[[], bool] = lambda: True
    ) -> None:
        self._api = api_client
        self._may_write = may_write
        self.calls = 0

    def create(self, body: Object) -> bool:
        """Create an object; False if there is one of its name."""
        try:
            self._call("POST", self._path(body), body)
        except ApiException as error:
            if error.status == 409:
                return False
            raise
        return True

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object, if there is one."""
        try:
            return self._call("GET", f"{PATHS[kind].format(namespace)}/{name}")
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, namespace: str, labels: str = "", fields: str = "") -> list[Object]:
        """All objects of a kind, or those with these labels and these values of fields."""
        wanted = {"labelSelector": labels, "fieldSelector": fields}
        query = "?" + urlencode({name: words for name, words in wanted.items() if words})
        found: list[Object] = self._call("GET", PATHS[kind].format(namespace) + query)["items"]
        return found

    def everywhere(self, kind: str) -> Sequence[Object]:
        """All objects of a kind in all namespaces."""
        found: Sequence[Object] = self._call("GET", self._path_of(kind, ""))["items"]
        return found

    def listing(self, kind: str, namespace: str, fields: str = "") -> tuple[Sequence[Object], str]:
        """Objects of a kind, and the version from which a watch goes on.

        ``namespace``: empty for all.
        """
        query = "?" + urlencode({"fieldSelector": fields}) if fields else ""
        found = self._call("GET", self._path_of(kind, namespace) + query)
        return found["items"], str(found["metadata"].get("resourceVersion", ""))

    def watch(
        self, kind: str, namespace: str, version: str, fields: str = ""
    ) -> Iterator[tuple[str, Object]]:
        """What happens to objects after a version, for about a minute: (ADDED, MODIFIED, ...)."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_S),
            **({"fieldSelector": fields} if fields else {}),
        }
        path = f"{self._path_of(kind, namespace)}?{urlencode(query)}"
        for line in lines(self._stream(path)):
            try:
                event = json.loads(line)
            except ValueError:
                return  # cut off in the middle: the watch goes on from the version before
            yield event["type"], event["object"]

    def patch(self, kind: str, namespace: str, name: str, change: Object, sub: str = "") -> None:
        """Merge a change into an object, or into its subresource; what is gone stays gone."""
        path = f"{PATHS[kind].format(namespace)}/{name}" + (f"/{sub}" if sub else "")
        try:
            self._call("PATCH", path, change, "application/merge-patch+json")
        except ApiException as error:
            if error.status != 404:
                raise

    def swap(self, kind: str, namespace: str, name: str, read: Object, change: Object) -> bool:
        """Merge a change into an object that is still as it was read; False if it is not."""
        version = {"metadata": {"resourceVersion": read["metadata"]["resourceVersion"]}}
        try:
            self.patch(kind, namespace, name, change | version)
        except ApiException as error:
            if error.status != 409:
                raise
            return False
        return True

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object and what it owns."""
        options = {"propagationPolicy": "Background"}
        try:
            self._call("DELETE", f"{PATHS[kind].format(namespace)}/{name}", options)
        except ApiException as error:
            if error.status != 404:
                raise

    def credentials(self, namespace: str, secret: str) -> Credentials | None:
        """The coordinator's own certificate in a run."""
        found = self.get("Secret", namespace, secret)
        if found is None:
            return None
        names = ("ca.pem", "operator.pem", "operator-key.pem")
        return Credentials(*(base64.b64decode(found["data"][name]) for name in names))

    @property
    def policy(self) -> str:
        """The API that has PodDisruptionBudget: 1.21 brought v1, and 1.25 took v1beta1 away."""
        return "policy/v1" if "v1" in self._groups["policy"] else "policy/v1beta1"

    @property
    def devices_version(self) -> str:
        """Of the API for devices that are claimed; empty where there is none."""
        if DEVICES_GROUP not in self._groups:
            self.__dict__.pop("_groups")  # it may be there by now
        there = self._groups.get(DEVICES_GROUP, ())
        return next((each for each in ("v1", "v1beta2", "v1beta1") if each in there), "")

    @property
    def has_kueue(self) -> bool:
        """Whether Kueue is installed."""
        return "kueue.x-k8s.io" in self._groups

    @cached_property
    def _groups(self) -> Mapping[str, Sequence[str]]:
        """The versions of each group of APIs."""
        return {
            group["name"]: [version["version"] for version in group["versions"]]
            for group in self._call("GET", "/apis")["groups"]
        }

    def _path(self, body: Mapping[str, Any]) -> str:
        namespace, kind = body["metadata"]["namespace"], body["kind"]
        if kind == "PodDisruptionBudget":
            return f"/apis/{self.policy}/namespaces/{namespace}/poddisruptionbudgets"
        return self._path_of(kind, namespace)

    def _path_of(self, kind: str, namespace: str) -> str:
        """Of a kind's objects in a namespace, or in all."""
        if kind in _OF_DEVICES:
            path = f"/apis/{DEVICES_GROUP}/{self.devices_version or 'v1'}/{_OF_DEVICES[kind]}"
        else:
            path = PATHS[kind]
        return path.format(namespace) if namespace else path.replace("namespaces/{}/", "")

    def _call(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json"
    ) -> Object:
        found: Object = json.loads(self._read(method, path, body, kind))
        return found

    def _read(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json"
    ) -> bytes:
        data: bytes = self._open(method, path, body, kind).read()
        return data

    def _open(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        kind: str = "application/json",
        timeout_s: float | tuple[float, float] = _TIMEOUT_S,
    ) -> Any:
        """An answer of which the body is still to be read; ApiException if it is a refusal.

        Environment, and nothing is sent, where this process may not write any more.
        """
        if method != "GET" and not self._may_write():
            raise Environment("the lease is over, and another may lead: nothing is written")
        self.calls += 1
        headers = {"Content-Type": kind, "Accept": "application/json, */*"}
        answer = self._api.call_api(
            method,
            self._api.configuration.host + path,
            header_params=self._signed(headers),
            body=body,
            _request_timeout=timeout_s,
        )
        if not 200 <= answer.status < 300:
            answer.read()  # the exception takes its words from what was read
            raise ApiException(http_resp=answer)
        return answer

    def _stream(self, path: str) -> Iterator[bytes]:
        answer = self._open("GET", path, timeout_s=(_TIMEOUT_S, SILENCE_S))
        try:
            yield from answer.response.stream(_CHUNK)
        finally:
            answer.response.close()

    def _signed(self, headers: dict[str, str]) -> dict[str, str]:
        # The client refreshes a pod's token by itself whenever it is asked for its settings.
        bearer = self._api.configuration.auth_settings().get("BearerToken")
        return headers | ({"authorization": bearer["value"]} if bearer else {})


def lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines; a last one that was cut off, too."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest
