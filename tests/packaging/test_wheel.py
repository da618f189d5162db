"""What ships works: the wheel, without the source tree beside it."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("wheel")  # it is built once

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_it_holds_the_three_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "fedkube",
        "fedkube_server",
        "fedkube_client",
    }
    assert "fedkube/proto/v1/exchange.proto" in names
    assert "fedkube/cli/template/pyproject.toml.in" in names


def test_a_run_works_from_it(wheel, tmp_path):
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    script = (
        "import sys, fedkube, fedkube_server, fedkube_client\n"
        f"assert all(m.__file__.startswith({str(installed)!r}) for m in "
        "(fedkube, fedkube_server, fedkube_client))\n"
        "from fedkube.cli.main import main\n"
        "sys.exit(main())\n"
    )

    def fedkube(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert fedkube("new", "fresh").returncode == 0
    ran = fedkube("run", "fresh", "--json", "--clients", "3")
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["state"] == "Succeeded"
    assert result["metrics"]["evaluate.eval_loss"] < 0.1


def test_a_device_installs_neither_kubernetes_nor_torch(wheel):
    metadata = next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    always = [
        line.split(": ")[1].split(">")[0].split("=")[0].strip().lower()
        for line in text.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert "grpcio" in always
    assert not {"kubernetes", "kopf", "torch", "scikit-learn", "matplotlib"} & set(always)
