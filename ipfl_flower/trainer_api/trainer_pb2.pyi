from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Speaker(_message.Message):
    __slots__ = ("protocol", "version")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("speaker",)
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    speaker: Speaker
    def __init__(self, speaker: _Optional[_Union[Speaker, _Mapping]] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("name", "versions", "task", "layout", "terms", "leaving", "device", "speaker")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    name: str
    versions: _containers.ScalarMap[str, str]
    task: str
    layout: Layout
    terms: Terms
    leaving: bool
    device: str
    speaker: Speaker
    def __init__(self, name: _Optional[str] = ..., versions: _Optional[_Mapping[str, str]] = ..., task: _Optional[str] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ..., terms: _Optional[_Union[Terms, _Mapping]] = ..., leaving: _Optional[bool] = ..., device: _Optional[str] = ..., speaker: _Optional[_Union[Speaker, _Mapping]] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Layout(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    def __init__(self, tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ...) -> None: ...

class Terms(_message.Message):
    __slots__ = ("samples", "cost", "eagerness", "budget")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    EAGERNESS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    samples: int
    cost: float
    eagerness: float
    budget: float
    def __init__(self, samples: _Optional[int] = ..., cost: _Optional[float] = ..., eagerness: _Optional[float] = ..., budget: _Optional[float] = ...) -> None: ...

class FitRequest(_message.Message):
    __slots__ = ("header", "chunk", "end")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    header: FitHeader
    chunk: bytes
    end: End
    def __init__(self, header: _Optional[_Union[FitHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., end: _Optional[_Union[End, _Mapping]] = ...) -> None: ...

class FitHeader(_message.Message):
    __slots__ = ("round", "train", "role", "coefficient", "start", "statement", "task", "layout", "speaker")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    round: int
    train: bool
    role: str
    coefficient: float
    start: str
    statement: str
    task: str
    layout: bytes
    speaker: Speaker
    def __init__(self, round: _Optional[int] = ..., train: _Optional[bool] = ..., role: _Optional[str] = ..., coefficient: _Optional[float] = ..., start: _Optional[str] = ..., statement: _Optional[str] = ..., task: _Optional[str] = ..., layout: _Optional[bytes] = ..., speaker: _Optional[_Union[Speaker, _Mapping]] = ...) -> None: ...

class FitReply(_message.Message):
    __slots__ = ("progress", "header", "chunk", "end")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    header: FitReplyHeader
    chunk: bytes
    end: End
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., header: _Optional[_Union[FitReplyHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., end: _Optional[_Union[End, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "done", "of", "seconds")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    phase: str
    done: int
    of: int
    seconds: float
    def __init__(self, phase: _Optional[str] = ..., done: _Optional[int] = ..., of: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class FitReplyHeader(_message.Message):
    __slots__ = ("terms", "leaving", "metrics", "layout", "speaker")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TERMS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    terms: Terms
    leaving: bool
    metrics: _containers.ScalarMap[str, float]
    layout: Layout
    speaker: Speaker
    def __init__(self, terms: _Optional[_Union[Terms, _Mapping]] = ..., leaving: _Optional[bool] = ..., metrics: _Optional[_Mapping[str, float]] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ..., speaker: _Optional[_Union[Speaker, _Mapping]] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("crc32",)
    CRC32_FIELD_NUMBER: _ClassVar[int]
    crc32: int
    def __init__(self, crc32: _Optional[int] = ...) -> None: ...
