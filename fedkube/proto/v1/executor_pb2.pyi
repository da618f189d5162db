from fedkube.proto.v1 import exchange_pb2 as _exchange_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Load(_message.Message):
    __slots__ = ("app_dir", "component", "flower_run", "run_config", "partitions", "node_config")
    APP_DIR_FIELD_NUMBER: _ClassVar[int]
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    FLOWER_RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_CONFIG_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    NODE_CONFIG_FIELD_NUMBER: _ClassVar[int]
    app_dir: str
    component: str
    flower_run: int
    run_config: _exchange_pb2.Values
    partitions: int
    node_config: str
    def __init__(self, app_dir: _Optional[str] = ..., component: _Optional[str] = ..., flower_run: _Optional[int] = ..., run_config: _Optional[_Union[_exchange_pb2.Values, _Mapping]] = ..., partitions: _Optional[int] = ..., node_config: _Optional[str] = ...) -> None: ...

class Loaded(_message.Message):
    __slots__ = ("traceback",)
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    traceback: str
    def __init__(self, traceback: _Optional[str] = ...) -> None: ...

class Place(_message.Message):
    __slots__ = ("segment", "offset", "nbytes", "received")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    segment: int
    offset: int
    nbytes: int
    received: int
    def __init__(self, segment: _Optional[int] = ..., offset: _Optional[int] = ..., nbytes: _Optional[int] = ..., received: _Optional[int] = ...) -> None: ...

class NewSegment(_message.Message):
    __slots__ = ("id", "nbytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    id: int
    nbytes: int
    def __init__(self, id: _Optional[int] = ..., nbytes: _Optional[int] = ...) -> None: ...

class Execute(_message.Message):
    __slots__ = ("task", "places", "segments", "dropped", "free", "uncounted")
    TASK_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    UNCOUNTED_FIELD_NUMBER: _ClassVar[int]
    task: _exchange_pb2.Task
    places: _containers.RepeatedCompositeFieldContainer[Place]
    segments: _containers.RepeatedCompositeFieldContainer[NewSegment]
    dropped: _containers.RepeatedScalarFieldContainer[int]
    free: _containers.RepeatedScalarFieldContainer[int]
    uncounted: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, task: _Optional[_Union[_exchange_pb2.Task, _Mapping]] = ..., places: _Optional[_Iterable[_Union[Place, _Mapping]]] = ..., segments: _Optional[_Iterable[_Union[NewSegment, _Mapping]]] = ..., dropped: _Optional[_Iterable[int]] = ..., free: _Optional[_Iterable[int]] = ..., uncounted: _Optional[_Iterable[int]] = ...) -> None: ...

class Executed(_message.Message):
    __slots__ = ("outcomes", "places", "segment", "dropped", "unmapped")
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    UNMAPPED_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[_exchange_pb2.Outcome]
    places: _containers.RepeatedCompositeFieldContainer[Place]
    segment: NewSegment
    dropped: _containers.RepeatedScalarFieldContainer[int]
    unmapped: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[_exchange_pb2.Outcome, _Mapping]]] = ..., places: _Optional[_Iterable[_Union[Place, _Mapping]]] = ..., segment: _Optional[_Union[NewSegment, _Mapping]] = ..., dropped: _Optional[_Iterable[int]] = ..., unmapped: _Optional[_Iterable[int]] = ...) -> None: ...
