from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError

import pytest
import yaml
from typer.testing import CliRunner

from fedkube.cli import doctor
from fedkube.cli.main import app


@pytest.fixture(autouse=True)
def no_kubeconfig(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))


@pytest.fixture
def kubeconfig(monkeypatch, tmp_path):
    def write(text):
        path = tmp_path / "config"
        path.write_text(text)
        monkeypatch.setenv("KUBECONFIG", f"{path}:/other")

    return write


@pytest.fixture
def missing(monkeypatch):
    """Make a package look as if it were not installed."""
    real = doctor.version

    def hide(name):
        def version(wanted):
            if wanted == name:
                raise PackageNotFoundError(name)
            return real(wanted)

        monkeypatch.setattr(doctor, "version", version)

    return hide


def found(what):
    return {each.what: each for each in doctor.examine()}[what]


def test_json_is_one_list_of_findings():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    findings = json.loads(result.stdout)
    assert {"what", "ok", "found", "needed_for"} == set(findings[0])
    assert {"fedkube", "flwr", "cores", "memory", "Kubernetes context"} <= {
        each["what"] for each in findings
    }


def test_the_table_names_everything():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    for each in doctor.examine():
        assert each.what in result.stdout


def test_what_a_run_needs_and_is_missing_makes_the_exit_code_5(missing):
    missing("flwr")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 5


def test_what_only_some_need_does_not(missing):
    missing("torch")
    assert found("torch").found == "not installed"
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_a_disk_that_is_almost_full_is_found(monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage)
    assert not found("disk here").ok


def test_a_temporary_folder_that_cannot_be_used_is_found(monkeypatch):
    def fail():
        raise OSError("read-only")

    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", fail)
    assert not found("temporary folder").ok


def test_a_kubeconfigs_context_is_named(kubeconfig):
    kubeconfig(yaml.safe_dump({"current-context": "lab"}))
    assert (found("Kubernetes context").ok, found("Kubernetes context").found) == (True, "lab")


@pytest.mark.parametrize("text", ["", "[]", "a: [", "contexts: []"])
def test_a_kubeconfig_without_a_context_is_no_error(kubeconfig, text):
    kubeconfig(text)
    assert not found("Kubernetes context").ok


def test_no_kubeconfig_is_no_error():
    assert "no kubeconfig" in found("Kubernetes context").found
