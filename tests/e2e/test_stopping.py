"""Ctrl-C: everything ends within a few seconds, and the folder says Stopped."""

import signal
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_in_the_middle_of_a_round(begin, apps, ends, number):
    running = begin(
        apps / "misbehave", "--clients", "4", "-c", "sleep=0.4 num-server-rounds=50", "--json"
    )
    running.await_line("[ROUND 2/50]")
    family = list(running.family())
    began = time.monotonic()
    running.process.send_signal(number)
    ran = running.wait(timeout=20)
    assert time.monotonic() - began < 15
    assert ran.code == 130, ran.text
    assert ran.json["state"] == ran.record.state == "Stopped"
    assert ran.record.message == f"stopped by {number.name}"
    assert ends(family, 1)
    assert [each.round for each in ran.rounds][:1] == [1], "the round that had ended is kept"
    assert (ran.folder / "model.safetensors").exists()


def test_a_run_stopped_while_the_app_is_busy_elsewhere(begin, tmp_path, ends):
    app = app_with_main(tmp_path, "import time; print('busy now'); time.sleep(600)")
    running = begin(app, "--json")
    running.await_line("busy now")
    family = list(running.family())
    running.process.send_signal(signal.SIGINT)
    ran = running.wait(timeout=20)
    assert (ran.code, ran.record.state) == (130, "Stopped")
    assert ends(family, 1)


def test_a_run_stopped_before_it_began(begin, apps, ends):
    running = begin(apps / "message_api", "--json")
    running.await_that(lambda: bool(running.pids("fedkube_server")), "server")
    family = list(running.family())
    running.process.send_signal(signal.SIGINT)
    ran = running.wait(timeout=20)
    assert (ran.code, ran.record.state) == (130, "Stopped"), ran.text
    assert ends(family, 1)


def test_an_app_that_catches_everything_is_stopped_too(begin, tmp_path, ends):
    body = """
    from flwr.app import Message, RecordDict
    while True:
        try:
            nodes = list(grid.get_node_ids())
            print("again")
            grid.send_and_receive([Message(RecordDict(), nodes[0], "query")])
        except Exception:
            pass
    """
    running = begin(app_with_main(tmp_path, body), "--json")
    running.await_line("again")
    family = list(running.family())
    running.process.send_signal(signal.SIGINT)
    ran = running.wait(timeout=20)
    assert (ran.code, ran.record.state) == (130, "Stopped")
    assert ends(family, 1)


def test_an_app_that_leaves_by_sys_exit_has_ended_well(begin, tmp_path):
    ran = begin(app_with_main(tmp_path, "import sys; print('done'); sys.exit(0)")).wait()
    assert (ran.code, ran.record.state) == (0, "Succeeded"), ran.text


def test_an_app_that_leaves_by_sys_exit_with_a_code_has_failed(begin, tmp_path):
    ran = begin(app_with_main(tmp_path, "import sys; sys.exit('no data')")).wait()
    assert (ran.code, ran.record.state) == (4, "Failed"), ran.text
    assert "no data" in ran.record.message


def app_with_main(folder: Path, body: str) -> Path:
    """A Flower app whose ServerApp does this."""
    import textwrap

    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(
        '[project]\nname = "tiny"\nversion = "1"\n'
        "[tool.flwr.app.components]\n"
        'serverapp = "tiny_main:app"\nclientapp = "tiny_client:app"\n'
    )
    (app / "tiny_main.py").write_text(
        "from flwr.serverapp import ServerApp\n\napp = ServerApp()\n\n\n@app.main()\n"
        "def main(grid, context):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"
    )
    (app / "tiny_client.py").write_text(
        "from flwr.app import Message\nfrom flwr.clientapp import ClientApp\n\n"
        "app = ClientApp()\n\n\n@app.query()\ndef query(message, context):\n"
        "    return Message(message.content, reply_to=message)\n"
    )
    return app
