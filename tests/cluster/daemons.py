"""The command line of each daemon."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.cluster import binaries, configs, settings

_ETCD = "http://127.0.0.1:2379"
# Nothing but this cluster's own parts asks the API server for much.
_HASTE = ("--kube-api-qps=300", "--kube-api-burst=500")


@dataclass(frozen=True)
class Daemon:
    """A process that the supervisor starts."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def all_of_them() -> dict[str, Daemon]:
    """By name, in the order of their start."""
    minor = binaries.minor()
    return {
        "containerd": Daemon(("containerd", "-c", str(configs.CONTAINERD))),
        "etcd": Daemon(etcd()),
        "apiserver": Daemon(apiserver(minor)),
        "controller-manager": Daemon(controller_manager(minor)),
        "scheduler": Daemon(
            (_binary("kube-scheduler"), _config("scheduler"), "--leader-elect=false", *_HASTE)
        ),
        "kubelet": Daemon(kubelet(minor)),
        "proxy": Daemon(proxy(minor, binaries.minor("kube-proxy"))),
        "helper": Daemon(
            (sys.executable, "-m", "tests.cluster", "_helper"),
            {"PYTHONPATH": str(settings.ROOT)},
        ),
    }


def _binary(name: str) -> str:
    return str(settings.BINARIES / name)


def _config(name: str) -> str:
    return f"--kubeconfig={settings.PKI}/{name}.kubeconfig"


def _gates(minor: int) -> tuple[str, ...]:
    """Off by default in 1.20, on ever since."""
    if minor >= 22:
        return ()
    return ("--feature-gates=TTLAfterFinished=true,BoundServiceAccountTokenVolume=true",)


def etcd() -> tuple[str, ...]:
    """Its data is in the namespace's own tmpfs: it is small, and waits for each write."""
    return (
        "etcd",
        "--data-dir=/run/etcd",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--logger=zap",
    )


def apiserver(minor: int) -> tuple[str, ...]:
    """The API server."""
    pki = settings.PKI
    return (
        _binary("kube-apiserver"),
        f"--etcd-servers={_ETCD}",
        f"--secure-port={settings.API_PORT}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={settings.NODE_IP}",
        f"--service-cluster-ip-range={settings.SERVICE_NET}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction,ExtendedResourceToleration",
        "--allow-privileged=true",
        "--anonymous-auth=true",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{settings.DOMAIN}",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--service-account-key-file={pki}/sa.key",
        *_gates(minor),
    )


def controller_manager(minor: int) -> tuple[str, ...]:
    """The controllers."""
    pki = settings.PKI
    return (
        _binary("kube-controller-manager"),
        _config("controller-manager"),
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/sa.key",
        "--use-service-account-credentials=true",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--leader-elect=false",
        *_HASTE,
        "--node-monitor-grace-period=40s",
        f"--cluster-cidr={settings.POD_NET}",
        *_gates(minor),
    )


def kubelet(minor: int) -> tuple[str, ...]:
    """The kubelet; what it needs of Docker's time, up to 1.23."""
    old = ("--container-runtime=remote", f"--pod-infra-container-image={settings.PAUSE}")
    return (
        _binary("kubelet"),
        _config("kubelet"),
        f"--config={configs.KUBELET}",
        f"--hostname-override={settings.NODE}",
        f"--node-ip={settings.NODE_IP}",
        f"--container-runtime-endpoint=unix://{settings.SOCKET}",
        *(old if minor < 24 else ()),
        *_gates(minor),
    )


def proxy(api_minor: int, minor: int) -> tuple[str, ...]:
    """kube-proxy, which may be older than the API server."""
    # discovery/v1beta1 is gone from newer API servers; plain Endpoints are still there.
    slices = minor < 22 <= api_minor
    return (
        _binary("kube-proxy"),
        _config("proxy"),
        "--proxy-mode=iptables",
        f"--cluster-cidr={settings.POD_NET}",
        f"--hostname-override={settings.NODE}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        *(("--feature-gates=EndpointSliceProxying=false",) if slices else ()),
    )
