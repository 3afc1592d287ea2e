"""OTLP/gRPC 1.x: ``Export`` of the Collector's services, taken exactly as OTLP/HTTP takes them.

OK is sent only when the log has the request; spans with malformed ids are rejected one by one (partial success). The
sender is checked before its message is read: metadata ``authorization`` and ``x-driftwheel-tenant`` are the headers of
HTTP. Under pressure: UNAVAILABLE, and beyond a key's rate RESOURCE_EXHAUSTED, both with RetryInfo, and nothing was
taken; without RetryInfo a status is final (OpenTelemetry protocol specification, "OTLP/gRPC").
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import NoReturn, Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from connectors.http import TENANT_HEADER, Access, HttpError, bearer, check_key, tenant_for
from connectors.log import Log
from connectors.otlp import LOGS, PROTOBUF, TRACES, Export
from schemas.errors import Invalid, Reject

STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""gRPC's status by HTTP's."""
PATIENCE_SECONDS = 60.0
"""How long a message may take to arrive, so that senders who never finish do not hold every thread."""


class Accept(Protocol):
    """``Export.accept`` of traces, or of another signal."""

    def __call__(
        self,
        body: bytes,
        content_type: str,
        tenant: str,
        now: datetime,
        log: Log,
        check: Callable[[Iterable[str]], None],
        /,
    ) -> tuple[int, str]:
        """Append one request; returns (rejected items, why the first was). Raises Invalid, Reject or HttpError."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """One service with an ``Export``: how a request is taken, and the response to (rejected, why)."""

    name: str
    accept: Accept
    response: Callable[[int, str], bytes]


def _service(name: str, export: Export) -> Service:
    def response(rejected: int, why: str) -> bytes:
        return export.answer(rejected, why).SerializeToString()

    return Service(f"opentelemetry.proto.collector.{name}", export.accept, response)


SERVICES = (_service("trace.v1.TraceService", TRACES), _service("logs.v1.LogsService", LOGS))


class Receiver(grpc.GenericRpcHandler):
    """The methods of ``SERVICES`` for a gRPC server with threads; others are UNIMPLEMENTED."""

    def __init__(self, log: Log, clock: Callable[[], datetime], access: Access) -> None:
        self._log, self._clock, self._access = log, clock, access
        self._methods = {f"/{service.name}/Export": service for service in SERVICES}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Iterator[bytes], bytes] | None:
        """See grpc.GenericRpcHandler. Messages stay bytes, and are a stream so that the sender is checked first."""
        service = self._methods.get(handler_call_details.method)
        return grpc.stream_unary_rpc_method_handler(partial(self._export, service)) if service else None

    def _export(self, service: Service, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        try:
            given = _metadata(context)
            key = self._access.admit(bearer(given.get("authorization", "")))
            tenant = tenant_for(key, given.get(TENANT_HEADER))
            body, check = _message(messages, context), partial(check_key, key)
            rejected, why = service.accept(body, PROTOBUF, tenant, self._clock(), self._log, check)
        except HttpError as error:
            _refuse(context, error.status, error.message, error.retry_after)
        except Invalid as error:
            _refuse(context, 400, error.detail)
        except Reject as error:
            _refuse(context, 503, str(error), error.retry_after)
        return service.response(rejected, why)


def _metadata(context: grpc.ServicerContext) -> dict[str, str]:
    """The texts of the metadata; of several with one name the first."""
    pairs = [(name, value) for name, value in context.invocation_metadata() or () if isinstance(value, str)]
    return {name: value for name, value in reversed(pairs) if value.isascii()}


def _message(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    """The one message of the call. A call whose message does not come in time is cancelled."""
    timer = threading.Timer(PATIENCE_SECONDS, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        body = next(messages, None)
    finally:
        timer.cancel()
    if body is None:
        raise Invalid("not_otlp", "body: the call ended without a message")
    return body


def _refuse(context: grpc.ServicerContext, status: int, message: str, retry_after: float | None = None) -> NoReturn:
    """End the call. RetryInfo goes out twice: as the specification has it, and as OpenTelemetry for Python reads it."""
    code = STATUS[status]
    if retry_after is not None:
        retry = RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=retry_after))
        detail = AnyMessage()
        detail.Pack(retry)
        number, _ = code.value
        whole = Status(code=number, message=message, details=[detail]).SerializeToString()
        context.set_trailing_metadata(
            (("grpc-status-details-bin", whole), ("google.rpc.retryinfo-bin", retry.SerializeToString()))
        )
    context.abort(code, message)
