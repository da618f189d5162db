from fedkube.proto.v1 import exchange_pb2 as _exchange_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Load(_message.Message):
    __slots__ = ("app_dir", "component", "flower_run", "run_config")
    APP_DIR_FIELD_NUMBER: _ClassVar[int]
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    FLOWER_RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_CONFIG_FIELD_NUMBER: _ClassVar[int]
    app_dir: str
    component: str
    flower_run: int
    run_config: _exchange_pb2.Values
    def __init__(self, app_dir: _Optional[str] = ..., component: _Optional[str] = ..., flower_run: _Optional[int] = ..., run_config: _Optional[_Union[_exchange_pb2.Values, _Mapping]] = ...) -> None: ...

class Loaded(_message.Message):
    __slots__ = ("traceback",)
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    traceback: str
    def __init__(self, traceback: _Optional[str] = ...) -> None: ...

class Place(_message.Message):
    __slots__ = ("segment", "offset", "nbytes")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    segment: int
    offset: int
    nbytes: int
    def __init__(self, segment: _Optional[int] = ..., offset: _Optional[int] = ..., nbytes: _Optional[int] = ...) -> None: ...

class NewSegment(_message.Message):
    __slots__ = ("id", "nbytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    id: int
    nbytes: int
    def __init__(self, id: _Optional[int] = ..., nbytes: _Optional[int] = ...) -> None: ...

class Execute(_message.Message):
    __slots__ = ("task", "places", "segments", "dropped")
    TASK_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    task: _exchange_pb2.Task
    places: _containers.RepeatedCompositeFieldContainer[Place]
    segments: _containers.RepeatedCompositeFieldContainer[NewSegment]
    dropped: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, task: _Optional[_Union[_exchange_pb2.Task, _Mapping]] = ..., places: _Optional[_Iterable[_Union[Place, _Mapping]]] = ..., segments: _Optional[_Iterable[_Union[NewSegment, _Mapping]]] = ..., dropped: _Optional[_Iterable[int]] = ...) -> None: ...

class Executed(_message.Message):
    __slots__ = ("content", "failure", "state", "places", "segment_nbytes", "created_at", "ttl")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_NBYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    content: _exchange_pb2.Content
    failure: _exchange_pb2.Failure
    state: _exchange_pb2.Content
    places: _containers.RepeatedCompositeFieldContainer[Place]
    segment_nbytes: int
    created_at: float
    ttl: float
    def __init__(self, content: _Optional[_Union[_exchange_pb2.Content, _Mapping]] = ..., failure: _Optional[_Union[_exchange_pb2.Failure, _Mapping]] = ..., state: _Optional[_Union[_exchange_pb2.Content, _Mapping]] = ..., places: _Optional[_Iterable[_Union[Place, _Mapping]]] = ..., segment_nbytes: _Optional[int] = ..., created_at: _Optional[float] = ..., ttl: _Optional[float] = ...) -> None: ...
