"""checkov on the rendered chart: nothing fails but what checkov.yaml explains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

import chart
import pytest
import yaml

pytestmark = pytest.mark.xdist_group("checkov")  # it is installed once

# It pins its dependencies to versions that Flower does not take: it has a place of its own.
VERSION = "3.3.30"
HOME = Path(os.environ.get("FEDKUBE_CACHE") or Path.home() / ".cache" / "fedkube")
EXPLAINED: dict[str, str] = yaml.safe_load((Path(__file__).parent / "checkov.yaml").read_text())


@pytest.fixture(scope="module")
def checkov() -> Path:
    """Its command; installed at the first need, which takes a minute or two."""
    place = HOME / f"checkov-{VERSION}"
    command = place / "bin" / "checkov"
    complete = place / "complete"
    if not complete.exists():
        quietly("-m", "venv", "--clear", str(place), timeout=120)
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        quietly(*pip, f"checkov=={VERSION}", timeout=900, python=place / "bin" / "python")
        complete.touch()
    return command


def quietly(*words: str, timeout: float, python: Path = Path(sys.executable)) -> None:
    done = subprocess.run(
        [python, *words], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


def report(checkov: Path, folder: Path, documents: list[dict[str, Any]]) -> dict[str, Any]:
    (folder / "chart.yaml").write_text(yaml.safe_dump_all(documents))
    # Nobody is to be asked anything; whoever is asked all the same is not there.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [
            *(checkov, "--directory", folder, "--framework", "kubernetes", "--output", "json"),
            *("--compact", "--skip-download", "--skip-results-upload"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **nowhere, "HOME": str(folder)},
        cwd=folder,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["summary"]["parsing_errors"] == 0
    return found


def failed(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (each["check_id"], each["resource"].partition(".")[0])
        for each in found["results"]["failed_checks"]
    }


@pytest.mark.timeout(1200)  # where it has to be installed first
@pytest.mark.parametrize(
    ("values", "wanting"),
    [
        (chart.DEFAULT, EXPLAINED.keys()),
        (chart.FULL, {"CKV_K8S_38"}),
    ],
    ids=["default", "full"],
)
def test_nothing_fails_that_is_not_explained(
    checkov: Path, tmp_path: Path, values: dict[str, Any], wanting: Set[str]
) -> None:
    found = report(checkov, tmp_path, chart.objects(values, apis=(chart.MONITORING,)))
    assert found["summary"]["passed"] > 100, "it has looked at something"
    assert {check for check, _ in failed(found)} == wanting
    skipped = found["results"]["skipped_checks"]
    assert {each["check_id"] for each in skipped} == {"CKV_K8S_8", "CKV_K8S_9"}
    for each in skipped:
        assert each["resource"] == "Pod.ml.fedkube-test"
        assert len(each["check_result"]["suppress_comment"]) > 20, each["check_id"]


@pytest.mark.timeout(1200)
def test_what_is_not_safe_is_found(checkov: Path, tmp_path: Path) -> None:
    documents = chart.objects()
    (deployment,) = chart.of_kind("Deployment", documents)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["securityContext"] |= {"privileged": True}
    del container["livenessProbe"]
    kept = [each for each in documents if each["kind"] != "NetworkPolicy"]
    found = failed(report(checkov, tmp_path, kept))
    assert {("CKV_K8S_16", "Deployment"), ("CKV_K8S_8", "Deployment")} <= found


def test_every_reason_is_one() -> None:
    assert EXPLAINED
    for check, reason in EXPLAINED.items():
        assert check.startswith("CKV")
        assert len(reason) > 60, check
