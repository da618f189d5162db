"""What FedKube relies on in Flower and Flower does not promise.

An upgrade that breaks one of these breaks FedKube, if it is not noticed here first.
"""

from __future__ import annotations

import inspect
import io
from importlib.metadata import version

import flwr.server.strategy as legacy
import numpy as np
import pytest
from fedkube_server.flower.rules import _NOT_AVERAGED
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common import Code, FitRes, Parameters, Status
from flwr.common import constant as flower_constants
from flwr.common.constant import ErrorCode, SType
from flwr.common.logger import update_console_handler
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.proto.node_pb2 import NodeInfo
from flwr.server import Server
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as message_api
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedkube.app.messages import make


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_looked_at():
    assert version("flwr").startswith("1.41.")


# ------------------------------------------------------------- who is speaking


def test_the_task_identity_is_three_attributes_that_raise_until_they_are_set(monkeypatch):
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", None)
        with pytest.raises(RuntimeError, match=f"{name} is not set"):
            getattr(TaskIdentity, name)
        setattr(TaskIdentity, name, 5)
        assert getattr(TaskIdentity, name) == 5


def test_a_message_takes_its_sender_from_there(monkeypatch):
    for name, value in (("run_id", 11), ("node_id", 1), ("task_id", 13)):
        monkeypatch.setattr(TaskIdentity, f"_{name}", value)
    metadata = Message(RecordDict(), 99, "train").metadata
    assert (metadata.run_id, metadata.src_node_id, metadata.dst_node_id) == (11, 1, 99)
    assert metadata.message_id == ""


def test_the_server_is_node_1():
    assert flower_constants.SUPERLINK_NODE_ID == 1


def test_the_names_of_what_a_client_is_told():
    assert flower_constants.PARTITION_ID_KEY == "partition-id"
    assert flower_constants.NUM_PARTITIONS_KEY == "num-partitions"


# ------------------------------------------------------------- messages


METADATA = [
    *("run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id"),
    *("created_at", "ttl", "message_type", "src_task_id", "dst_task_id"),
]


def metadata(**fields):
    values = dict.fromkeys(METADATA, "") | {"created_at": 1.0, "ttl": 2.0, "message_type": "train"}
    return Metadata(**{**values, **fields})


def test_metadatas_fields():
    assert parameters(Metadata) == METADATA
    made = metadata(message_id="m")
    made.delivered_at = ""
    assert made.message_id == "m"
    # The grid gives a message its number in this way: there is no setter.
    made.__dict__["_message_id"] = "n"
    assert made.message_id == "n"


@pytest.mark.parametrize("kind", ["train", "evaluate", "query", "train.fast", "get_properties"])
def test_these_are_message_types(kind):
    assert metadata(message_type=kind).message_type == kind


@pytest.mark.parametrize("kind", ["", "other", "train.a.b", "train.1"])
def test_and_these_are_not(kind):
    with pytest.raises(ValueError, match="Invalid message type"):
        metadata(message_type=kind)


def test_a_message_is_made_of_its_parts_without_asking_who_speaks(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, None)
    with_content = make_message(metadata(), content=RecordDict())
    assert with_content.has_content()
    assert not with_content.has_error()
    with_error = make_message(metadata(), error=Error(code=7, reason="why"))
    assert (with_error.error.code, with_error.error.reason) == (7, "why")
    assert not with_error.has_content()


@pytest.mark.parametrize("other", [{}, {"src_task_id": 3, "dst_task_id": 4}])
@pytest.mark.parametrize("part", [{"content": RecordDict()}, {"error": Error(7, "why")}])
def test_a_message_of_ours_is_what_flowers_function_makes(part, other):
    fields = {
        "run_id": 1,
        "message_id": "m",
        "src_node_id": 5,
        "dst_node_id": 6,
        "reply_to_message_id": "r",
        "group_id": "2",
        "created_at": 3.5,
        "ttl": 7.0,
        "message_type": "train",
        **other,
    }
    ours, flowers = make(**fields, **part), make_message(Metadata(**fields), **part)
    assert vars(ours.metadata) == vars(flowers.metadata)
    ours.__dict__.pop("_metadata")
    flowers.__dict__.pop("_metadata")
    assert vars(ours) == vars(flowers)


def test_the_error_codes_that_failures_become():
    for name in (
        *("CLIENT_APP_RAISED_EXCEPTION", "CLIENT_APP_CRASHED", "REPLY_MESSAGE_UNAVAILABLE"),
        *("NODE_UNAVAILABLE", "UNKNOWN"),
    ):
        assert isinstance(getattr(ErrorCode, name), int)


# ------------------------------------------------------------- records and arrays


def test_an_array_is_four_fields_and_its_data_an_npy_file():
    array = Array(np.arange(3, dtype="f4"))
    assert (array.dtype, array.shape, array.stype) == ("float32", (3,), "numpy.ndarray")
    assert SType.NUMPY == "numpy.ndarray"
    assert array.data.startswith(b"\x93NUMPY")
    np.testing.assert_array_equal(np.load(io.BytesIO(array.data)), np.arange(3))
    assert {"dtype", "shape", "stype", "data"} <= set(array.__dict__)


def test_an_array_may_be_made_of_its_four_fields():
    assert Array("", (), "x", b"y") == Array(dtype="", shape=(), stype="x", data=b"y")


def test_a_record_keeps_the_very_array_that_is_put_into_it():
    """Our arrays stay ours: a record that copied them would undo what they save."""

    class Own(Array):
        pass

    own = Own("", (), "x", b"y")
    record = ArrayRecord()
    record["w"] = own
    assert record["w"] is own
    assert RecordDict({"r": record})["r"] is record


def test_records_refuse_values_of_other_types_with_a_type_error():
    for record, value in ((MetricRecord(), "x"), (MetricRecord(), True), (ConfigRecord(), {})):
        with pytest.raises(TypeError):
            record["k"] = value


def test_the_older_api_leaves_type_and_shape_of_an_array_empty():
    result = FitRes(Status(Code.OK, ""), Parameters([b"x"], "numpy.ndarray"), 3, {})
    records = fitres_to_recorddict(result, keep_input=True)
    (record,) = records.array_records.values()
    assert list(record) == ["0"]
    assert (record["0"].dtype, record["0"].shape, record["0"].stype) == ("", (), "numpy.ndarray")
    metrics = {}
    for each in records.metric_records.values():
        metrics |= each
    assert metrics["num_examples"] == 3


# ------------------------------------------------------------- strategies


def test_the_methods_of_a_strategy():
    base = message_api.Strategy
    configure = ["self", "server_round", "arrays", "config", "grid"]
    assert parameters(base.configure_train) == configure
    assert parameters(base.configure_evaluate) == configure
    assert parameters(base.aggregate_train) == ["self", "server_round", "replies"]
    assert parameters(base.aggregate_evaluate) == ["self", "server_round", "replies"]
    assert parameters(base.start) == [
        *("self", "grid", "initial_arrays", "num_rounds", "timeout", "train_config"),
        *("evaluate_config", "evaluate_fn"),
    ]


def test_the_methods_of_an_older_strategy():
    base = legacy.Strategy
    configure = ["self", "server_round", "parameters", "client_manager"]
    assert parameters(base.configure_fit) == configure
    assert parameters(base.configure_evaluate) == configure
    assert parameters(base.aggregate_fit) == ["self", "server_round", "results", "failures"]
    assert parameters(base.aggregate_evaluate) == ["self", "server_round", "results", "failures"]
    assert parameters(base.evaluate) == ["self", "server_round", "parameters"]
    assert parameters(Server.fit) == ["self", "num_rounds", "timeout"]
    assert parameters(DefaultWorkflow.__call__) == ["self", "grid", "context"]


def classes(package, base):
    return [
        each
        for each in vars(package).values()
        if inspect.isclass(each) and issubclass(each, base) and each is not base
    ]


@pytest.mark.parametrize(
    ("package", "base"),
    [(message_api, message_api.Strategy), (legacy, legacy.Strategy)],
    ids=["message API", "older API"],
)
def test_every_strategy_of_flowers_is_of_the_one_base_class(package, base):
    found = classes(package, base)
    assert len(found) > 10
    assert all(each.__module__.startswith("flwr.") for each in found)


def test_the_strategies_with_an_encoding_of_their_own_are_in_the_modules_that_we_know():
    modules = {"fedxgb_bagging", "fedxgb_cyclic", "fedxgb_nn_avg", "fedavg_android"}
    assert set(_NOT_AVERAGED) == modules
    for strategy, method in (
        (message_api.FedXgbBagging, "aggregate_train"),
        (message_api.FedXgbCyclic, "aggregate_train"),
        (legacy.FedXgbBagging, "aggregate_fit"),
        (legacy.FedXgbCyclic, "aggregate_fit"),
        (legacy.FedXgbNnAvg, "aggregate_fit"),
        (legacy.FedAvgAndroid, "aggregate_fit"),
    ):
        assert getattr(strategy, method).__module__.rpartition(".")[2] in modules


def test_a_strategy_that_wraps_another_calls_it_strategy():
    inner = message_api.FedAvg()
    for wrapper in classes(message_api, message_api.Strategy):
        if wrapper.__name__.startswith("Differential") and "Fixed" in wrapper.__name__:
            assert wrapper(inner, 1.0, 1.0, 2).strategy is inner
    older = legacy.FedAvg()
    wrapped = legacy.DifferentialPrivacyServerSideFixedClipping(older, 1.0, 1.0, 2)
    assert wrapped.strategy is older


def test_the_attributes_that_say_how_many_clients_a_strategy_needs():
    strategy = message_api.FedAvg()
    assert strategy.weighted_by_key == "num-examples"
    for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
        assert getattr(strategy, name) == 2
    older = legacy.FedAvg()
    for name in ("min_available_clients", "min_fit_clients", "min_evaluate_clients"):
        assert getattr(older, name) == 2
    assert strategy.fraction_evaluate == older.fraction_evaluate == 1.0


def test_flower_refuses_replies_that_do_not_fit_each_other_and_ends_the_app(as_server):
    """So such replies must never get there."""
    message = Message(RecordDict(), 1, "train")
    contents = [
        RecordDict({"a": ArrayRecord([np.zeros(1)]), "m": MetricRecord({"num-examples": 1})}),
        RecordDict({"m": MetricRecord({"num-examples": 1})}),
    ]
    replies = [Message(content, reply_to=message) for content in contents]
    with pytest.raises(InconsistentMessageReplies):
        message_api.FedAvg().aggregate_train(1, replies)


# ------------------------------------------------------------- apps


def test_load_app_takes_a_reference_an_error_and_a_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert parameters(load_app) == ["module_attribute_str", "error_type", "project_dir"]
    (tmp_path / "contract_app.py").write_text("class a:\n    b = 5\n")
    assert load_app("contract_app:a.b", KeyError, tmp_path) == 5
    with pytest.raises(KeyError):
        load_app("contract_app:a.c", KeyError, tmp_path)


def test_apps_are_called_with_these(as_server):
    assert parameters(ClientApp.__call__) == ["self", "message", "context"]
    assert parameters(ServerApp.__call__) == ["self", "grid", "context"]
    assert parameters(Context)[:5] == ["run_id", "node_id", "node_config", "state", "run_config"]
    assert Context(1, 2, {}, RecordDict(), {}).run_config == {}


def test_the_grid_has_these_methods_and_no_others():
    assert Grid.__abstractmethods__ == {
        *("set_run", "run", "create_message", "get_node_ids"),
        *("push_messages", "pull_messages", "send_and_receive"),
    }
    assert callable(Grid.get_nodes)


def test_a_run_may_be_described_by_its_number_and_copied():
    run = Run.create_empty(5)
    assert run.run_id == 5
    assert Run(**vars(run)) == run


def test_a_node_has_a_number_a_status_and_a_name():
    assert NodeInfo(node_id=1, status="online", name="x").name == "x"


def test_flowers_log_may_be_told_not_to_use_colours():
    assert "colored" in parameters(update_console_handler)
