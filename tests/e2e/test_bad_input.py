"""Everything a person can get wrong: a sentence, the documented exit code, and nothing started."""

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from fedkube.store.run_folder import RunFolder


@pytest.fixture
def app(tmp_path) -> Path:
    """A folder that a test may spoil."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[tool.flwr.app.components]\n'
        'serverapp = "s:app"\nclientapp = "c:app"\n[tool.flwr.app.config]\nlearning-rate = 0.1\n'
    )
    return folder


def test_no_such_folder(fedkube, tmp_path):
    done = fedkube("run", "nowhere")
    assert done.returncode == 3
    assert "there is no folder 'nowhere'" in done.stderr
    assert "fedkube new" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_no_pyproject(fedkube, app):
    (app / "pyproject.toml").unlink()
    done = fedkube("run", str(app))
    assert done.returncode == 3
    assert "has no pyproject.toml, so it is no Flower app" in done.stderr


@pytest.mark.parametrize("section", ["", "[tool.flwr.app]\n"])
def test_no_components(fedkube, app, section):
    (app / "pyproject.toml").write_text('[project]\nname = "x"\n' + section)
    done = fedkube("run", str(app))
    assert done.returncode == 3
    assert "section, so it is no Flower app" in done.stderr


def test_a_component_that_is_not_there(run, app):
    (app / "s.py").write_text("other = 1\n")
    (app / "c.py").write_text("from flwr.clientapp import ClientApp\n\napp = ClientApp()\n")
    ran = run(app)
    assert ran.code == 3
    assert "module 's' lacks the attribute" in ran.text


def test_a_component_of_another_kind(run, app):
    (app / "s.py").write_text("app = 'a string'\n")
    (app / "c.py").write_text("from flwr.clientapp import ClientApp\n\napp = ClientApp()\n")
    ran = run(app)
    assert ran.code == 3
    assert "'s:app' is a str, and must be a ServerApp" in ran.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--clients", "0"], "--clients is 0, and a run needs at least 1"),
        (["--workers", "0"], "--workers is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--port", "70000"], "--port is 70000"),
        (
            ["--journal", "somewhere"],
            "--journal is 'somewhere', and must be 'off' or begin with s3",
        ),
        (["--client-timeout", "0"], "--client-timeout is 0"),
        (["--checkpoint-every", "-1"], "--checkpoint-every is -1"),
        (["--run-config", "learning-rte=1"], "did you mean 'learning-rate'?"),
        (["--run-config", "zzz=1"], "the app's keys are: learning-rate"),
        (["--run-config", "learning-rate"], "is not of the form key=value"),
        (["--run-config", "nowhere.toml"], "cannot read the run config file nowhere.toml"),
        (["--run-config", "learning-rate='1"], "opened and never closed"),
        (["--clients", "many"], "many"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_options_that_are_wrong(fedkube, app, tmp_path, options, sentence):
    done = fedkube("run", str(app), *options)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_a_run_is_not_written_over(run, fedkube, apps, tmp_path):
    ran = run(apps / "message_api", "--clients", "2")
    before = (ran.folder / "run.json").read_bytes()
    done = fedkube("run", str(apps / "message_api"), "--out", str(ran.folder))
    assert done.returncode == 2
    assert "holds a run already" in done.stderr
    assert (ran.folder / "run.json").read_bytes() == before


def test_a_folder_that_cannot_be_made(fedkube, apps, tmp_path):
    (tmp_path / "file").write_text("")
    done = fedkube("run", str(apps / "message_api"), "--out", "file/run")
    assert done.returncode == 5
    assert "cannot make the folder" in done.stderr


def test_more_clients_wanted_than_there_are(run, examples):
    ran = run(examples / "breast-cancer", "--clients", "1")
    assert ran.code == 3
    assert "is 2, and the run has 1 client" in ran.text
    assert "--clients 2" in ran.text


def test_a_port_in_use(run, apps):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = run(apps / "message_api", "--port", port, "--json")
    assert ran.code == 5
    assert ran.json["state"] == "Failed"
    assert f"cannot listen on 127.0.0.1:{port}" in ran.json["message"]


def test_a_port_that_is_free_is_taken(run, apps):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    assert run(apps / "message_api", "--port", port).code == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB; only root can make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("cannot mount a small file system here: this test needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(run, apps, small_disk):
    # Models of 200 kB: the third checkpoint does not fit any more.
    ran = run(
        apps / "echo", "--clients", "3", "--json", "--keep-checkpoints", "0",
        "-c", "megabytes=0.2 num-server-rounds=9", out="small/run",
    )  # fmt: skip
    assert ran.code == 5, ran.text
    assert ran.json["state"] == "Failed"
    assert "the disk is full: cannot write" in ran.json["message"]
    assert ran.record.state == "Failed", "there was room left to write down how it ended"
    kept = sorted((ran.folder / "checkpoints").iterdir())
    assert kept
    assert all(path.stat().st_size > 190_000 for path in kept), "what is there is whole"
    assert not list(ran.folder.rglob("*.tmp"))
    assert [each.round for each in ran.rounds] == list(range(1, len(kept) + 1))


@pytest.fixture
def full_in_round_2(begin, apps, small_disk):
    """A run whose disk has no room any more, and the file that takes it."""

    def fill():
        running = begin(
            apps / "misbehave", "--clients", "2", "--json",
            "-c", "sleep=0.6 size=2000 num-server-rounds=3", out="small/run",
        )  # fmt: skip
        running.await_that(lambda: len(RunFolder(running.folder).read_history()) == 1, "round")
        running.await_line("begins", count=3)
        hog = small_disk / "hog"
        with open(hog, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        said = iter(running.process.stderr)  # the log is on the full disk, too
        assert any("the run waits" in line for line in said)
        time.sleep(1)
        assert running.process.poll() is None
        assert len(RunFolder(running.folder).read_history()) == 1, "nobody acts on what is not kept"
        return running, hog

    return fill


def test_a_disk_that_is_full_for_a_while(full_in_round_2):
    running, hog = full_in_round_2()
    hog.unlink()
    ran = running.wait()
    assert ran.code == 0, ran.text
    assert [each.round for each in ran.rounds] == [1, 2, 3]
    assert ran.log.count("the run waits: there is no room for") == 1
    assert ran.log.count("the run goes on:") == 1


def test_a_run_that_waits_for_room_is_stopped(full_in_round_2, fedkube, ends):
    running, hog = full_in_round_2()
    family = list(running.family())
    began = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    ran = running.wait(timeout=20)
    assert time.monotonic() - began < 15
    assert ran.code in (5, 130), "it ends as Stopped, if what is to be written at the end has room"
    assert ran.record.state.final
    assert ends(family, 1)
    hog.unlink()
    assert fedkube("resume", str(running.folder)).returncode == 0
    assert [each.round for each in ran.rounds] == [1, 2, 3]


def test_a_disk_with_an_io_error(run, fedkube, apps, tmp_path, monkeypatch):
    """Nobody knows what is on such a disk, so nothing is acted upon."""
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import errno, os\n"
        "syncs = iter([1, 2])\n"
        "def fdatasync(file):\n"
        "    if next(syncs, None) is None:\n"
        "        raise OSError(errno.EIO, os.strerror(errno.EIO))\n"
        "os.fdatasync = fdatasync\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(patch))
    ran = run(apps / "misbehave", "--clients", "2", "--json")
    assert ran.code == 5, ran.text
    assert ran.json["state"] == "Failed"
    assert f"cannot write {ran.folder}/journal: Input/output error" in ran.json["message"]
    assert ran.result["replies"] == [2], "the second round was not aggregated"
    assert fedkube("resume", str(ran.folder), PYTHONPATH="").returncode == 0
    assert [each.round for each in ran.rounds] == [1, 2, 3]
