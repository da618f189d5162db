from __future__ import annotations

import io
from pathlib import Path

import pytest

from fedkube.cli.progress import LiveView, PatientConsole, RunView, view_for
from fedkube.core.run_states import RunState
from fedkube.proto.v1 import exchange_pb2 as pb


@pytest.fixture
def console():
    return PatientConsole(file=io.StringIO(), width=300, highlight=False)


def printed(console):
    return console.file.getvalue()


def test_the_head_says_what_runs(console, make_record):
    with RunView(console, make_record(plan="2 workers: why"), rounds=True):
        pass
    assert printed(console) == "20260101-000000-a-beef  3 clients, 2 workers: why, seed 7\n"


def test_a_line_for_each_round_that_has_ended(console, make_record):
    view = RunView(console, make_record(), rounds=True)
    ended = pb.RoundLine(
        round=2,
        seconds=1.5,
        clients=1,
        failures=2,
        metrics=[pb.Metric(name="train.[loss]", value=0.123456)],
    )
    view.snapshot(pb.Snapshot(rounds=5, eta_s=4.5, ended=[ended]))
    view.snapshot(pb.Snapshot(rounds=5))
    assert printed(console) == (
        "round 2/5  1.5 s  1 client  2 failed  train.[loss] 0.1235  about 4.5 s to go\n"
    )


def test_who_is_late_and_who_was_not_waited_for_has_not_failed(console, make_record):
    view = RunView(console, make_record(), rounds=True)
    ended = pb.RoundLine(round=2, seconds=1.5, clients=8, late=3, not_needed=2)
    view.snapshot(pb.Snapshot(ended=[ended]))
    assert printed(console) == "round 2  1.5 s  8 clients  3 of them late  2 not waited for\n"


def test_without_progress_there_are_no_lines(console, make_record):
    view = RunView(console, make_record(), rounds=False)
    view.snapshot(pb.Snapshot(ended=[pb.RoundLine(round=1)]))
    assert printed(console) == ""


def test_what_a_process_prints_is_shown_as_it_is(console, make_record):
    RunView(console, make_record(), rounds=False).log("worker-0", "[bold]not markup[/bold]")
    assert printed(console) == " worker-0 │ [bold]not markup[/bold]\n"


def test_a_good_end(console, make_record):
    record = make_record(
        state=RunState.SUCCEEDED,
        rounds=1,
        duration_s=0.25,
        bytes_down=1_500_000,
        bytes_up=999,
        server_peak_rss_bytes=2_000_000_000,
        metrics={"train.loss": 0.123456789},
        reason="Completed",
        message="the ServerApp returned",
    )
    RunView(console, record, rounds=True).conclude(record, Path("runs/x"))
    assert printed(console).splitlines() == [
        "Succeeded  1 round, 250 ms, 1.5 MB down, 999 B up, server peak 2.0 GB",
        "  train.loss = 0.123457",
        "all of it is in runs/x",
    ]


def test_a_bad_end_says_why_with_the_traceback_before_it(console, make_record):
    record = make_record(state=RunState.FAILED, message="it [raised]", details="Traceback [x]")
    RunView(console, record, rounds=True).conclude(record, Path("out"))
    lines = printed(console).splitlines()
    assert lines[0] == "Traceback [x]"
    assert "why: it [raised]" in lines


def test_a_stopped_run_shows_no_traceback(console, make_record):
    record = make_record(state=RunState.STOPPED, message="by a person", details="Traceback")
    RunView(console, record, rounds=True).conclude(record, Path("out"))
    assert "Traceback" not in printed(console)
    assert "why: by a person" in printed(console)


@pytest.mark.parametrize(
    ("terminal", "wanted", "kind"),
    [(True, True, LiveView), (True, False, RunView), (False, True, RunView)],
)
def test_only_a_terminal_is_shown_what_moves(make_record, terminal, wanted, kind):
    console = PatientConsole(file=io.StringIO(), force_terminal=terminal)
    assert type(view_for(console, make_record(), wanted)) is kind


@pytest.mark.parametrize(
    ("snapshot", "parts"),
    [
        (pb.Snapshot(eta_s=-1), ["round 0", "waiting for the first worker"]),
        (pb.Snapshot(workers=1, eta_s=-1), ["the server is at work"]),
        (
            pb.Snapshot(
                round=2,
                rounds=5,
                phase="train",
                clients=10,
                done=4,
                running=2,
                failed=1,
                workers=2,
                eta_s=61,
            ),
            ["round 2/5", "train: 4/10 clients", "2 running on 2 workers", "1 failed"],
        ),
    ],
)
def test_what_stays_at_the_bottom(console, make_record, snapshot, parts):
    view = LiveView(console, make_record())
    view.snapshot(snapshot)
    console.print(view)
    assert all(part in printed(console) for part in parts)
