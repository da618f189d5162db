"""Watching Flower's strategies at work, without the app knowing.

Every strategy of either API, Flower's or an app's, has its few known methods wrapped where they are
defined, also in classes that are defined later. A call is reported once, by the outermost method: a
strategy that wraps another, or calls its parent's method, counts as one.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.common import parameters_to_ndarrays
from flwr.common.constant import ErrorCode
from flwr.server import Server, SimpleClientManager
from flwr.server.strategy import Strategy as LegacyStrategy
from flwr.server.strategy import fault_tolerant_fedavg, fedavgm
from flwr.server.strategy import fedavg as legacy_fedavg
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp.strategy import Strategy, fedavg

from fedkube.app.arrays import STAND_IN, FoldedArray, WireArray
from fedkube.core.errors import AppInvalid
from fedkube_server.calls import refusal_text
from fedkube_server.flower.rules import legacy_content
from fedkube_server.flower.tracking import Tracker, plain_arrays

Method = Callable[..., Any]
Observer = Callable[[Tracker, Method, tuple[Any, ...], dict[str, Any]], Any]

_tracker: Tracker | None = None
_inside = threading.local()


def install(tracker: Tracker) -> None:
    """Report to ``tracker`` from now on. Once per process."""
    global _tracker
    already, _tracker = _tracker is not None, tracker
    if already:
        return
    for base, observers in ((Strategy, _MESSAGE_API), (LegacyStrategy, _LEGACY_API)):
        _watch(base, observers)
    for module, name, stand_in in _REPLACED:
        _replace(module, name, stand_in)
    _wrap(SimpleClientManager, "sample", _sample_clients)
    _wrap(Server, "fit", _server_fit)
    _wrap(DefaultWorkflow, "__call__", _workflow)


def _watch(base: type[Any], observers: dict[str, Observer]) -> None:
    for known in _family(base):
        for name, observer in observers.items():
            _wrap(known, name, observer)
    original = base.__init_subclass__

    def watch_new(cls: type[Any], /, **options: Any) -> None:
        original(**options)
        for name, observer in observers.items():
            _wrap(cls, name, observer)

    base.__init_subclass__ = classmethod(watch_new)  # type: ignore[assignment]


def _family(base: type[Any]) -> Iterator[type[Any]]:
    yield base
    for cls in base.__subclasses__():
        yield from _family(cls)


def _wrap(cls: type[Any], name: str, observer: Observer) -> None:
    method = cls.__dict__.get(name)
    if not inspect.isfunction(method) or getattr(method, "__isabstractmethod__", False):
        return

    guard = _GUARDS.get(name) if method.__module__.startswith("flwr.") else None

    @functools.wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if guard is None or _tracker is None:
            return method(*args, **kwargs)
        return guard(_tracker, method, args, kwargs)

    @functools.wraps(method)
    def observed(*args: Any, **kwargs: Any) -> Any:
        with _outermost(name) as outermost:
            if _tracker is None or not outermost:
                return guarded(*args, **kwargs)
            return observer(_tracker, guarded, args, kwargs)

    setattr(cls, name, observed)


@contextmanager
def _outermost(name: str) -> Iterator[bool]:
    names: set[str] = _inside.__dict__.setdefault("names", set())
    if name in names:
        yield False
        return
    names.add(name)
    try:
        yield True
    finally:
        names.discard(name)


def _named(method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, those in ``**kwargs`` of the method included."""
    signature = inspect.signature(method)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    named = dict(bound.arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(parameter.name)
    return named


class _Call:
    """A call's arguments by place, since an app's own methods may name them as they like."""

    def __init__(self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._method = method
        self._bound = inspect.signature(method).bind(*args, **kwargs)

    def __getitem__(self, place: int) -> Any:
        """The argument in this place after ``self``."""
        if place + 1 < len(self._bound.args):
            return self._bound.args[place + 1]
        return list(self._bound.kwargs.values())[place + 1 - len(self._bound.args)]

    def replaced(self, *changes: tuple[int, Any]) -> Any:
        """Make the call with other arguments in these places."""
        args, kwargs = list(self._bound.args), dict(self._bound.kwargs)
        for place, value in changes:
            if place + 1 < len(args):
                args[place + 1] = value
            else:
                kwargs[list(kwargs)[place + 1 - len(args)]] = value
        return self._method(*args, **kwargs)


# Places of the arguments of the aggregate_* methods, in both APIs.
_ROUND, _REPLIES, _FAILURES = 0, 1, 2


def _guard_sampling(*minimums: str) -> Observer:
    """Flower's own sampling waits until there are enough clients; here that would be for ever."""

    def guard(
        tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        strategy = args[0]
        asks = method.__name__ != "configure_evaluate" or getattr(
            strategy, "fraction_evaluate", False
        )
        for minimum in minimums if asks else ():
            wanted = getattr(strategy, minimum, 0)
            if isinstance(wanted, int) and wanted > tracker.clients:
                clients = f"{tracker.clients} client" + ("" if tracker.clients == 1 else "s")
                raise AppInvalid(
                    f"the strategy's {minimum} is {wanted}, and the run has {clients}",
                    hint=f"start it with --clients {wanted} or more",
                )
            if isinstance(wanted, int):
                tracker.needs(wanted)
                tracker.halt.check()
        return method(*args, **kwargs)

    return guard


# ----------------------------------------------------------------- what is handed to Flower


def _guard_replies(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Flower's own aggregation: replies that are unfit for it become errors."""
    if not tracker.unchecked(method):
        return method(*args, **kwargs)
    call = _Call(method, args, kwargs)
    replies = list(call[_REPLIES])
    fit = [(each.metadata.src_node_id, each.content) for each in replies if each.has_content()]
    reasons = iter(tracker.unfit(args[0], method, fit))
    kept = [_refused(each, next(reasons)) if each.has_content() else each for each in replies]
    return call.replaced((_REPLIES, kept))


def _refused(reply: Message, reason: str | None) -> Message:
    if reason is None:
        return reply
    return make_message(reply.metadata, error=Error(ErrorCode.UNKNOWN, refusal_text(reason)))


def _guard_results(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The same for the older API."""
    if not tracker.unchecked(method):
        return method(*args, **kwargs)
    call = _Call(method, args, kwargs)
    results = call[_REPLIES]
    contents = [(getattr(proxy, "node_id", 0), legacy_content(fit)) for proxy, fit in results]
    reasons = tracker.unfit(args[0], method, contents)
    kept = [each for each, reason in zip(results, reasons, strict=True) if reason is None]
    refused = [ValueError(refusal_text(reason)) for reason in reasons if reason is not None]
    return call.replaced((_REPLIES, kept), (_FAILURES, [*call[_FAILURES], *refused]))


# ----------------------------------------------------------------- who is asked


def _chooses_for(phase: str) -> bool:
    return phase in _inside.__dict__.get("names", ())


def _sample_nodes(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """``sample_nodes``: the run's cohort may want another number of them for training."""
    named = _named(method, args, kwargs)
    if _chooses_for("configure_train"):
        available = len(list(named["grid"].get_node_ids()))
        named["sample_size"] = tracker.choosing(named["sample_size"], available)
    return method(**named)


def _sample_clients(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """``SimpleClientManager.sample``: the same for the older API."""
    call = _Call(method, args, kwargs)
    if not _chooses_for("configure_fit"):
        return method(*args, **kwargs)
    return call.replaced((0, tracker.choosing(call[0], len(args[0].clients))))


# ----------------------------------------------------------------- means that were taken already


def _replace(module: ModuleType, name: str, stand_in: Observer) -> None:
    """Replace a function of Flower's where one of its strategies calls it."""
    original = getattr(module, name)

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        if _tracker is None:
            return original(*args, **kwargs)
        return stand_in(_tracker, original, args, kwargs)

    setattr(module, name, replaced)


def _average_records(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """``aggregate_arrayrecords``: records, and the metric that weighs them."""
    named = _named(method, args, kwargs)
    records, key = named["records"], named["weighting_metric_name"]
    if not any(map(_stands_in, records)):
        return method(*args, **kwargs)
    # Each look at ``metric_records`` would make another dict.
    weights: list[Any] = [
        next(each for each in record.values() if isinstance(each, MetricRecord))[key]
        for record in records
    ]
    mean = tracker.mean(weights)
    if mean is None:
        return method(*args, **kwargs)
    return ArrayRecord({name: WireArray(values) for name, values in mean.items()})


def _average_results(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """``aggregate``, of pairs of arrays and weights, and ``aggregate_inplace``, of results."""
    results = _named(method, args, kwargs)["results"]
    if not any(_is_summed(first, second) for first, second in results):
        return method(*args, **kwargs)
    weights = [getattr(second, "num_examples", second) for _, second in results]
    mean = tracker.mean(weights)
    if mean is None:
        return method(*args, **kwargs)
    # An app may change them in place, and one that no client has changed is what was sent.
    return [values if values.flags.writeable else values.copy() for values in mean.values()]


def _stands_in(records: RecordDict) -> bool:
    """Whether the arrays of a reply are in the sum."""
    every = (array for record in records.array_records.values() for array in record.values())
    return isinstance(next(every, None), FoldedArray)


def _is_summed(first: Any, second: Any) -> bool:
    """The same of a result of the older API, as either of its functions is given it."""
    if hasattr(second, "parameters"):
        return STAND_IN in second.parameters.tensors
    return bool(first) and all(array.size == 0 for array in first)


_REPLACED: list[tuple[ModuleType, str, Observer]] = [
    (fedavg, "aggregate_arrayrecords", _average_records),
    (legacy_fedavg, "aggregate", _average_results),
    (legacy_fedavg, "aggregate_inplace", _average_results),
    (fedavgm, "aggregate", _average_results),
    (fault_tolerant_fedavg, "aggregate", _average_results),
    (fedavg, "sample_nodes", _sample_nodes),
]


# ----------------------------------------------------------------- rounds that are behind


def _loop(tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Flower's own loop of rounds, in ``Strategy.start``."""
    named = _named(method, args, kwargs)
    evaluate = named["evaluate_fn"]
    around = tracker.start  # of an app that starts a strategy while it evaluates another's round
    start = tracker.starts(args[0], named["num_rounds"])

    def measured(server_round: int, arrays: Any) -> Any:
        if start.passed(server_round):
            return start.measured(server_round)
        metrics = evaluate(server_round, arrays)
        start.has_measured(server_round, metrics)
        return metrics

    try:
        if evaluate is None:
            return method(*args, **kwargs)
        return _evaluating(measured, method, args, kwargs)
    finally:
        start.close()
        tracker.start = around


# Around methods that are Flower's, wherever they are called from.
_GUARDS: dict[str, Observer] = {
    "start": _loop,
    "aggregate_train": _guard_replies,
    "aggregate_fit": _guard_results,
    "configure_train": _guard_sampling("min_available_nodes", "min_train_nodes"),
    "configure_fit": _guard_sampling("min_available_clients", "min_fit_clients"),
    "configure_evaluate": _guard_sampling("min_evaluate_nodes", "min_evaluate_clients"),
}


# ----------------------------------------------------------------- the message API


def _start(tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = _named(method, args, kwargs)
    rounds = named.get("num_rounds")
    if isinstance(rounds, int):
        tracker.planned(rounds)
    evaluate = named.get("evaluate_fn")
    tracker.central = evaluate is not None
    if evaluate is None:
        return method(*args, **kwargs)

    def measured(server_round: int, arrays: Any) -> Any:
        metrics = evaluate(server_round, arrays)
        tracker.measured(server_round, metrics)
        return metrics

    return _evaluating(measured, method, args, kwargs)


def _evaluating(
    evaluate: Callable[..., Any], method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call ``start`` with another ``evaluate_fn`` than it is given."""
    if "evaluate_fn" in kwargs:
        return method(*args, **{**kwargs, "evaluate_fn": evaluate})
    position = list(inspect.signature(method).parameters).index("evaluate_fn")
    return method(*args[:position], evaluate, *args[position + 1 :], **kwargs)


def _configure(name: str, aggregation: str) -> Observer:
    def observer(
        tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        number = _Call(method, args, kwargs)[_ROUND]
        if name == "train":
            tracker.begins(number)
        if tracker.start is not None and tracker.start.passed(number):
            return []
        messages = list(method(*args, **kwargs) or ())
        tracker.configured(name, number, args[0], aggregation, messages)
        return messages

    return observer


def _aggregate_train(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    number, start = _Call(method, args, kwargs)[_ROUND], tracker.start
    if start is not None and start.passed(number):
        arrays, metrics = result = start.trained(number)
        if arrays is not None:
            tracker.recorder.arrays(plain_arrays(arrays))
        return result
    tracker.collecting("train")
    arrays, metrics = result = method(*args, **kwargs)
    tracker.aggregated("train", metrics, None if arrays is None else plain_arrays(arrays))
    if start is not None:
        start.has_trained(number, arrays, metrics)
    return result


def _aggregate_evaluate(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    number, start = _Call(method, args, kwargs)[_ROUND], tracker.start
    if start is not None and start.passed(number):
        return start.evaluated(number)
    tracker.collecting("evaluate")
    metrics = method(*args, **kwargs)
    tracker.aggregated("evaluate", metrics, None)
    if start is not None:
        start.has_evaluated(number, metrics)
    return metrics


_MESSAGE_API: dict[str, Observer] = {
    "start": _start,
    "configure_train": _configure("train", "aggregate_train"),
    "configure_evaluate": _configure("evaluate", "aggregate_evaluate"),
    "aggregate_train": _aggregate_train,
    "aggregate_evaluate": _aggregate_evaluate,
}


# ----------------------------------------------------------------- the older API


def _server_fit(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    tracker.planned(_Call(method, args, kwargs)[0])
    return method(*args, **kwargs)


def _workflow(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    config = getattr(_named(method, args, kwargs)["context"], "config", None)
    if config is not None:
        tracker.planned(config.num_rounds)
    return method(*args, **kwargs)


def _in_order(results: Iterable[Any]) -> list[Any]:
    """Results by client: Flower collects them in a set, and a float sum depends on the order."""
    return sorted(results, key=lambda result: str(getattr(result[0], "cid", "")))


def _legacy_aggregate(name: str) -> Observer:
    def observer(
        tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        tracker.collecting(name)
        call = _Call(method, args, kwargs)
        first, metrics = result = call.replaced((_REPLIES, _in_order(call[_REPLIES])))
        if name == "train":
            arrays = None if first is None else _legacy_arrays(first)
            tracker.aggregated(name, metrics, arrays)
        else:
            loss = {} if first is None else {"loss": first}
            tracker.aggregated(name, {**loss, **(metrics or {})}, None)
        return result

    return observer


def _legacy_arrays(parameters: Any) -> Callable[[], dict[str, Any]] | None:
    if parameters.tensor_type != "numpy.ndarray":
        return None

    def fetch() -> dict[str, Any]:
        return {str(i): array for i, array in enumerate(parameters_to_ndarrays(parameters))}

    return fetch


def _legacy_evaluate(
    tracker: Tracker, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    result = method(*args, **kwargs)
    if result is not None:
        loss, metrics = result
        number = _Call(method, args, kwargs)[_ROUND]
        tracker.measured(number, {"loss": loss, **(metrics or {})})
    return result


_LEGACY_API: dict[str, Observer] = {
    "configure_fit": _configure("train", "aggregate_fit"),
    "configure_evaluate": _configure("evaluate", "aggregate_evaluate"),
    "aggregate_fit": _legacy_aggregate("train"),
    "aggregate_evaluate": _legacy_aggregate("evaluate"),
    "evaluate": _legacy_evaluate,
}
