"""Where the cluster keeps its things, and the names and addresses that it goes by."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Sources, binaries, images: worth keeping from one cluster to the next.
CACHE = Path(
    os.environ.get("KT_CACHE") or Path.home() / ".cache" / "fedkube" / "cluster"
).absolute()
# One cluster's state, which `down` deletes. On a disk: pods write here what they like, and a tmpfs
# that they fill is memory that the node lacks.
STATE = Path(os.environ.get("KT_STATE") or CACHE / "state").absolute()
# Binaries of another release may be given: 1.20 and 1.36 were tried. 1.36 wants containerd 2 and
# etcd 3.5 first on PATH.
BINARIES = Path(os.environ.get("KT_BIN") or CACHE / "bin").absolute()

LOCK = CACHE / "lock"
PKI = STATE / "pki"
LOGS = STATE / "log"
RUN = STATE / "run"
VOLUMES = STATE / "pv"
KUBECONFIG = STATE / "kubeconfig"

RELEASE = "1.20.2"
COMPONENTS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)

NODE = "node-0"
HOST_LINK = "fedkube0"
HOST_IP, NODE_IP = "10.245.0.1", "10.245.0.2"
POD_NET, POD_SUBNET = "10.244.0.0/16", "10.244.0.0/24"
SERVICE_NET = "10.96.0.0/16"
API_SERVICE_IP, DNS_SERVICE_IP = "10.96.0.1", "10.96.0.10"
DOMAIN = "cluster.local"
API_PORT = 6443
CGROUP = "fedkube"
SOCKET = "/run/containerd/containerd.sock"
PAUSE = "fedkube.local/pause:1"
STORAGE_CLASS = "standard"
PROVISIONER = "fedkube.local/folders"
FAKE_LABEL = "fedkube.local/fake"
GPU = "nvidia.com/gpu"
