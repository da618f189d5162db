from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Compression(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPRESSION_NONE: _ClassVar[Compression]
    COMPRESSION_BF16: _ClassVar[Compression]
    COMPRESSION_INT8: _ClassVar[Compression]
COMPRESSION_NONE: Compression
COMPRESSION_BF16: Compression
COMPRESSION_INT8: Compression

class Blob(_message.Message):
    __slots__ = ("id", "digest", "nbytes", "held")
    ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    id: int
    digest: bytes
    nbytes: int
    held: bool
    def __init__(self, id: _Optional[int] = ..., digest: _Optional[bytes] = ..., nbytes: _Optional[int] = ..., held: bool = ...) -> None: ...

class Array(_message.Message):
    __slots__ = ("name", "dtype", "shape", "stype", "blob", "opaque", "declared_dtype", "declared_shape", "compression", "base")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    STYPE_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OPAQUE_FIELD_NUMBER: _ClassVar[int]
    DECLARED_DTYPE_FIELD_NUMBER: _ClassVar[int]
    DECLARED_SHAPE_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    stype: str
    blob: int
    opaque: bool
    declared_dtype: str
    declared_shape: _containers.RepeatedScalarFieldContainer[int]
    compression: Compression
    base: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., stype: _Optional[str] = ..., blob: _Optional[int] = ..., opaque: bool = ..., declared_dtype: _Optional[str] = ..., declared_shape: _Optional[_Iterable[int]] = ..., compression: _Optional[_Union[Compression, str]] = ..., base: _Optional[int] = ...) -> None: ...

class Arrays(_message.Message):
    __slots__ = ("items", "held")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Array]
    held: bool
    def __init__(self, items: _Optional[_Iterable[_Union[Array, _Mapping]]] = ..., held: bool = ...) -> None: ...

class Doubles(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, items: _Optional[_Iterable[float]] = ...) -> None: ...

class Ints(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, items: _Optional[_Iterable[int]] = ...) -> None: ...

class Bools(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, items: _Optional[_Iterable[bool]] = ...) -> None: ...

class Strings(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, items: _Optional[_Iterable[str]] = ...) -> None: ...

class ByteStrings(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, items: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("key", "real", "integer", "natural", "boolean", "text", "data", "blob", "reals", "integers", "booleans", "texts", "datas")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    NATURAL_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    REALS_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    BOOLEANS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    DATAS_FIELD_NUMBER: _ClassVar[int]
    key: str
    real: float
    integer: int
    natural: int
    boolean: bool
    text: str
    data: bytes
    blob: int
    reals: Doubles
    integers: Ints
    booleans: Bools
    texts: Strings
    datas: ByteStrings
    def __init__(self, key: _Optional[str] = ..., real: _Optional[float] = ..., integer: _Optional[int] = ..., natural: _Optional[int] = ..., boolean: bool = ..., text: _Optional[str] = ..., data: _Optional[bytes] = ..., blob: _Optional[int] = ..., reals: _Optional[_Union[Doubles, _Mapping]] = ..., integers: _Optional[_Union[Ints, _Mapping]] = ..., booleans: _Optional[_Union[Bools, _Mapping]] = ..., texts: _Optional[_Union[Strings, _Mapping]] = ..., datas: _Optional[_Union[ByteStrings, _Mapping]] = ...) -> None: ...

class Values(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, items: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("name", "arrays", "metrics", "configs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CONFIGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    arrays: Arrays
    metrics: Values
    configs: Values
    def __init__(self, name: _Optional[str] = ..., arrays: _Optional[_Union[Arrays, _Mapping]] = ..., metrics: _Optional[_Union[Values, _Mapping]] = ..., configs: _Optional[_Union[Values, _Mapping]] = ...) -> None: ...

class Content(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "worker", "version", "incarnation", "began", "assignments", "held")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    BEGAN_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    worker: str
    version: str
    incarnation: str
    began: float
    assignments: _containers.RepeatedScalarFieldContainer[int]
    held: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, protocol: _Optional[int] = ..., worker: _Optional[str] = ..., version: _Optional[str] = ..., incarnation: _Optional[str] = ..., began: _Optional[float] = ..., assignments: _Optional[_Iterable[int]] = ..., held: _Optional[_Iterable[int]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Capacity(_message.Message):
    __slots__ = ("assignments",)
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    assignments: int
    def __init__(self, assignments: _Optional[int] = ...) -> None: ...

class Want(_message.Message):
    __slots__ = ("blob", "offset")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    blob: int
    offset: int
    def __init__(self, blob: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class Need(_message.Message):
    __slots__ = ("of", "wants")
    OF_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    of: int
    wants: _containers.RepeatedCompositeFieldContainer[Want]
    def __init__(self, of: _Optional[int] = ..., wants: _Optional[_Iterable[_Union[Want, _Mapping]]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "reason")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Failure.Code]
        APP_RAISED: _ClassVar[Failure.Code]
        CRASHED: _ClassVar[Failure.Code]
        KILLED: _ClassVar[Failure.Code]
        TIMED_OUT: _ClassVar[Failure.Code]
        REFUSED: _ClassVar[Failure.Code]
        LOST: _ClassVar[Failure.Code]
        WITHDRAWN: _ClassVar[Failure.Code]
        EXPIRED: _ClassVar[Failure.Code]
        UNKNOWN_CLIENT: _ClassVar[Failure.Code]
        NOT_SERVED: _ClassVar[Failure.Code]
        NOT_NEEDED: _ClassVar[Failure.Code]
        BANNED: _ClassVar[Failure.Code]
    CODE_UNSPECIFIED: Failure.Code
    APP_RAISED: Failure.Code
    CRASHED: Failure.Code
    KILLED: Failure.Code
    TIMED_OUT: Failure.Code
    REFUSED: Failure.Code
    LOST: Failure.Code
    WITHDRAWN: Failure.Code
    EXPIRED: Failure.Code
    UNKNOWN_CLIENT: Failure.Code
    NOT_SERVED: Failure.Code
    NOT_NEEDED: Failure.Code
    BANNED: Failure.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: Failure.Code
    reason: str
    def __init__(self, code: _Optional[_Union[Failure.Code, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("call", "content", "failure", "state", "created_at", "ttl", "held")
    CALL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    call: int
    content: Content
    failure: Failure
    state: Content
    created_at: float
    ttl: float
    held: bool
    def __init__(self, call: _Optional[int] = ..., content: _Optional[_Union[Content, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., state: _Optional[_Union[Content, _Mapping]] = ..., created_at: _Optional[float] = ..., ttl: _Optional[float] = ..., held: bool = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("upload", "assignment", "outcomes", "blobs", "bytes_follow", "seconds", "more")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FOLLOW_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    upload: int
    assignment: int
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    blobs: _containers.RepeatedCompositeFieldContainer[Blob]
    bytes_follow: bool
    seconds: float
    more: bool
    def __init__(self, upload: _Optional[int] = ..., assignment: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ..., blobs: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ..., bytes_follow: bool = ..., seconds: _Optional[float] = ..., more: bool = ...) -> None: ...

class SumTensor(_message.Message):
    __slots__ = ("name", "dtype", "blob", "raw", "blocks", "bins", "unchanged")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    blob: int
    raw: bool
    blocks: _containers.RepeatedScalarFieldContainer[int]
    bins: _containers.RepeatedScalarFieldContainer[int]
    unchanged: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., blob: _Optional[int] = ..., raw: bool = ..., blocks: _Optional[_Iterable[int]] = ..., bins: _Optional[_Iterable[int]] = ..., unchanged: _Optional[_Iterable[int]] = ...) -> None: ...

class Sum(_message.Message):
    __slots__ = ("upload", "fold", "calls", "tensors", "blobs", "bytes_follow")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    FOLD_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FOLLOW_FIELD_NUMBER: _ClassVar[int]
    upload: int
    fold: int
    calls: _containers.RepeatedScalarFieldContainer[int]
    tensors: _containers.RepeatedCompositeFieldContainer[SumTensor]
    blobs: _containers.RepeatedCompositeFieldContainer[Blob]
    bytes_follow: bool
    def __init__(self, upload: _Optional[int] = ..., fold: _Optional[int] = ..., calls: _Optional[_Iterable[int]] = ..., tensors: _Optional[_Iterable[_Union[SumTensor, _Mapping]]] = ..., blobs: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ..., bytes_follow: bool = ...) -> None: ...

class AppBroken(_message.Message):
    __slots__ = ("traceback",)
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    traceback: str
    def __init__(self, traceback: _Optional[str] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class WorkerFrame(_message.Message):
    __slots__ = ("hello", "ready", "need", "reply", "app_broken", "sum", "capacity", "probe")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    NEED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    APP_BROKEN_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    ready: Ready
    need: Need
    reply: Reply
    app_broken: AppBroken
    sum: Sum
    capacity: Capacity
    probe: Probe
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., need: _Optional[_Union[Need, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., app_broken: _Optional[_Union[AppBroken, _Mapping]] = ..., sum: _Optional[_Union[Sum, _Mapping]] = ..., capacity: _Optional[_Union[Capacity, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("run", "flower_run", "run_config", "cache_bytes", "partitions", "max_attempts")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FLOWER_RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_CONFIG_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    run: str
    flower_run: int
    run_config: Values
    cache_bytes: int
    partitions: int
    max_attempts: int
    def __init__(self, run: _Optional[str] = ..., flower_run: _Optional[int] = ..., run_config: _Optional[_Union[Values, _Mapping]] = ..., cache_bytes: _Optional[int] = ..., partitions: _Optional[int] = ..., max_attempts: _Optional[int] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("id", "node", "partition", "seed", "message_id", "created_at", "ttl", "state")
    ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    id: int
    node: int
    partition: int
    seed: int
    message_id: str
    created_at: float
    ttl: float
    state: Content
    def __init__(self, id: _Optional[int] = ..., node: _Optional[int] = ..., partition: _Optional[int] = ..., seed: _Optional[int] = ..., message_id: _Optional[str] = ..., created_at: _Optional[float] = ..., ttl: _Optional[float] = ..., state: _Optional[_Union[Content, _Mapping]] = ...) -> None: ...

class Fold(_message.Message):
    __slots__ = ("id", "bits", "weight_key", "more")
    ID_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_KEY_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    id: int
    bits: int
    weight_key: str
    more: bool
    def __init__(self, id: _Optional[int] = ..., bits: _Optional[int] = ..., weight_key: _Optional[str] = ..., more: bool = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("assignment", "calls", "timeout_s", "message_type", "group", "content", "blobs", "fold", "compression", "bound")
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_TYPE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    FOLD_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    assignment: int
    calls: _containers.RepeatedCompositeFieldContainer[Call]
    timeout_s: float
    message_type: str
    group: str
    content: Content
    blobs: _containers.RepeatedCompositeFieldContainer[Blob]
    fold: Fold
    compression: Compression
    bound: bool
    def __init__(self, assignment: _Optional[int] = ..., calls: _Optional[_Iterable[_Union[Call, _Mapping]]] = ..., timeout_s: _Optional[float] = ..., message_type: _Optional[str] = ..., group: _Optional[str] = ..., content: _Optional[_Union[Content, _Mapping]] = ..., blobs: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ..., fold: _Optional[_Union[Fold, _Mapping]] = ..., compression: _Optional[_Union[Compression, str]] = ..., bound: bool = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("calls", "assignments")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedScalarFieldContainer[int]
    assignments: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, calls: _Optional[_Iterable[int]] = ..., assignments: _Optional[_Iterable[int]] = ...) -> None: ...

class Flush(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("call", "reason")
    CALL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    call: int
    reason: str
    def __init__(self, call: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Settled(_message.Message):
    __slots__ = ("upload", "refused")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    upload: int
    refused: _containers.RepeatedCompositeFieldContainer[Refusal]
    def __init__(self, upload: _Optional[int] = ..., refused: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ...) -> None: ...

class Received(_message.Message):
    __slots__ = ("bytes", "probe")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    probe: int
    def __init__(self, bytes: _Optional[int] = ..., probe: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("welcome", "task", "cancel", "settled", "goodbye", "need", "flush", "received")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    NEED_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    task: Task
    cancel: Cancel
    settled: Settled
    goodbye: Goodbye
    need: Need
    flush: Flush
    received: Received
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., settled: _Optional[_Union[Settled, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., need: _Optional[_Union[Need, _Mapping]] = ..., flush: _Optional[_Union[Flush, _Mapping]] = ..., received: _Optional[_Union[Received, _Mapping]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class RoundLine(_message.Message):
    __slots__ = ("round", "seconds", "clients", "failures", "metrics", "late", "not_needed")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    NOT_NEEDED_FIELD_NUMBER: _ClassVar[int]
    round: int
    seconds: float
    clients: int
    failures: int
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    late: int
    not_needed: int
    def __init__(self, round: _Optional[int] = ..., seconds: _Optional[float] = ..., clients: _Optional[int] = ..., failures: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., late: _Optional[int] = ..., not_needed: _Optional[int] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("state", "round", "rounds", "phase", "clients", "done", "running", "failed", "workers", "bytes_up", "bytes_down", "eta_s", "ended", "absent", "banned")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    BANNED_FIELD_NUMBER: _ClassVar[int]
    state: str
    round: int
    rounds: int
    phase: str
    clients: int
    done: int
    running: int
    failed: int
    workers: int
    bytes_up: int
    bytes_down: int
    eta_s: float
    ended: _containers.RepeatedCompositeFieldContainer[RoundLine]
    absent: _containers.RepeatedScalarFieldContainer[str]
    banned: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, state: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., phase: _Optional[str] = ..., clients: _Optional[int] = ..., done: _Optional[int] = ..., running: _Optional[int] = ..., failed: _Optional[int] = ..., workers: _Optional[int] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., eta_s: _Optional[float] = ..., ended: _Optional[_Iterable[_Union[RoundLine, _Mapping]]] = ..., absent: _Optional[_Iterable[str]] = ..., banned: _Optional[_Iterable[str]] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("reason", "broken")
    REASON_FIELD_NUMBER: _ClassVar[int]
    BROKEN_FIELD_NUMBER: _ClassVar[int]
    reason: str
    broken: bool
    def __init__(self, reason: _Optional[str] = ..., broken: bool = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BanRequest(_message.Message):
    __slots__ = ("sites",)
    SITES_FIELD_NUMBER: _ClassVar[int]
    sites: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sites: _Optional[_Iterable[str]] = ...) -> None: ...

class BanReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Frame(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
