from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from fedkube_server import round_lines
from fedkube_server.recorder import Recorder

from fedkube.api.v1alpha1 import Checkpoints
from fedkube.core.run_states import RunEvent, RunState
from fedkube.store.history import Failure, Stale


@pytest.fixture
def traffic():
    return [0, 0]


@pytest.fixture
def recorder(make_recorder, traffic):
    return make_recorder(lambda: tuple(traffic))


def numbers(folder):
    return [each.round for each in folder.read_history()]


# ------------------------------------------------------------- rounds and phases


def test_a_strategys_number_is_the_round(recorder, folder):
    for number in (1, 2):
        recorder.end(recorder.begin("train", "train", 2, number))
        recorder.end(recorder.begin("evaluate", "evaluate", 2, number))
    recorder.close_round()
    assert numbers(folder) == [1, 2]
    assert [list(each.phases) for each in folder.read_history()] == [["train", "evaluate"]] * 2


def test_without_a_number_a_phase_that_comes_again_begins_a_round(recorder, folder):
    for name in ("query", "train", "train", "evaluate", "train"):
        recorder.end(recorder.begin(name, name, 1))
    recorder.close_round()
    assert [list(each.phases) for each in folder.read_history()] == [
        ["query", "train"],
        ["train", "evaluate"],
        ["train"],
    ]


def test_what_is_measured_before_training_is_round_0(recorder, folder):
    recorder.measured(0, {"accuracy": 0.1})
    recorder.begin("train", "train", 1)
    recorder.close_round()
    assert numbers(folder) == [0, 1]
    assert folder.read_history()[0].server == {"accuracy": 0.1}


def test_measurements_of_one_round_are_put_together(recorder, folder):
    recorder.begin("train", "train", 1, 1)
    recorder.measured(1, {"a": 1})
    recorder.measured(1, {"b": 2})
    recorder.close_round()
    assert folder.read_history()[0].server == {"a": 1, "b": 2}


def test_replies_and_failures_are_written_down(recorder, folder):
    phase = recorder.begin("train", "train.fast", 3)
    recorder.settled(phase, 2, None)
    recorder.settled(phase, 0, "it raised")
    recorder.metrics("train", {"loss": 0.5})
    recorder.close_round()
    (entry,) = folder.read_history()
    came = entry.phases["train"]
    assert (came.message_type, came.asked, came.clients) == ("train.fast", 3, [2])
    assert came.failures == [Failure(0, "it raised")]
    assert came.metrics == {"loss": 0.5}
    assert (recorder.asked, recorder.answered) == (3, 1)


def test_a_reply_that_turned_out_unfit_becomes_a_failure(recorder):
    phase = recorder.begin("train", "train", 2)
    recorder.settled(phase, 0, None)
    recorder.settled(phase, 1, None)
    recorder.refused(phase, 1, "NaN")
    recorder.refused(phase, 9, "never counted")
    assert phase.clients == [0]
    assert phase.failures == [Failure(1, "NaN")]


def test_metrics_of_a_phase_that_the_round_has_not_had_are_left_out(recorder, folder):
    recorder.metrics("train", {"loss": 1})
    recorder.begin("train", "train", 1)
    recorder.metrics("evaluate", {"loss": 1})
    recorder.close_round()
    assert folder.read_history()[0].flat_metrics() == {}


# ------------------------------------------------------------- seconds and bytes


def test_a_phase_is_measured_from_its_begin_to_its_last_reply(recorder, clock, traffic):
    phase = recorder.begin("train", "train", 2)
    clock.advance(1)
    traffic[:] = [10, 100]
    recorder.settled(phase, 0, None)
    clock.advance(2)
    traffic[:] = [30, 150]
    recorder.settled(phase, 1, None)
    recorder.end(phase)
    clock.advance(50)
    recorder.end(phase)
    assert (phase.seconds, phase.bytes_up, phase.bytes_down) == (3, 30, 150)


def test_a_rounds_seconds_are_from_its_begin_to_its_end(recorder, clock, folder):
    clock.advance(100)
    for number in (1, 2):
        recorder.begin("train", "train", 1, number)
        clock.advance(2 * number)
    recorder.close_round()
    assert [each.seconds for each in folder.read_history()] == [2, 4]


# ------------------------------------------------------------- what is on disk, and when


def test_a_round_is_on_disk_before_the_next_begins(recorder, folder):
    recorder.begin("train", "train", 1, 1)
    recorder.arrays(lambda: {"w": np.zeros(1)})
    assert numbers(folder) == []
    recorder.begin("train", "train", 1, 2)
    assert numbers(folder) == [1]
    assert [path.name for path in folder.checkpoints()] == ["round-000001.safetensors"]


def test_nothing_new_is_not_written_again(recorder, folder):
    recorder.begin("train", "train", 1, 1)
    recorder.close_round()
    (folder.path / "history.json").unlink()
    recorder.close_round()
    assert not (folder.path / "history.json").exists()


@pytest.mark.parametrize(
    ("every", "keep", "rounds"), [(1, 0, [1, 2, 3, 4]), (2, 0, [2, 4]), (0, 0, []), (1, 2, [3, 4])]
)
def test_checkpoints_are_kept_as_asked(make_recorder, folder, every, keep, rounds):
    recorder = make_recorder(checkpoints=Checkpoints(every=every, keep=keep))
    for number in (1, 2, 3, 4):
        recorder.begin("train", "train", 1, number)
        recorder.arrays(lambda: {"w": np.zeros(1)})
    recorder.close_round()
    assert [path.stem for path in folder.checkpoints()] == [f"round-{n:06d}" for n in rounds]


def test_a_round_without_new_arrays_has_no_checkpoint(recorder, folder):
    recorder.begin("train", "train", 1, 1)
    recorder.arrays(lambda: {"w": np.zeros(1)})
    recorder.begin("train", "train", 1, 2)
    recorder.close_round()
    assert [path.stem for path in folder.checkpoints()] == ["round-000001"]


def test_a_measurement_of_a_round_that_is_behind_is_written_down_with_the_next(recorder, folder):
    recorder.begin("train", "train", 1, 1)
    recorder.begin("train", "train", 1, 2)
    recorder.measured(1, {"a": 1})
    recorder.measured(0, {"a": 0})
    recorder.close_round()
    assert [(each.round, each.server) for each in folder.read_history()] == [
        (0, {"a": 0}),
        (1, {"a": 1}),
        (2, {}),
    ]
    assert folder.read_history()[1].phases["train"].asked == 1


def test_a_measurement_of_a_round_without_clients_begins_it(recorder, folder, clock):
    recorder.begin("train", "train", 1, 1)
    clock.advance(3)
    recorder.measured(2, {"a": 1})
    assert numbers(folder) == [1]
    recorder.begin("evaluate", "evaluate", 1, 2)
    clock.advance(4)
    recorder.close_round()
    assert [each.seconds for each in folder.read_history()] == [3, 4]
    assert list(folder.read_history()[1].phases) == ["evaluate"]


def test_memory_does_not_grow_with_the_rounds_behind(make_recorder, monkeypatch):
    monkeypatch.setattr(round_lines, "KEPT", 10)
    recorder = make_recorder(clients=1000)

    def rounds(first, end):
        for number in range(first, end):
            phase = recorder.begin("train", "train", 1000, number)
            for client in range(1000):
                recorder.settled(phase, client, "it raised" if client % 10 == 0 else None)
            recorder.end(phase)

    def ours():
        """Bytes that calls of this test have: threads of earlier ones may still be at work."""
        gc.collect()
        calls = tracemalloc.Filter(True, __file__, all_frames=True)
        traces = tracemalloc.take_snapshot().filter_traces([calls])
        return sum(each.size for each in traces.traces)

    rounds(1, 30)
    gc.collect()
    tracemalloc.start(8)
    try:
        rounds(30, 40)
        before = ours()
        rounds(40, 120)
        grown = ours() - before
    finally:
        tracemalloc.stop()
    # A byte for each client and round would be this much; the set of one round takes half of it.
    assert grown < 80 * 1000, f"{grown} bytes in 80 rounds of 1000 clients"


# ------------------------------------------------------------- a server that goes on


@pytest.fixture
def second(folder, make_record, clock, recorder):
    """The recorder of a server that takes over after three rounds, the third not evaluated."""
    recorder.measured(0, {"accuracy": 0.1})
    for number in (1, 2, 3):
        phase = recorder.begin("train", "train", 2, number)
        recorder.settled(phase, 0, None)
        recorder.settled(phase, 1, f"it raised in round {number}" if number < 3 else None)
        recorder.arrays(lambda: {"w": np.zeros(1)})
        recorder.end(phase)
        clock.advance(number)
    recorder.close_round()
    return Recorder(folder, make_record(), clock, lambda: (0, 0), goes_on=True)


def test_what_is_recalled_stays_as_it_is_written_down(second, folder):
    before = (folder.path / "history.json").read_bytes()
    for number in (1, 2):
        second.settled(second.begin("train", "train", 2, number), 0, None)
    second.close_round()
    assert (folder.path / "history.json").read_bytes() == before
    assert [line.seconds for line in second.snapshot(0, 0, 1)[0].ended] == [1, 2]
    assert (second.asked, second.answered) == (4, 2)


def test_from_where_clients_are_asked_nothing_of_before_holds(second, folder, clock):
    second.begin("train", "train", 2, 1)
    second.settled(second.begin("train", "train", 2, 2), 0, None)
    second.asking()
    assert [path.stem for path in folder.checkpoints()] == ["round-000001"]
    clock.advance(50)
    second.close_round()
    assert [(each.round, each.seconds) for each in folder.read_history()] == [
        (0, 0),
        (1, 1),
        (2, 50),
    ]


def test_rounds_that_were_condensed_are_behind_at_once(second, folder):
    before = (folder.path / "history.json").read_bytes()
    second.forward(2)
    assert second.round == 2
    assert (second.asked, second.answered) == (4, 2)
    assert second.first_failure() == "it raised in round 2"
    assert [line.round for line in second.snapshot(0, 0, 1)[0].ended] == [0, 1, 2]
    second.close_round()
    assert (folder.path / "history.json").read_bytes() == before
    second.asking()
    second.settled(second.begin("train", "train", 2, 3), 0, None)
    second.close_round()
    assert [len(each.phases["train"].clients) for each in folder.read_history()[1:]] == [1, 1, 1]


def test_a_run_that_goes_on_sums_up_all_of_its_rounds(second, folder):
    second.started()
    second.forward(3)
    second.asking()
    phase = second.begin("train", "train", 3, 4)
    second.settled(phase, 2, None)
    second.metrics("train", {"loss": 0.5})
    second.finish(RunEvent.FINISHED)
    record = folder.read_record()
    assert (record.rounds, record.clients) == (4, 3)
    assert record.metrics == {"server.accuracy": 0.1, "train.loss": 0.5}


# ------------------------------------------------------------- the run


def test_a_run_from_start_to_end(recorder, folder, traffic):
    recorder.started()
    assert folder.read_record().state is RunState.RUNNING
    for number in (1, 2):
        phase = recorder.begin("train", "train", 2, number)
        recorder.settled(phase, number, None)
        recorder.settled(phase, 0, None)
        recorder.metrics("train", {"loss": 1 / number})
    recorder.arrays(lambda: {"w": np.ones(2)})
    traffic[:] = [7, 8]
    recorder.finish(RunEvent.FINISHED)
    record = folder.read_record()
    assert record.state is RunState.SUCCEEDED
    assert (record.rounds, record.clients) == (2, 3)
    assert record.metrics == {"train.loss": 0.5}
    assert (record.bytes_up, record.bytes_down) == (7, 8)
    assert (folder.path / "model.safetensors").exists()


def test_a_run_that_never_trained_has_no_model(recorder, folder):
    recorder.started()
    recorder.finish(RunEvent.STOPPED)
    record = folder.read_record()
    assert (record.state, record.model, record.rounds) == (RunState.STOPPED, None, 0)


def test_a_round_that_nothing_came_of_does_not_count(recorder, folder):
    recorder.started()
    recorder.settled(recorder.begin("train", "train", 1, 1), 0, None)
    recorder.settled(recorder.begin("train", "train", 1, 2), 0, "it raised")
    recorder.finish(RunEvent.BROKE)
    assert folder.read_record().rounds == 1


def test_a_run_ends_once(recorder):
    recorder.started()
    recorder.finish(RunEvent.FINISHED)
    with pytest.raises(LookupError):
        recorder.finish(RunEvent.BROKE)


def test_the_newest_value_of_each_metric_counts(recorder, folder):
    recorder.measured(0, {"a": 1, "b": 1})
    recorder.begin("train", "train", 1, 1)
    recorder.measured(1, {"a": 2})
    recorder.started()
    recorder.finish(RunEvent.FINISHED)
    assert folder.read_record().metrics == {"server.a": 2, "server.b": 1}


def test_the_first_failure_of_the_newest_round_that_has_one(recorder):
    assert recorder.first_failure() == ""
    for number, reasons in ((1, ["old"]), (2, ["first", "second"]), (3, [])):
        phase = recorder.begin("train", "train", 2, number)
        for reason in reasons:
            recorder.settled(phase, 0, reason)
    assert recorder.first_failure() == "first"


# ------------------------------------------------------------- watchers


def test_a_snapshot_says_where_the_run_is(recorder, traffic):
    recorder.rounds_planned = 5
    phase = recorder.begin("train", "train", 4, 1)
    recorder.settled(phase, 0, None)
    recorder.settled(phase, 1, "it raised")
    traffic[:] = [3, 4]
    snapshot, seen = recorder.snapshot(0, running=2, workers=2)
    assert (snapshot.round, snapshot.rounds, snapshot.phase) == (1, 5, "train")
    assert (snapshot.clients, snapshot.done, snapshot.failed, snapshot.running) == (4, 2, 1, 2)
    assert (snapshot.bytes_up, snapshot.bytes_down, snapshot.workers) == (3, 4, 2)
    assert (len(snapshot.ended), seen) == (0, 0)


def test_between_phases_no_phase_is_shown(recorder):
    recorder.end(recorder.begin("train", "train", 4, 1))
    assert recorder.snapshot(0, 0, 1)[0].phase == ""


def test_a_watcher_is_told_of_each_round_once_even_of_those_it_missed(recorder):
    seen = 0
    told = []
    for number in range(1, 6):
        recorder.settled(recorder.begin("train", "train", 1, number), 0, None)
        if number in (2, 5):
            snapshot, seen = recorder.snapshot(seen, 0, 1)
            told.append([line.round for line in snapshot.ended])
    assert told == [[1], [2, 3, 4]]


def test_who_was_not_waited_for_has_not_failed(recorder, folder):
    phase = recorder.begin("train", "train", 4, 1)
    recorder.settled(phase, 0, None)
    recorder.settled(phase, 1, "enough have answered", needed=False)
    recorder.settled(phase, 3, "at an earlier message", needed=False)
    assert recorder.snapshot(0, 0, 1)[0].failed == 0
    recorder.settled(phase, 2, "it raised")
    recorder.late(phase, 3, 2)
    snapshot = recorder.snapshot(0, 0, 1)[0]
    assert (snapshot.failed, snapshot.done) == (1, 4), "never more than were asked"
    recorder.close_round()
    (line,) = recorder.snapshot(0, 0, 1)[0].ended
    assert (line.clients, line.late, line.failures, line.not_needed) == (2, 1, 1, 2)
    assert recorder.first_failure() == "it raised"
    (entry,) = folder.read_history()
    assert [each.needed for each in entry.phases["train"].failures] == [False, False, True]
    assert entry.phases["train"].stale == [Stale(3, 2)]
    assert recorder.answered == 2


def test_a_watcher_that_comes_late_is_told_of_the_newest(make_recorder, monkeypatch):
    monkeypatch.setattr(round_lines, "KEPT", 3)
    recorder = make_recorder()
    for number in range(1, 8):
        recorder.settled(recorder.begin("train", "train", 1, number), 0, None)
    snapshot, seen = recorder.snapshot(0, 0, 1)
    assert [line.round for line in snapshot.ended] == [4, 5, 6]
    assert seen == 6
    recorder.close_round()
    assert [line.round for line in recorder.snapshot(seen, 0, 1)[0].ended] == [7]


def test_a_round_that_is_written_down_again_is_told_once(recorder):
    recorder.settled(recorder.begin("train", "train", 1, 1), 0, None)
    recorder.close_round()
    seen = recorder.snapshot(0, 0, 1)[1]
    recorder.metrics("train", {"loss": 0.5})
    recorder.close_round()
    assert not recorder.snapshot(seen, 0, 1)[0].ended
    assert len(recorder.snapshot(0, 0, 1)[0].ended) == 1


def test_how_long_it_will_take_is_told_from_the_last_rounds(recorder, clock):
    recorder.rounds_planned = 10
    assert recorder.snapshot(0, 0, 1)[0].eta_s == -1
    for number in range(1, 9):
        recorder.begin("train", "train", 1, number)
        clock.advance(100 if number < 3 else 2)
    recorder.close_round()
    assert recorder.snapshot(0, 0, 1)[0].eta_s == pytest.approx(2 * 2)


def test_without_a_plan_nobody_knows(recorder, clock):
    recorder.begin("train", "train", 1, 1)
    clock.advance(1)
    recorder.close_round()
    assert recorder.snapshot(0, 0, 1)[0].eta_s == -1


def test_whatever_a_watcher_would_see_is_announced(folder, make_record, clock):
    told = []
    recorder = Recorder(
        folder, make_record(), clock, lambda: (0, 0), changed=lambda: told.append(1)
    )
    steps = [
        lambda: recorder.begin("train", "train", 1, 1),
        lambda: recorder.settled(recorder._current.phases["train"], 0, None),
        lambda: recorder.end(recorder._current.phases["train"]),
        recorder.close_round,
        recorder.started,
        lambda: recorder.finish(RunEvent.FINISHED),
    ]
    for step in steps:
        before = len(told)
        step()
        assert len(told) > before
