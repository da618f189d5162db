"""A relay's parts by themselves: what its fold sends up, and arrays that many wait for."""

from __future__ import annotations

import numpy as np
import pytest
from fedkube_server.blobs import BlobStore
from fedkube_server.folds import Fold, sent_arrays
from fedkube_server.landing import Landed
from fedkube_server.relay.fetches import Fetches
from fedkube_server.relay.folds import RelayFold

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.limits import MAX_CORRUPT
from fedkube.wire.tensors import digest
from fedkube.wire.uploads import Uploads

KEY = "num-examples"
GENERATOR = np.random.default_rng(7)
SENT = {
    "w": GENERATOR.normal(size=70_000).astype("f4"),
    "frozen": np.ones(5, "f4"),
    "empty": np.zeros(0, "f4"),
}
STORE = BlobStore()
BLOBS = [STORE.put(memoryview(values.tobytes())) for values in SENT.values()]
CONTENT = pb.Content()
for place, (each, values) in enumerate(SENT.items()):
    item = (CONTENT.records or [CONTENT.records.add(name="arrays")])[0].arrays.items.add(
        name=each, dtype="float32", blob=place, stype="numpy.ndarray"
    )
    item.shape.append(len(values))


def fold() -> Fold:
    return Fold({name: values.shape for name, values in SENT.items()}, KEY, cohort=6)


def update(number: int):
    """A client's outcome and arrays. Each second one leaves ``frozen`` alone, each third all."""
    outcome = pb.Outcome(call=number, content=CONTENT)
    metrics = outcome.content.records.add(name="metrics").metrics
    metrics.items.add(key=KEY, integer=3 * number + 1)
    arrays = dict(SENT)
    if number % 3:
        arrays["w"] = SENT["w"] * np.float32(10.0**number) + np.float32(number)
    if number % 2:
        arrays["frozen"] = SENT["frozen"] * np.float32(number)
    data = [memoryview(values.tobytes()) for values in arrays.values()]
    return outcome, [pb.Blob(digest=digest(each), nbytes=len(each)) for each in data], data


def add(into: Fold, number: int) -> pb.Outcome:
    outcome, blobs, data = update(number)
    landed = [Landed.known(each) for each in data]
    into.add(outcome, blobs, landed, sent_arrays(CONTENT, BLOBS))
    return outcome


def forward(relay: RelayFold, above: Fold, outcomes: dict[int, pb.Outcome]) -> list[int]:
    """Send a relay's sum up, as it travels."""
    names = {call: call + 100 for call in relay.calls}
    frame, pieces = relay.take(names)
    upload = Uploads().add(frame, pieces, set())
    above.check_sum(frame)
    landed = [Landed.known(memoryview(b"".join(upload.pieces[b.id]))) for b in frame.blobs]
    its = [outcomes[call - 100] for call in frame.calls]
    above.add_sum(frame, its, landed, sent_arrays(CONTENT, BLOBS))
    return list(frame.calls)


@pytest.mark.parametrize(
    "groups", [[range(6)], [[0, 1, 2], [3, 4, 5]], [[5], [4, 0], [3, 2, 1]]], ids=str
)
def test_sums_of_sums_change_no_bit(groups):
    straight, through = fold(), fold()
    for number in range(6):
        add(straight, number)
    task = pb.Task(content=CONTENT, fold=through.spec(4))
    relay = RelayFold(task)  # one, that is emptied again and again
    for group in groups:
        outcomes = {number: add(relay, number) for number in group}
        assert forward(relay, through, outcomes) == [number + 100 for number in group]
        assert relay.calls == []
    one, other = straight.mean(), through.mean()
    assert all(one[name].tobytes() == other[name].tobytes() for name in SENT)
    assert sorted(straight.weights) == sorted(through.weights)


def test_relays_below_relays_change_no_bit():
    straight, through = fold(), fold()
    for number in range(6):
        add(straight, number)
    task = pb.Task(content=CONTENT, fold=through.spec(4))
    lower, upper = RelayFold(task), RelayFold(task)
    outcomes = {}
    for number in range(6):
        outcomes[number] = add(lower, number)
        if number % 2:
            forward(lower, upper, outcomes)
    calls = upper.calls  # as its outcomes name them
    assert calls == list(range(6))
    forward(upper, through, outcomes)
    one, other = straight.mean(), through.mean()
    assert all(one[name].tobytes() == other[name].tobytes() for name in SENT)


# ------------------------------------------------------------- arrays from above

LARGE = bytes(range(256)) * 4096  # a whole frame


def task(assignment: int, *data: bytes, calls=(1,), held: bool = False) -> pb.Task:
    made = pb.Task(assignment=assignment, calls=[pb.Call(id=call) for call in calls])
    for each in data:
        number = int.from_bytes(digest(each)[:4], "little")
        made.blobs.add(id=number, digest=digest(each), nbytes=len(each), held=held)
    return made


def number_of(data: bytes) -> int:
    return task(0, data).blobs[0].id


@pytest.fixture
def store():
    return BlobStore()


@pytest.fixture
def fetches(store):
    return Fetches(store)


def write(fetches, data, start=0):
    return fetches.write(number_of(data), start, memoryview(data)[start:])


def test_an_array_comes_once_for_all_that_wait_for_it(fetches):
    assert fetches.begin(task(1, LARGE)) == (None, [])
    assert fetches.begin(task(2, LARGE, b"other", held=True))[1] == [
        pb.Want(blob=number_of(b"other"))
    ], "what is coming is not asked for, though it is said to be held"
    whole, again = write(fetches, LARGE)
    assert again is None
    assert [each.task.assignment for each in whole] == [1]
    assert fetches.assignments == [2]
    [second], _ = write(fetches, b"other")
    assert [bytes(blob.data) for blob in second.blobs] == [LARGE, b"other"]
    assert second.blobs[0] is whole[0].blobs[0]


def test_what_is_in_use_need_not_come(fetches, store):
    kept = store.put(memoryview(LARGE))
    whole, wants = fetches.begin(task(1, LARGE, b"", held=True))
    assert wants == []
    assert whole.blobs[0] is kept
    assert bytes(whole.blobs[1].data) == b""


def test_what_is_not_there_any_more_is_asked_for(fetches):
    assert fetches.begin(task(1, LARGE, held=True)) == (None, [pb.Want(blob=number_of(LARGE))])


def test_what_nobody_waits_for_is_dropped_and_may_come_anew(fetches):
    fetches.begin(task(1, LARGE, calls=(1, 2)))
    half = len(LARGE) // 2
    fetches.write(number_of(LARGE), 0, memoryview(LARGE)[:half])
    fetches.cancel({1}, set())
    assert fetches.assignments == [1]
    fetches.cancel({2}, set())
    assert fetches.assignments == []
    assert write(fetches, LARGE, half) == ([], None)
    fetches.begin(task(2, LARGE))
    [whole], _ = write(fetches, LARGE)
    assert bytes(whole.blobs[0].data) == LARGE


def test_what_another_waits_for_goes_on(fetches):
    fetches.begin(task(1, LARGE))
    half = len(LARGE) // 2
    fetches.write(number_of(LARGE), 0, memoryview(LARGE)[:half])
    fetches.begin(task(2, LARGE, calls=(7, 8)))
    fetches.cancel({8}, {1})
    [whole], _ = write(fetches, LARGE, half)
    assert [call.id for call in whole.task.calls] == [7]


def test_after_a_cut_it_is_asked_from_where_it_was(fetches):
    fetches.begin(task(1, LARGE))
    fetches.begin(task(2, LARGE))
    half = len(LARGE) // 2
    fetches.write(number_of(LARGE), 0, memoryview(LARGE)[:half])
    want = pb.Want(blob=number_of(LARGE), offset=half)
    assert [list(need.wants) for need in fetches.needs()] == [[want]]
    whole, _ = write(fetches, LARGE, half)
    assert [each.task.assignment for each in whole] == [1, 2]


def test_a_wrong_digest_is_asked_for_again_three_times(fetches):
    fetches.begin(task(1, LARGE))
    wrong = memoryview(LARGE[::-1])
    for _ in range(MAX_CORRUPT - 1):
        whole, again = fetches.write(number_of(LARGE), 0, wrong)
        assert (whole, again) == ([], pb.Need(of=1, wants=[pb.Want(blob=number_of(LARGE))]))
    with pytest.raises(Rejected, match="never with the digest"):
        fetches.write(number_of(LARGE), 0, wrong)
