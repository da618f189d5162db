from __future__ import annotations

import io
import json
import sys
import zipfile
from base64 import b64decode

import pytest
import yaml
from cluster_commands import a_run
from fake_kubernetes import status

from fedkube.app import bundle

APP = """
[project]
name = "Digits of José"
[tool.flwr.app.components]
serverapp = "a:b"
clientapp = "a:b"
[tool.flwr.app.config]
lr = 0.1
rounds = 3
[tool.flwr.federations]
default = "local"
[tool.flwr.federations.local]
options.num-supernodes = 6
"""
RUN = """
apiVersion: fedkube.io/v1alpha1
kind: FederatedRun
metadata: {name: one}
spec: {pool: {clients: 2}}
"""


@pytest.fixture
def app(write_app):
    return str(write_app(APP, a="b = 1\n"))


def write(folder, text):
    file = folder / "runs.yaml"
    file.write_text(text)
    return str(file)


def spec_of(fedkube, *words):
    done = fedkube("submit", *words, "--dry-run")
    assert done.code == 0, done.err
    return list(yaml.safe_load_all(done.out))[-1]["spec"]


# ---------------------------------------------------------------- an app's folder


def test_an_app_becomes_a_run_and_its_bundle(kubernetes, fedkube, app):
    done = fedkube("submit", app, "--image", "i:1", "--seed", "7", "-c", "rounds=2")
    assert (done.code, done.err) == (0, "")
    (run,), (config,) = kubernetes.of("federatedruns"), kubernetes.of("configmaps")
    assert done.out == run["metadata"]["name"] + "\n", "RUN=$(fedkube submit APP) works"
    assert run["metadata"]["name"].startswith("digits-of-jos-")
    assert run["metadata"]["namespace"] == "ml"
    spec = run["spec"]
    assert spec["app"]["image"] == "i:1"
    assert spec["runConfig"] == {"rounds": 2}
    assert spec["seed"] == 7
    assert spec["pool"] == {"clients": 6}
    assert spec["app"]["bundle"]["configMap"] == config["metadata"]["name"]
    assert config["metadata"]["ownerReferences"][0]["uid"] == run["metadata"]["uid"]
    packed = b64decode(config["binaryData"]["app.zip"])
    assert "a.py" in zipfile.ZipFile(io.BytesIO(packed)).namelist()
    assert bundle.pack(__import__("pathlib").Path(app))[1] == spec["app"]["bundle"]["sha256"]


def test_two_runs_of_an_app_have_names_of_their_own(kubernetes, fedkube, app):
    assert fedkube("submit", app).out != fedkube("submit", app).out


def test_a_name_that_is_taken(kubernetes, fedkube, app):
    kubernetes.put("federatedruns", a_run("mine"))
    done = fedkube("submit", app, "--name", "mine")
    assert done.code == 2
    assert "there is a run 'mine' in namespace 'ml'" in done.err
    assert "fedkube delete mine -n ml" in done.err
    assert kubernetes.of("configmaps") == []


def test_a_run_whose_code_cannot_be_sent_is_taken_back(kubernetes, fedkube, app):
    words = 'configmaps is forbidden: User "eve" cannot create resource "configmaps" in API group '
    words += '"" in the namespace "ml"'
    kubernetes.refusals.append(
        lambda method, path: (403, status(403, words)) if "configmaps" in path else None
    )
    done = fedkube("submit", app)
    assert done.code == 5
    assert "you (eve) may not create configmaps" in done.err
    assert kubernetes.of("federatedruns") == []
    assert done.out == ""


def test_what_pods_get(fedkube, app):
    spec = spec_of(
        fedkube, app, "--gpus", "2", "--cpu", "500m", "--memory", "4Gi", "--server-memory", "2Gi",
        "--priority-class", "low", "--storage", "5Gi", "--storage-class", "fast", "--keep",
        "--ttl", "7d", "--deadline", "90m", "--journal", "s3://bucket/journals", "--keep-journal",
        "--journal-bytes", "1000000",
    )  # fmt: skip
    assert spec["pool"]["pod"] == {
        "resources": {
            "requests": {"cpu": "500m", "memory": "4Gi"},
            "limits": {"memory": "4Gi", "nvidia.com/gpu": 2},
        },
        "priorityClassName": "low",
    }
    assert spec["server"]["pod"]["resources"]["limits"] == {"memory": "2Gi"}
    assert spec["server"]["pod"]["priorityClassName"] == "low"
    assert spec["server"]["storage"] == {"size": "5Gi", "className": "fast", "keep": True}
    assert spec["server"]["journal"] == "s3://bucket/journals"
    assert spec["server"]["keepJournal"] is True
    assert spec["server"]["journalBytes"] == 1_000_000
    assert spec["ttlSecondsAfterFinished"] == 7 * 86400
    assert spec["activeDeadlineSeconds"] == 5400


def test_rounds_are_described_as_on_a_laptop(fedkube, app):
    words = ("--cohort", "fraction=0.5 deadline-seconds=60", "--compression", "int8")
    spec = spec_of(fedkube, app, *words)
    assert spec["cohort"] == {"fraction": 0.5, "deadlineSeconds": 60}
    assert spec["compression"] == "int8"


def test_accelerators_of_another_name(fedkube, app):
    spec = spec_of(fedkube, app, "--gpus", "amd.com/gpu=1", "--clients-per-gpu", "4")
    assert spec["pool"]["clientsPerAccelerator"] == 4
    assert spec["pool"]["pod"]["resources"]["limits"] == {"amd.com/gpu": 1}


def test_devices_by_their_class(fedkube, app):
    spec = spec_of(fedkube, app, "--gpus", "gpu.nvidia.com=2")
    assert spec["pool"]["pod"] == {"devices": {"gpu.nvidia.com": 2}}


def test_as_many_clients_as_fit(fedkube, app):
    spec = spec_of(fedkube, app, "--gpus", "1", "--clients-per-gpu", "auto")
    assert spec["pool"]["clientsPerAccelerator"] == "auto"


def test_what_was_not_asked_for_is_left_to_the_cluster(fedkube, app):
    assert set(spec_of(fedkube, app)) == {"app", "pool"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--clients", "1"), "--clients: must be greater than or equal to 2, and is 1"),
        (("--workers", "0"), "--workers: must be greater than or equal to 1, and is 0"),
        (("--seed", "-1"), "--seed: must be greater than or equal to 0, and is -1"),
        (("--name", "No_Name"), "--name: 'No_Name' is no name of a run"),
        (("--name", "a" * 41), "at most 40"),
        (("--gpus", "many"), "--gpus is 'many'"),
        (("--gpus", "0"), "--gpus is '0'"),
        (("--gpus", "1", "--clients-per-gpu", "65"), "--clients-per-gpu: must be from 1 to 64"),
        (("--gpus", "1", "--clients-per-gpu", "some"), "--clients-per-gpu is 'some'"),
        (("--clients-per-gpu", "auto"), "goes with one accelerator a pod"),
        (("--clients-per-gpu", "2"), "goes with one accelerator a pod"),
        (("--gpus", "gpu=1"), "--gpus is 'gpu=1'"),
        (("--cpu", "two"), "--cpu is 'two'"),
        (("--memory", "4GiB"), "--memory is '4GiB'"),
        (("--server-memory", "x"), "--server-memory is 'x'"),
        (("--storage", "big"), "--storage: "),
        (("--journal", "here"), "--journal: "),
        (("--ttl", "soon"), "--ttl is 'soon'"),
        (("--deadline", "0"), "--deadline: must be greater than or equal to 1, and is 0"),
        (("--path", "/app"), "give --image too"),
        (("--cohort", "size=3"), "a cohort has no 'size'"),
        (("--cohort", "minimum=99"), "cohort.minimum is 99, and the run has 6 clients"),
        (("--compression", "zip"), "'zip' is not one of"),
        (("-c", "nope=1"), "no run config key 'nope'"),
        (("--watch", "--dry-run"), "nothing to --watch"),
    ],
)
def test_an_option_that_will_not_do_is_named_and_nothing_is_asked(
    kubernetes, fedkube, app, words, said
):
    done = fedkube("submit", app, *words)
    assert done.code == 2
    assert said in done.err
    assert kubernetes.requests == []


def test_an_app_in_an_image_is_not_sent(kubernetes, fedkube, app):
    assert fedkube("submit", app, "--image", "i:1", "--path", "/opt/app").code == 0
    (run,) = kubernetes.of("federatedruns")
    assert run["spec"]["app"] == {"image": "i:1", "path": "/opt/app"}
    assert kubernetes.of("configmaps") == []


def test_an_app_that_is_too_large_for_a_configmap(kubernetes, fedkube, write_app):
    folder = write_app(APP, a="b = 1\n")
    # Bytes that do not compress.
    (folder / "data.bin").write_bytes(__import__("os").urandom(1_100_000))
    done = fedkube("submit", str(folder))
    assert done.code == 3
    for words in ("at most 1,000,000 fit", "--image and --path", "spec.app.bundle.url"):
        assert words in done.err
    assert kubernetes.requests == []


def test_a_dry_run_needs_no_cluster_and_can_be_applied(fedkube, app, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    done = fedkube("submit", app, "--name", "mine", "-n", "lab", "--dry-run")
    assert done.code == 0, done.err
    config, run = yaml.safe_load_all(done.out)
    assert (config["kind"], run["kind"]) == ("ConfigMap", "FederatedRun")
    assert config["metadata"]["namespace"] == run["metadata"]["namespace"] == "lab"
    assert run["spec"]["app"]["bundle"]["configMap"] == config["metadata"]["name"]


def test_a_folder_that_is_no_app(kubernetes, fedkube, tmp_path):
    done = fedkube("submit", str(tmp_path))
    assert done.code == 3
    assert "no Flower app" in done.err


# ---------------------------------------------------------------- a file


def test_a_file_of_several_runs(kubernetes, fedkube, tmp_path):
    text = RUN + "---\n" + RUN.replace("one", "two") + "---\n"
    done = fedkube("submit", write(tmp_path, text))
    assert (done.code, done.out) == (0, "one\ntwo\n")
    assert [each["metadata"]["name"] for each in kubernetes.of("federatedruns", "ml")] == [
        "one", "two",
    ]  # fmt: skip


def test_stdin_and_json(kubernetes, fedkube, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(yaml.safe_load(RUN))))
    done = fedkube("submit", "-")
    assert (done.code, done.out) == (0, "one\n")


def test_a_list_as_kubectl_prints_it_is_created_anew(kubernetes, fedkube, tmp_path):
    old = a_run("one") | {"status": {"state": "Failed"}}
    old["metadata"] |= {"resourceVersion": "7", "generation": 3}
    listing = {"apiVersion": "v1", "kind": "List", "items": [old]}
    assert fedkube("submit", write(tmp_path, json.dumps(listing))).code == 0
    (run,) = kubernetes.of("federatedruns")
    assert "status" not in run
    assert run["metadata"]["uid"] != old["metadata"]["uid"]


def test_a_generated_name_is_told(kubernetes, fedkube, tmp_path):
    file = write(tmp_path, RUN.replace("name: one", "generateName: try-"))
    done = fedkube("submit", file)
    assert done.out.strip() == kubernetes.of("federatedruns")[0]["metadata"]["name"]
    assert done.out.startswith("try-")


def test_the_files_namespace_holds(kubernetes, fedkube, tmp_path):
    file = write(tmp_path, RUN.replace("name: one", "name: one, namespace: lab"))
    assert fedkube("submit", file).code == 0
    assert len(kubernetes.of("federatedruns", "lab")) == 1
    done = fedkube("submit", file, "-n", "ml")
    assert done.code == 2
    assert "--namespace is 'ml', and metadata.namespace of one is 'lab'" in done.err


def test_sites_are_clients_too(kubernetes, fedkube, tmp_path):
    file = write(
        tmp_path,
        RUN.replace("pool: {clients: 2}", "sites: [{name: a}, {name: b}]"),
    )
    assert fedkube("submit", file).code == 0
    done = fedkube("ls")
    assert done.out.splitlines()[1].split()[:3] == ["one", "Queued", "2"]


SITES = "sites: [{name: a, podd: {}}, {name: b}]"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("clients: 2", "clients: 1", "spec.pool.clients: must be greater than or equal to 2"),
        ("clients: 2", "clients: two", "spec.pool.clients: must be a valid integer"),
        (
            "clients: 2",
            "clients: 2, worker: 1",
            "spec.pool.worker: there is no such field; did you mean workers?",
        ),
        ("clients: 2", "workers: 2", "spec.pool.clients: it is missing"),
        ("pool: {clients: 2}", "", "give the clients as a pool or as sites"),
        (
            "pool: {clients: 2}",
            SITES,
            "spec.sites.0.podd: there is no such field; did you mean pod?",
        ),
        (
            "pool: {clients: 2}",
            "pol: {clients: 2}",
            "spec.pol: there is no such field; did you mean pool?",
        ),
        (
            "pool: {clients: 2}",
            "pool: {clients: 2}, runConfig: {a: [1]}",
            "spec.runConfig.a: must be a valid boolean or must be a valid integer",
        ),
        ("spec:", "specs:", "specs: there is no such field; did you mean spec?"),
        ("metadata: {name: one}", "", "metadata: it is missing"),
        ("name: one", "nam: one", "metadata.name: it is missing"),
        ("name: one", "name: One", "metadata.name: 'One' is no name of a run"),
        ("name: one", "name: a.b", "metadata.name: 'a.b' is no name of a run"),
        ("name: one", f"generateName: {'a' * 36}", "metadata.generateName"),
        ("name: one", "name: one, namespace: A", "metadata.namespace: 'A'"),
        ("kind: FederatedRun", "kind: ConfigMap", "ConfigMap is there (other objects: kubectl"),
        ("v1alpha1", "v1", "fedkube.io/v1alpha1 FederatedRun is wanted"),
    ],
)
def test_a_fault_in_a_file_names_its_field_and_nothing_is_asked(
    kubernetes, fedkube, tmp_path, old, new, said
):
    assert old in RUN
    done = fedkube("submit", write(tmp_path, RUN.replace(old, new)))
    assert done.code == 2, done.err
    assert said in done.err
    assert kubernetes.requests == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "neither YAML nor JSON"),
        ("", "has no object in it"),
        ("just words", "it is a str, and no object"),
    ],
)
def test_a_file_that_has_no_object(kubernetes, fedkube, tmp_path, text, said):
    done = fedkube("submit", write(tmp_path, text))
    assert done.code == 2
    assert said in done.err


def test_all_faults_are_told_and_the_object_is_named(kubernetes, fedkube, tmp_path):
    bad = RUN.replace("one", "Two").replace("clients: 2", "clients: 1, workers: 0")
    done = fedkube("submit", write(tmp_path, RUN + "---\n" + bad))
    assert done.code == 2
    assert "object 2: metadata.name" in done.err
    assert "spec.pool.clients" in done.err
    assert "spec.pool.workers" in done.err
    assert kubernetes.requests == [], "the first one is not created either"


def test_a_file_that_is_not_there(kubernetes, fedkube, tmp_path):
    done = fedkube("submit", str(tmp_path / "none.yaml"))
    assert done.code == 2
    assert "No such file" in done.err


@pytest.mark.parametrize("words", [("--image", "i"), ("--clients", "3"), ("--keep",)])
def test_options_of_an_app_are_refused_beside_a_file(kubernetes, fedkube, tmp_path, words):
    done = fedkube("submit", write(tmp_path, RUN), *words)
    assert done.code == 2
    assert f"{words[0]} is for an app's folder" in done.err


def test_only_one_run_is_watched(kubernetes, fedkube, tmp_path):
    file = write(tmp_path, RUN + "---\n" + RUN.replace("one", "two"))
    done = fedkube("submit", file, "--watch")
    assert done.code == 2
    assert "has 2" in done.err
    assert kubernetes.requests == []


# ---------------------------------------------------------------- a file, and the app's code


def test_a_file_may_say_all_but_the_code(kubernetes, fedkube, tmp_path, app):
    sites = "sites: [{name: a}, {name: b}]"
    file = write(tmp_path, RUN.replace("pool: {clients: 2}", sites))
    done = fedkube("submit", file, "--app", app)
    assert (done.code, done.out) == (0, "one\n"), done.err
    (run,), (config,) = kubernetes.of("federatedruns"), kubernetes.of("configmaps")
    assert run["spec"]["app"]["bundle"]["configMap"] == config["metadata"]["name"]
    assert [site["name"] for site in run["spec"]["sites"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "pool:",
            f"app: {{bundle: {{configMap: c, sha256: {'a' * 64}}}}}, pool:",
            "spec.app.bundle is in the file",
        ),
        ("name: one", "generateName: try-", "--app needs metadata.name"),
        ("pool:", "runConfig: {nonsense: 1}, pool:", "no run config key 'nonsense'"),
    ],
    ids=["two codes", "no name", "a config that the app does not have"],
)
def test_code_that_does_not_go_with_the_file(kubernetes, fedkube, tmp_path, app, old, new, said):
    done = fedkube("submit", write(tmp_path, RUN.replace(old, new)), "--app", app)
    assert done.code == 2
    assert said in done.err
    assert kubernetes.requests == []


def test_an_apps_folder_needs_no_app(kubernetes, fedkube, app):
    done = fedkube("submit", app, "--app", app)
    assert done.code == 2
    assert "--app is for a FILE" in done.err
