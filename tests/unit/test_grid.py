from __future__ import annotations

import numpy as np
import pytest
from fedkube_server.blobs import BlobStore
from fedkube_server.calls import Answer
from fedkube_server.flower.grid import ExchangeGrid, Federation
from fedkube_server.flower.tracking import Tracker
from fedkube_server.halt import Ending, Halt, Halted
from fedkube_server.seats import Seats
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run

from fedkube.app.records import Encoder
from fedkube.core import ids
from fedkube.core.errors import Rejected
from fedkube.core.quantisation import Compression
from fedkube.core.run_states import RunEvent
from fedkube.proto.v1 import exchange_pb2 as pb

pytestmark = pytest.mark.usefixtures("as_server")

FEDERATION = Federation.of(seed=7, clients=3, client_timeout_s=None)


class FakeDriver:
    """Takes tasks, and settles them when and as the test says."""

    def __init__(self):
        self.tasks = []
        self.withdrawn = []
        self.at_once = None

    def remembered(self):
        return {}

    def submit(self, tasks):
        self.tasks += tasks
        if self.at_once is not None:
            for task in reversed(tasks):
                task.settled(self.at_once(task))

    def withdraw(self, task_ids, code, reason):
        self.withdrawn += task_ids
        for task in self.tasks:
            if task.id in task_ids:
                task.settled(pb.Failure(code=code, reason=reason))


def replies_with(**metrics):
    def respond(task):
        encoder = Encoder()
        numbers = {"client": task.client, **metrics}
        content = encoder.encode(RecordDict({"m": MetricRecord(numbers)}))
        answer = Answer(
            pb.Outcome(content=content, created_at=5.0, ttl=6.0),
            [memoryview(blob) for blob in encoder.blobs],
        )
        assert task.admit(answer) is None
        return answer

    return respond


def fails_with(code):
    return lambda task: pb.Failure(code=code, reason="why")


@pytest.fixture
def driver():
    return FakeDriver()


@pytest.fixture
def halt():
    return Halt()


@pytest.fixture
def recorder(make_recorder):
    return make_recorder()


@pytest.fixture
def grid(driver, recorder, halt):
    tracker = Tracker(recorder, halt, FEDERATION.node_ids)
    run = Run.create_empty(1)
    seats = Seats((), None, halt)
    return ExchangeGrid(run, FEDERATION, driver, BlobStore(), tracker, recorder, halt, seats)


def messages(*clients, kind="query", content=None, **options):
    content = RecordDict() if content is None else content
    return [Message(content, FEDERATION.node_ids[c], kind, **options) for c in clients]


# ------------------------------------------------------------- who is there


def test_all_logical_clients_are_there_from_the_start(grid):
    assert list(grid.get_node_ids()) == [ids.node_id(7, partition) for partition in range(3)]
    nodes = list(grid.get_nodes())
    assert [node.node_id for node in nodes] == list(grid.get_node_ids())
    assert {node.status for node in nodes} == {"online"}


def test_the_runs_description_is_a_copy(grid):
    assert grid.run is not grid.run
    assert grid.run.run_id == 1
    with pytest.raises(TypeError, match="must be a Run"):
        grid.set_run(1)


# ------------------------------------------------------------- what is sent


def test_a_message_becomes_a_task(grid, driver):
    grid.push_messages(messages(1, kind="train.x", ttl=60, group_id="g"))
    (task,) = driver.tasks
    call, frame = task.call, task.message.frame
    assert (task.client, call.partition, call.node) == (1, 1, FEDERATION.node_ids[1])
    assert (frame.message_type, frame.group, call.ttl) == ("train.x", "g", 60)
    assert call.seed == ids.call_seed(7, 1, 0)
    assert 0 < task.expires_in_s <= 60


@pytest.mark.parametrize("sites", [(), ("north", "south", "east")])
def test_training_alone_is_compressed_as_the_run_says(driver, recorder, halt, sites):
    federation = Federation.of(7, 3, None, Compression.INT8)
    tracker = Tracker(recorder, halt, federation.node_ids)
    seats = Seats(sites, None, halt)
    run = Run.create_empty(1)
    grid = ExchangeGrid(run, federation, driver, BlobStore(), tracker, recorder, halt, seats)
    for kind in ("train", "train.first", "evaluate", "query.training"):
        grid.push_messages(messages(0, kind=kind))
    told = [task.message.frame.compression for task in driver.tasks]
    assert told == [pb.COMPRESSION_INT8] * 2 + [pb.COMPRESSION_NONE] * 2
    # Whose worker is always the same one keeps what rounding loses.
    assert {task.message.frame.bound for task in driver.tasks} == {bool(sites)}


def test_each_call_of_a_client_has_its_own_seed(grid, driver):
    for _ in range(2):
        grid.push_messages(messages(0, 1))
    assert [task.call.seed for task in driver.tasks] == [
        ids.call_seed(7, client, call) for call in (0, 1) for client in (0, 1)
    ]
    assert len({task.id for task in driver.tasks}) == 4


def test_messages_of_a_round_share_their_arrays(grid, driver):
    record = ArrayRecord()
    record["w"] = Array(np.ones(100))
    shared = RecordDict({"a": record})
    own = [RecordDict({"a": record, "c": ConfigRecord({"n": i})}) for i in range(2)]
    grid.push_messages(messages(0, 1, content=shared) + messages(2, content=own[0]))
    grid.push_messages(messages(0, content=own[1]))
    used = {blob.id for task in driver.tasks for blob in task.message.blobs}
    assert len(used) == 1
    assert all(len(task.message.blobs) == 1 for task in driver.tasks)


def test_messages_of_one_content_may_be_one_assignment(grid, driver):
    shared = RecordDict()
    grid.push_messages(messages(0, 1, content=shared) + messages(2))
    kinds = [task.message.kind for task in driver.tasks]
    assert kinds[0] == kinds[1] != kinds[2]
    assert kinds[0].most > 1
    assert not kinds[0].foldable, "only a strategy's updates are summed"


def test_all_of_a_batch_may_be_waited_for_unless_somebody_says_otherwise(grid, driver):
    driver.at_once = replies_with()
    grid.send_and_receive(messages(0))
    grid.send_and_receive(messages(0), timeout=3600)  # as Flower's strategies do
    grid.send_and_receive(messages(0), timeout=10)
    grid.push_messages(messages(0))  # who knows when the app has had enough
    assert [task.message.kind.closes for task in driver.tasks] == [False, False, True, True]


def test_a_message_takes_only_the_blobs_that_it_refers_to(grid, driver):
    contents = [RecordDict({"a": ArrayRecord([np.full(3, float(i))])}) for i in range(3)]
    sent = [
        message
        for client, content in enumerate(contents)
        for message in messages(client, content=content)
    ]
    grid.push_messages(sent)
    for client, task in enumerate(driver.tasks):
        (blob,) = task.message.blobs
        assert np.frombuffer(blob.data).tolist() == [client] * 3
        assert task.message.frame.content.records[0].arrays.items[0].blob == 0


def test_a_message_that_no_frame_can_hold_is_refused_to_the_app_that_sends_it(grid, driver):
    """Where it is found out later, on the event loop, nobody is left to be told."""
    huge = RecordDict({"c": ConfigRecord({"text": "x" * (17 * 2**20)})})
    with pytest.raises(Rejected, match="put large values into an ArrayRecord"):
        grid.push_messages(messages(0, content=huge))
    assert driver.tasks == []


def test_a_client_that_is_unknown_gives_an_error_reply(grid, driver):
    (reply,) = grid.send_and_receive([Message(RecordDict(), 99, "query")])
    assert reply.error.code == ErrorCode.NODE_UNAVAILABLE
    assert reply.metadata.src_node_id == 99
    assert driver.tasks == []


# ------------------------------------------------------------- what comes back


def test_replies_are_in_the_order_of_the_messages_and_not_of_their_arrival(grid, driver):
    driver.at_once = replies_with()
    replies = grid.send_and_receive(messages(2, 0, 1))
    assert [reply.content["m"]["client"] for reply in replies] == [2, 0, 1]


def test_a_replys_metadata_mirrors_its_messages(grid, driver):
    driver.at_once = replies_with()
    sent = messages(1, kind="evaluate", group_id="g")
    (reply,) = grid.send_and_receive(sent)
    asked, got = sent[0].metadata, reply.metadata
    assert asked.message_id
    assert got.reply_to_message_id == asked.message_id != got.message_id
    assert (got.src_node_id, got.dst_node_id) == (asked.dst_node_id, asked.src_node_id)
    assert (got.run_id, got.group_id, got.message_type) == (1, "g", "evaluate")
    assert (got.created_at, got.ttl) == (5.0, 6.0)


@pytest.mark.parametrize(
    ("code", "flowers"),
    [
        (pb.Failure.APP_RAISED, ErrorCode.CLIENT_APP_RAISED_EXCEPTION),
        (pb.Failure.CRASHED, ErrorCode.CLIENT_APP_CRASHED),
        (pb.Failure.KILLED, ErrorCode.CLIENT_APP_CRASHED),
        (pb.Failure.TIMED_OUT, ErrorCode.CLIENT_APP_CRASHED),
        (pb.Failure.EXPIRED, ErrorCode.REPLY_MESSAGE_UNAVAILABLE),
        (pb.Failure.LOST, ErrorCode.NODE_UNAVAILABLE),
        (pb.Failure.REFUSED, ErrorCode.UNKNOWN),
    ],
)
def test_a_failure_becomes_the_error_that_flower_has_for_it(grid, driver, code, flowers):
    driver.at_once = fails_with(code)
    (reply,) = grid.send_and_receive(messages(0))
    assert (reply.error.code, reply.error.reason) == (flowers, "why")


def test_no_two_messages_have_the_same_id_in_no_life(grid, driver, recorder, halt):
    driver.at_once = replies_with()
    tracker = Tracker(recorder, halt, FEDERATION.node_ids)
    seats = Seats((), None, halt)
    other = ExchangeGrid(
        Run.create_empty(1), FEDERATION, driver, BlobStore(), tracker, recorder, halt, seats
    )
    seen = []
    for each in (grid, grid, other):
        asked = messages(0, 1, 2)
        got = list(each.send_and_receive(asked))
        seen += [message.metadata.message_id for message in (*asked, *got)]
    assert len(set(seen)) == len(seen) == 18
    assert {len(each) for each in seen} == {32}


def test_when_time_is_up_the_replies_that_are_there_are_given(grid, driver):
    def first_only(tasks):
        driver.tasks += tasks
        tasks[0].settled(replies_with()(tasks[0]))

    driver.submit = first_only
    replies = grid.send_and_receive(messages(0, 1, 2), timeout=0)
    assert [reply.content["m"]["client"] for reply in replies] == [0]
    assert driver.withdrawn == [2, 3]


def test_nothing_sent_is_nothing_received(grid, driver):
    assert grid.send_and_receive([]) == []
    assert grid.push_messages([]) == []
    assert driver.tasks == []


def test_a_pushed_messages_reply_is_pulled_once(grid, driver):
    (first, second) = grid.push_messages(messages(0, 1))
    assert list(grid.pull_messages([first, second, "unknown"])) == []
    driver.tasks[1].settled(replies_with()(driver.tasks[1]))
    (reply,) = grid.pull_messages([first, second])
    assert reply.metadata.reply_to_message_id == second
    assert list(grid.pull_messages([second])) == []


def test_a_phase_is_over_with_its_last_reply(grid, driver, recorder):
    grid.push_messages(messages(0, 1, kind="train"))
    for done, task in enumerate(driver.tasks):
        assert recorder.snapshot(0, 0, 1)[0].done == done
        task.settled(replies_with()(task))
    assert recorder.snapshot(0, 0, 1)[0].phase == ""
    assert recorder.answered == 2


def test_the_grid_of_a_run_that_has_ended_raises(grid, halt):
    halt.set(Ending(RunEvent.STOPPED, "Stopped", "by a person"))
    for use in (
        lambda: grid.get_node_ids(),
        lambda: grid.push_messages(messages(0)),
        lambda: grid.pull_messages([]),
        lambda: grid.send_and_receive(messages(0)),
    ):
        with pytest.raises(Halted):
            use()
