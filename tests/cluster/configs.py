"""The configuration files of containerd, its network and the kubelet."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster import binaries, settings
from tests.cluster.shell import write

RESOLV_CONF = settings.STATE / "resolv.conf"
CONTAINERD = settings.STATE / "containerd.toml"
KUBELET = settings.STATE / "kubelet.json"
NETWORK = settings.STATE / "cni"


def write_all() -> None:
    """All of them, under the state folder."""
    write(RESOLV_CONF, f"nameserver {settings.NODE_IP}\n")
    write(CONTAINERD, containerd())
    write(KUBELET, json.dumps(kubelet(binaries.minor("kubelet"))))
    write(NETWORK / "10-fedkube.conflist", json.dumps(network()))


def network() -> dict[str, Any]:
    """Pods on one bridge; the host reaches them by a route."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": settings.POD_SUBNET}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "fedkube", "plugins": [bridge, ports]}


def containerd() -> str:
    """Its root, /var/lib/containerd, is a folder of the cache: images outlive a cluster."""
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE no score may be lowered.
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt"]
[grpc]
  address = "{settings.SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{settings.PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{NETWORK}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def kubelet(minor: int) -> dict[str, Any]:
    """What a kubelet of this minor version is told."""
    pki = settings.PKI
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "clusterDNS": [settings.DNS_SERVICE_IP],
        "clusterDomain": settings.DOMAIN,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{settings.CGROUP}",
        "failSwapOn": False,
        "resolvConf": str(RESOLV_CONF),
        "authentication": {
            "x509": {"clientCAFile": str(pki / "ca.crt")},
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet-server.key"),
        # An image that was imported by hand cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "500Mi",
            "imagefs.available": "500Mi",
        },
        "syncFrequency": "10s",
        "fileCheckFrequency": "5s",
        "nodeStatusUpdateFrequency": "1s",
        # By default it asks five times a second, of which its own status takes two: after an
        # outage pods would wait for their Secrets.
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "eventRecordQPS": 0,
        "configMapAndSecretChangeDetectionStrategy": "Watch",
    }
    if minor >= 31:
        config["failCgroupV1"] = False
    return config
