from fedkube.proto.v1 import exchange_pb2 as _exchange_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JournalEntry(_message.Message):
    __slots__ = ("blobs", "starts", "opening", "committed", "present", "turned", "forked", "condensed")
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    TURNED_FIELD_NUMBER: _ClassVar[int]
    FORKED_FIELD_NUMBER: _ClassVar[int]
    CONDENSED_FIELD_NUMBER: _ClassVar[int]
    blobs: _containers.RepeatedScalarFieldContainer[int]
    starts: _containers.RepeatedScalarFieldContainer[int]
    opening: Opening
    committed: Committed
    present: Present
    turned: Turned
    forked: Forked
    condensed: Condensed
    def __init__(self, blobs: _Optional[_Iterable[int]] = ..., starts: _Optional[_Iterable[int]] = ..., opening: _Optional[_Union[Opening, _Mapping]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ..., present: _Optional[_Union[Present, _Mapping]] = ..., turned: _Optional[_Union[Turned, _Mapping]] = ..., forked: _Optional[_Union[Forked, _Mapping]] = ..., condensed: _Optional[_Union[Condensed, _Mapping]] = ...) -> None: ...

class Opening(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class Committed(_message.Message):
    __slots__ = ("calls", "mean", "round")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[Ended]
    mean: Mean
    round: int
    def __init__(self, calls: _Optional[_Iterable[_Union[Ended, _Mapping]]] = ..., mean: _Optional[_Union[Mean, _Mapping]] = ..., round: _Optional[int] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("client", "turn", "asked", "outcome", "late")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    client: int
    turn: int
    asked: bytes
    outcome: _exchange_pb2.Outcome
    late: Late
    def __init__(self, client: _Optional[int] = ..., turn: _Optional[int] = ..., asked: _Optional[bytes] = ..., outcome: _Optional[_Union[_exchange_pb2.Outcome, _Mapping]] = ..., late: _Optional[_Union[Late, _Mapping]] = ...) -> None: ...

class Late(_message.Message):
    __slots__ = ("group", "rounds", "counted")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    group: str
    rounds: int
    counted: bool
    def __init__(self, group: _Optional[str] = ..., rounds: _Optional[int] = ..., counted: bool = ...) -> None: ...

class Mean(_message.Message):
    __slots__ = ("arrays", "weights")
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    arrays: _exchange_pb2.Arrays
    weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, arrays: _Optional[_Union[_exchange_pb2.Arrays, _Mapping]] = ..., weights: _Optional[_Iterable[float]] = ...) -> None: ...

class Present(_message.Message):
    __slots__ = ("clients",)
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    clients: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, clients: _Optional[_Iterable[int]] = ...) -> None: ...

class Turned(_message.Message):
    __slots__ = ("turns", "presents")
    TURNS_FIELD_NUMBER: _ClassVar[int]
    PRESENTS_FIELD_NUMBER: _ClassVar[int]
    turns: _containers.RepeatedScalarFieldContainer[int]
    presents: int
    def __init__(self, turns: _Optional[_Iterable[int]] = ..., presents: _Optional[int] = ...) -> None: ...

class Forked(_message.Message):
    __slots__ = ("run", "round")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ...) -> None: ...

class Condensed(_message.Message):
    __slots__ = ("start", "rounds", "round", "strategy", "turns", "presents", "state", "buffers", "clients")
    START_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    PRESENTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    start: int
    rounds: int
    round: int
    strategy: str
    turns: _containers.RepeatedScalarFieldContainer[int]
    presents: int
    state: bytes
    buffers: int
    clients: _containers.RepeatedCompositeFieldContainer[Kept]
    def __init__(self, start: _Optional[int] = ..., rounds: _Optional[int] = ..., round: _Optional[int] = ..., strategy: _Optional[str] = ..., turns: _Optional[_Iterable[int]] = ..., presents: _Optional[int] = ..., state: _Optional[bytes] = ..., buffers: _Optional[int] = ..., clients: _Optional[_Iterable[_Union[Kept, _Mapping]]] = ...) -> None: ...

class Kept(_message.Message):
    __slots__ = ("client", "state")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    client: int
    state: _exchange_pb2.Content
    def __init__(self, client: _Optional[int] = ..., state: _Optional[_Union[_exchange_pb2.Content, _Mapping]] = ...) -> None: ...
