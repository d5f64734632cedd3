from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HttpField(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    value: bytes
    def __init__(self, name: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class HttpRequest(_message.Message):
    __slots__ = ("request_id", "route", "multiplexed_model_id", "session_id", "websocket", "method", "scheme", "http_version", "path", "raw_path", "query_string", "root_path", "headers", "client", "server", "subprotocols")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLEXED_MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    WEBSOCKET_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    HTTP_VERSION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    RAW_PATH_FIELD_NUMBER: _ClassVar[int]
    QUERY_STRING_FIELD_NUMBER: _ClassVar[int]
    ROOT_PATH_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    SUBPROTOCOLS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    route: str
    multiplexed_model_id: str
    session_id: str
    websocket: bool
    method: str
    scheme: str
    http_version: str
    path: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    headers: _containers.RepeatedCompositeFieldContainer[HttpField]
    client: HttpPeer
    server: HttpPeer
    subprotocols: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., route: _Optional[str] = ..., multiplexed_model_id: _Optional[str] = ..., session_id: _Optional[str] = ..., websocket: bool = ..., method: _Optional[str] = ..., scheme: _Optional[str] = ..., http_version: _Optional[str] = ..., path: _Optional[str] = ..., raw_path: _Optional[bytes] = ..., query_string: _Optional[bytes] = ..., root_path: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[HttpField, _Mapping]]] = ..., client: _Optional[_Union[HttpPeer, _Mapping]] = ..., server: _Optional[_Union[HttpPeer, _Mapping]] = ..., subprotocols: _Optional[_Iterable[str]] = ...) -> None: ...

class HttpPeer(_message.Message):
    __slots__ = ("host", "port")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class HttpResponse(_message.Message):
    __slots__ = ("status", "headers")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    status: int
    headers: _containers.RepeatedCompositeFieldContainer[HttpField]
    def __init__(self, status: _Optional[int] = ..., headers: _Optional[_Iterable[_Union[HttpField, _Mapping]]] = ...) -> None: ...

class WebSocketAccept(_message.Message):
    __slots__ = ("subprotocol", "headers")
    SUBPROTOCOL_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    subprotocol: str
    headers: _containers.RepeatedCompositeFieldContainer[HttpField]
    def __init__(self, subprotocol: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[HttpField, _Mapping]]] = ...) -> None: ...

class WebSocketClose(_message.Message):
    __slots__ = ("code", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class HttpEvent(_message.Message):
    __slots__ = ("request", "response", "body", "accept", "text", "data", "close")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    request: HttpRequest
    response: HttpResponse
    body: bytes
    accept: WebSocketAccept
    text: str
    data: bytes
    close: WebSocketClose
    def __init__(self, request: _Optional[_Union[HttpRequest, _Mapping]] = ..., response: _Optional[_Union[HttpResponse, _Mapping]] = ..., body: _Optional[bytes] = ..., accept: _Optional[_Union[WebSocketAccept, _Mapping]] = ..., text: _Optional[str] = ..., data: _Optional[bytes] = ..., close: _Optional[_Union[WebSocketClose, _Mapping]] = ...) -> None: ...
