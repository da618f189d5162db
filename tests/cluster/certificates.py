"""The cluster's certificates and kubeconfigs, made by openssl."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.cluster import settings
from tests.cluster.shell import output, write

_LEAF = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
_CA = (
    "basicConstraints=critical,CA:TRUE\n"
    "keyUsage=critical,keyCertSign,digitalSignature\n"
    "subjectKeyIdentifier=hash\n"
)
# Who holds a client certificate, and as whom.
_CLIENTS = {
    "admin": "O=system:masters\nCN=admin",
    "apiserver-kubelet": "O=system:masters\nCN=apiserver",
    "controller-manager": "CN=system:kube-controller-manager",
    "scheduler": "CN=system:kube-scheduler",
    "kubelet": f"O=system:nodes\nCN=system:node:{settings.NODE}",
    "proxy": "CN=system:kube-proxy",
}


def make_all() -> None:
    """Everything under the PKI folder, and the admin's kubeconfig."""
    settings.PKI.mkdir(parents=True)
    _certificate("ca", "CN=fedkube-tests-ca", _CA)
    service = "kubernetes.default.svc"
    names = ["kubernetes", "kubernetes.default", service, f"{service}.{settings.DOMAIN}"]
    names = [f"DNS:{name}" for name in [*names, "localhost"]]
    names += [f"IP:{ip}" for ip in (settings.NODE_IP, settings.API_SERVICE_IP, "127.0.0.1")]
    _server("apiserver", "kube-apiserver", names)
    _server("kubelet-server", settings.NODE, [f"DNS:{settings.NODE}", f"IP:{settings.NODE_IP}"])
    for name, subject in _CLIENTS.items():
        _certificate(name, subject, _LEAF + "extendedKeyUsage=clientAuth")
        if name != "apiserver-kubelet":
            write(_kubeconfig_path(name), kubeconfig(name, settings.PKI), 0o600)
    output(
        *("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
        *("-out", settings.PKI / "sa.key"),
    )


def _kubeconfig_path(name: str) -> Path:
    return settings.KUBECONFIG if name == "admin" else settings.PKI / f"{name}.kubeconfig"


def kubeconfig(name: str, pki: Path) -> str:
    """A kubeconfig that holds all that it needs. JSON is YAML."""

    def embedded(file: str) -> str:
        return base64.b64encode((pki / file).read_bytes()).decode()

    server = f"https://{settings.NODE_IP}:{settings.API_PORT}"
    cluster = {"server": server, "certificate-authority-data": embedded("ca.crt")}
    user = {
        "client-certificate-data": embedded(f"{name}.crt"),
        "client-key-data": embedded(f"{name}.key"),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fedkube-tests",
        "clusters": [{"name": "fedkube-tests", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [
            {"name": "fedkube-tests", "context": {"cluster": "fedkube-tests", "user": name}}
        ],
    }
    return json.dumps(content, indent=1)


def _server(name: str, common_name: str, names: list[str]) -> None:
    extensions = f"extendedKeyUsage=serverAuth\nsubjectAltName={','.join(names)}"
    _certificate(name, f"CN={common_name}", _LEAF + extensions)


def _certificate(name: str, subject: str, extensions: str) -> None:
    """Key and certificate: the authority's by itself, all others by the authority."""
    pki = settings.PKI
    request = write(
        pki / f"{name}.cnf",
        "[req]\ndistinguished_name=dn\nprompt=no\nx509_extensions=e\n"
        f"[dn]\n{subject}\n[e]\n{extensions}\n",
    )
    by = () if name == "ca" else ("-CA", pki / "ca.crt", "-CAkey", pki / "ca.key")
    output(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
        *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650", "-config", request),
        *("-keyout", pki / f"{name}.key", "-out", pki / f"{name}.crt", *by),
    )
