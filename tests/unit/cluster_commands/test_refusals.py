"""What goes wrong between a command and the cluster is a sentence, a hint and an exit code."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cluster_commands import a_run
from fake_kubernetes import status
from kubernetes.config import incluster_config
from urllib3.exceptions import ReadTimeoutError

from fedkube.cli.cluster import connection
from fedkube.cli.cluster.refusals import explain
from fedkube.pki.authority import Authority

FORBIDDEN = (
    'federatedruns.fedkube.io is forbidden: User "eve" cannot list resource "federatedruns" in '
    'API group "fedkube.io" in the namespace "ml"'
)
NO_EXEC = (
    'pods "x" is forbidden: User "eve" cannot create resource "pods/exec" in API group "" in the '
    'namespace "ml"'
)
EVERYWHERE = (
    'federatedruns.fedkube.io is forbidden: User "eve" cannot list resource "federatedruns" in '
    'API group "fedkube.io" at the cluster scope'
)
CAUSES = [{"field": "spec.pool.clients", "message": "Invalid value: 1: should be >= 2"}]


@pytest.mark.parametrize(
    ("code", "body", "exit_code", "said"),
    [
        (401, status(401, "Unauthorized"), 5, ["does not know who you are (401)", "log in again"]),
        (
            403,
            status(403, FORBIDDEN),
            5,
            [
                "you (eve) may not list federatedruns.fedkube.io in namespace 'ml'",
                "kubectl create role fedkube-user -n ml --verb=list "
                "--resource=federatedruns.fedkube.io",
            ],
        ),
        (403, status(403, NO_EXEC), 5, ["may not create pods/exec", "--resource=pods/exec"]),
        (403, status(403, EVERYWHERE), 5, ["in all namespaces", "kubectl create clusterrole"]),
        (
            403,
            status(403, 'pods "x" is forbidden: exceeded quota: few'),
            5,
            ["exceeded quota: few"],
        ),
        (
            404,
            "404 page not found\n",
            5,
            ["knows no FederatedRun (fedkube.io/v1alpha1)", "helm install fedkube"],
        ),
        (
            404,
            status(404, 'namespaces "ml" not found', kind="namespaces", name="ml"),
            2,
            ["there is no namespace 'ml'", "kubectl create namespace ml"],
        ),
        (409, status(409, "the object has been modified"), 2, ["the object has been modified"]),
        (
            422,
            status(422, "FederatedRun is invalid", causes=CAUSES),
            2,
            ["spec.pool.clients: Invalid value: 1: should be >= 2"],
        ),
        (400, status(400, "the body is no object"), 2, ["the body is no object"]),
        (429, status(429, "too many requests"), 5, ["cannot answer now (429)", "try again"]),
        (503, "<html>no backend</html>", 5, ["cannot answer now (503): <html>no backend</html>"]),
        (418, status(418, "tea"), 5, ["refuses (418): tea"]),
    ],
)
def test_each_refusal_has_its_sentence(kubernetes, fedkube, code, body, exit_code, said):
    kubernetes.refusals.append(lambda method, path: (code, body))
    done = fedkube("ls")
    assert done.code == exit_code, done.err
    assert done.out == ""
    for words in said:
        assert words in done.err


def test_what_the_api_server_says_of_fields_comes_field_by_field(kubernetes, fedkube, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "apiVersion: fedkube.io/v1alpha1\nkind: FederatedRun\nmetadata: {name: a}\n"
        "spec: {pool: {clients: 2}}\n"
    )
    more = [*CAUSES, {"field": "spec.seed", "message": "no"}]
    kubernetes.refusals.append(lambda method, path: (422, status(422, "invalid", causes=more)))
    done = fedkube("submit", str(file))
    assert done.code == 2
    assert "spec.pool.clients: Invalid value: 1: should be >= 2; spec.seed: no" in done.err


def test_nobody_listens(kubernetes, fedkube):
    kubernetes.stop()
    done = fedkube("ls")
    assert done.code == 5
    assert f"nobody answers at http://127.0.0.1:{kubernetes.port}: connection refused" in done.err
    assert "--context" in done.err


def test_the_name_is_unknown(kubernetes, fedkube, tmp_path, monkeypatch):
    file = kubernetes.kubeconfig(tmp_path / "other", server="http://nowhere.invalid:1")
    monkeypatch.setenv("KUBECONFIG", str(file))
    done = fedkube("ls")
    assert done.code == 5
    assert "http://nowhere.invalid:1" in done.err


def test_the_connection_is_closed_at_once(kubernetes, fedkube, tmp_path, monkeypatch):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    file = kubernetes.kubeconfig(tmp_path / "other", server=f"http://127.0.0.1:{port}")
    monkeypatch.setenv("KUBECONFIG", str(file))

    def close_one() -> None:
        connection, _ = listener.accept()
        connection.close()

    thread = threading.Thread(target=close_one)
    thread.start()
    done = fedkube("ls")
    thread.join()
    listener.close()
    assert done.code == 5
    assert "broke" in done.err


def test_an_answer_that_does_not_come_in_time():
    told = explain(ReadTimeoutError(None, "/", "Read timed out."), "https://k8s:6443")
    assert told.exit_code == 5
    assert told.message == "the cluster at https://k8s:6443 does not answer in time"


@pytest.fixture
def over_tls(kubernetes, tmp_path):
    """The fake cluster with a certificate of an authority of its own; the authority's."""
    kubernetes.stop()
    authority = Authority("test", datetime.now(UTC), timedelta(hours=1))
    certificate, key = authority.issue(
        "server", "spiffe://x/y", ("localhost", "127.0.0.1"), server=True
    )
    (tmp_path / "c.pem").write_bytes(certificate)
    (tmp_path / "k.pem").write_bytes(key)
    (tmp_path / "ca.pem").write_bytes(authority.certificate())
    kubernetes.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    kubernetes.tls.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    kubernetes.port = 0
    kubernetes.start()
    return tmp_path / "ca.pem"


def test_a_certificate_of_a_stranger_is_not_trusted(
    kubernetes, fedkube, over_tls, tmp_path, monkeypatch
):
    monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig(tmp_path / "other")))
    done = fedkube("ls")
    assert done.code == 5
    assert "is not to be trusted" in done.err
    assert "certificate-authority" in done.err


def test_the_kubeconfigs_authority_is_trusted(kubernetes, fedkube, over_tls, tmp_path, monkeypatch):
    server = f"https://localhost:{kubernetes.port}"
    file = kubernetes.kubeconfig(
        tmp_path / "other", server=server, **{"certificate-authority": str(over_tls)}
    )
    monkeypatch.setenv("KUBECONFIG", str(file))
    kubernetes.put("federatedruns", a_run())
    done = fedkube("ls")
    assert done.code == 0, done.err
    assert "digits" in done.out


@pytest.fixture
def in_a_pod(kubernetes, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(kubernetes.port))
    monkeypatch.setattr(connection, "_ACCOUNT", tmp_path)


def test_in_a_pod_its_account_is_taken(
    kubernetes, fedkube, over_tls, in_a_pod, tmp_path, monkeypatch
):
    (tmp_path / "token").write_text("of-the-pod")
    (tmp_path / "namespace").write_text("lab\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(over_tls))
    kubernetes.put("federatedruns", a_run(space="lab"))
    done = fedkube("ls")
    assert done.code == 0, done.err
    assert "digits" in done.out
    assert kubernetes.headers[-1]["authorization"].lower() == "bearer of-the-pod"


def test_in_a_pod_without_an_account(kubernetes, fedkube, in_a_pod):
    done = fedkube("ls")
    assert done.code == 5
    assert "this pod has no account" in done.err


def test_there_is_no_kubeconfig(fedkube, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    done = fedkube("ls")
    assert done.code == 5
    assert f"there is no kubeconfig at {tmp_path / 'nothing'}" in done.err
    assert "fedkube run" in done.err


@pytest.mark.parametrize("text", ["", "a: [", "apiVersion: v1\nkind: Config\ncontexts: []\n"])
def test_a_kubeconfig_that_is_none(fedkube, tmp_path, monkeypatch, text):
    (tmp_path / "broken").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "broken"))
    done = fedkube("ls")
    assert done.code == 5
    assert f"the kubeconfig {tmp_path / 'broken'} cannot be used" in done.err


def test_a_context_that_is_not_there(kubernetes, fedkube):
    done = fedkube("ls", "--context", "prod")
    assert done.code == 2
    assert "no context 'prod'" in done.err
    assert "it has: ml, lab" in done.err


def test_the_context_says_the_namespace_and_the_option_overrides_it(kubernetes, fedkube):
    for space in ("ml", "lab"):
        kubernetes.put("federatedruns", a_run(f"of-{space}", space=space))
    assert "of-ml" in fedkube("ls").out
    assert "of-lab" in fedkube("ls", "--context", "lab").out
    done = fedkube("ls", "--context", "lab", "-n", "ml")
    assert "of-ml" in done.out
    assert "of-lab" not in done.out


def test_the_token_goes_along(kubernetes, fedkube):
    assert fedkube("ls").code == 0
    assert kubernetes.headers[-1]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "words",
    [
        ("get",), ("watch",), ("stop",), ("resume",), ("delete",), ("pull",), ("logs",), ("events",)
    ],
)  # fmt: skip
def test_a_run_that_is_not_there(kubernetes, fedkube, words):
    done = fedkube(*words, "nobody")
    assert done.code == 2
    assert "there is no run 'nobody' in namespace 'ml'" in done.err


def test_the_answer_to_a_request_that_failed_once_is_not_asked_for_twice(kubernetes, fedkube):
    kubernetes.refusals.append(lambda method, path: (500, status(500, "oh")))
    assert fedkube("ls").code == 5
    assert len(kubernetes.requests) == 1
