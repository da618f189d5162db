"""What of a strategy is kept: plain values, bit for bit, and nothing that runs code."""

import collections
import functools
import logging
import os
import pickle
import random
import subprocess

import numpy as np
import pytest
from fedkube_server.flower import strategy_state
from fedkube_server.flower.strategy_state import NotPlain
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg

from fedkube.app import arrays
from fedkube.app.arrays import FoldedArray, WireArray


@pytest.fixture(autouse=True, scope="module")
def keep():
    arrays.keep_elements()


def there_and_back(value):
    pickled, buffers = strategy_state.dump(value)
    # As they come from a journal: read-only, and somewhere in it.
    return strategy_state.load(pickled, [memoryview(bytes(each)) for each in buffers])


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 2**70, 1.5, float("inf"), 1j, "text", b"bytes", bytearray(b"x")),
        *([1, [2]], (1, (2,)), {"a": {1: 2}}, {1, 2}, frozenset({3}), slice(1, 2), range(3)),
        collections.defaultdict(list, {1: [2]}),
        *(collections.Counter("aab"), collections.deque([1], 3), collections.OrderedDict(a=1)),
        *(np.float32(1.25), np.bool_(True), np.dtype("f4")),
        MetricRecord({"a": 1.0, "b": [1, 2]}),
        ConfigRecord({"a": "x", "b": [b"y"]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values(value):
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3)),
        *(np.array(5, "i8"), np.zeros((0, 3)), np.array(["a", "bc"]), np.arange(9)[::2]),
    ],
)
def test_arrays_with_their_order_and_to_be_written(array):
    back = there_and_back({"m_t": array})["m_t"]
    assert (back.dtype, back.shape, back.tobytes("A")) == (
        array.dtype,
        array.shape,
        array.tobytes("A"),
    )
    back[...] = back


def test_large_arrays_are_apart_from_the_pickle():
    pickled, buffers = strategy_state.dump({"w": np.zeros(10**6, "f4")})
    assert len(pickled) < 500
    assert [each.nbytes for each in buffers] == [4 * 10**6]


@pytest.mark.parametrize(
    "array",
    [
        WireArray(np.arange(3, dtype="f4")),
        Array(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
        Array("float32", (1,), "own", b"as it likes"),
    ],
    ids=["received", "made", "own"],
)
def test_records_of_arrays_are_as_they_were(array):
    record = ArrayRecord({"w": array})
    back = there_and_back(record)
    assert type(back) is ArrayRecord
    assert back == record
    (one,) = back.values()
    assert one.data == array.data
    if array.stype == "numpy.ndarray":
        elements = one.numpy()
        assert elements.flags.f_contiguous == array.numpy().flags.f_contiguous


@pytest.mark.parametrize("make", [random.Random, np.random.default_rng, np.random.RandomState])
def test_generators_go_on(make):
    one = make(3)
    one.random()
    other = there_and_back(one)
    assert [one.random() for _ in range(9)] == [other.random() for _ in range(9)]


@pytest.mark.parametrize(
    "value",
    [
        *(object(), lambda: 1, print, os.system, NotPlain("x"), open(os.devnull)),  # noqa: SIM115
        np.array([object()]),
        FoldedArray("w", (2,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_is_refused_and_named(value):
    with pytest.raises(NotPlain, match=r"an? [\w.<>]+"):
        strategy_state.dump({"deep": [value]})


class Evil:
    def __init__(self, function, *arguments):
        self._made = function, arguments

    def __reduce__(self):
        return self._made


@pytest.mark.parametrize(
    "pickled",
    [
        pickle.dumps(Evil(os.system, "touch evil")),
        pickle.dumps(Evil(subprocess.run, ["touch", "evil"])),
        pickle.dumps(Evil(eval, "open('evil', 'w')")),
        pickle.dumps(Evil(functools.partial, print)),
        *(b"", b"\x80\x05", b"nonsense", pickle.dumps(logging.getLogger())),
    ],
)
def test_bytes_that_somebody_has_changed_run_nothing(pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotPlain):
        strategy_state.load(pickled, [])
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------- of a strategy


def test_only_what_rounds_have_changed_is_kept():
    strategy = FedAdam(eta=0.5)
    before = strategy_state.look(strategy)
    assert strategy_state.changes(strategy, before) == {}
    strategy.m_t = {"w": np.ones(2)}
    strategy.seen_for_the_first_time = 1
    changed = strategy_state.changes(strategy, before)
    assert set(changed) == {"m_t", "seen_for_the_first_time"}
    other = FedAdam(eta=0.25)
    strategy_state.change(other, changed)
    assert other.eta == 0.25, "what the app is configured with is the app's"
    assert other.m_t is changed["m_t"]


def test_a_strategy_in_another():
    def make():
        return DifferentialPrivacyServerSideFixedClipping(FedAdam(), 0.1, 1.0, 2)

    strategy, other = make(), make()
    before = strategy_state.look(strategy)
    strategy.strategy.v_t = {"w": np.ones(2)}
    strategy.current_arrays = ArrayRecord({"w": Array(np.ones(2))})
    changed = strategy_state.changes(strategy, before)
    assert set(changed) == {"strategy.v_t", "current_arrays"}
    strategy_state.change(other, changed)
    assert other.strategy.v_t == changed["strategy.v_t"]
    with pytest.raises(KeyError):
        strategy_state.change(FedAvg(), changed)


def test_functions_and_logs_are_the_apps_and_all_else_has_to_be_plain():
    strategy = FedAvg()
    strategy.log, strategy.measure = logging.getLogger("x"), lambda: 1
    strategy.scale = functools.partial(max, 1)
    strategy.model = object()
    before = strategy_state.look(strategy)
    with pytest.raises(NotPlain, match=r"its attribute model holds a builtins\.object"):
        strategy_state.changes(strategy, before)
    del strategy.model
    assert strategy_state.changes(strategy, before) == {}


def test_the_global_generators_go_on():
    torch = pytest.importorskip("torch")

    def draw():
        return random.random(), np.random.standard_normal(), float(torch.rand(1))

    draw()
    state = there_and_back(strategy_state.chance())
    wanted = draw()
    draw()
    strategy_state.set_chance(state)
    assert draw() == wanted
