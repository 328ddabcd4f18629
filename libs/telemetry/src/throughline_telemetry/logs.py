"""Log lines: one JSON object each, cheap, with who speaks on every line and no personal value on any."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, BinaryIO, Final, cast

import orjson
import structlog

REDACTED: Final = "[redacted]"
# Field names whose values are, or may hold, what a person said or is known by, or a secret.
PERSONAL_FIELDS: Final = frozenset(
    {
        "answer",
        "answers",
        "authorization",
        "box",
        "email",
        "exchange",
        "exchanges",
        "first_name",
        "hash_key",
        "identifier",
        "identifier_value",
        "identifiers",
        "interaction",
        "interactions",
        "key_encryption_key",
        "last_name",
        "offered",
        "password",
        "payload",
        "personal",
        "personal_attributes",
        "personal_values",
        "phone",
        "plaintext",
        "request",
        "secret",
        "session_id",
        "token",
        "value",
        "values",
        "verbatim",
        "verbatims",
    }
)
_ADDRESS: Final = re.compile(r"[^\s@\"'<>(),;:=]+@[^\s@\"'<>(),;:=]+\.[^\s@\"'<>(),;:=]+")
_TEXT_FIELDS: Final = ("event", "exception", "error", "cause", "reason", "message", "stack")

EventDict = MutableMapping[str, Any]


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Blanks the values of personal fields at any depth, and what looks like an e-mail address in messages and
    stacks.
    """
    for key, value in event.items():
        if key in PERSONAL_FIELDS:
            event[key] = REDACTED
        elif isinstance(value, dict | list | tuple):
            event[key] = _redacted(cast("object", value))
    for key in _TEXT_FIELDS:
        text = event.get(key)
        if isinstance(text, str) and "@" in text:
            event[key] = _ADDRESS.sub(REDACTED, text)
    return event


def configure_logging(
    service: str,
    *,
    partition: int = 0,
    version: str = "",
    level: str = "INFO",
    stream: BinaryIO | None = None,
) -> None:
    """Writes this process's log lines, and those of libraries, as JSON to standard error or to `stream`.

    `level` is a name of the standard library's, in any case. Raises: ValueError for another.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} is unknown; give DEBUG, INFO, WARNING or ERROR")
    output = stream if stream is not None else sys.stderr.buffer
    speaker = {"service": service, "partition": partition, "version": version}

    def speak(_logger: object, _method: str, event: EventDict) -> EventDict:
        return {**speaker, **event}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
        speak,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_dumps)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(output),
        cache_logger_on_first_use=True,
    )
    handler = _BytesHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *shared,
                structlog.processors.JSONRenderer(serializer=_dumps_text),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))


def logger() -> structlog.typing.FilteringBoundLogger:
    """The process's logger: `logger().info("what_happened", field=value)`. Bind it once per component."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger())


class _BytesHandler(logging.Handler):
    def __init__(self, output: BinaryIO) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._output.write(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
            self._output.flush()
        except Exception:  # noqa: BLE001 -- logging never stops what it logs
            self.handleError(record)


def _dumps(event: object, **_: object) -> bytes:
    return orjson.dumps(event, default=_readable, option=orjson.OPT_NON_STR_KEYS)


def _dumps_text(event: object, **_: object) -> str:
    return _dumps(event).decode()


def _readable(value: object) -> str:
    return value.hex() if isinstance(value, bytes | bytearray) else repr(value)


def _redacted(value: object) -> object:
    if isinstance(value, Mapping):
        fields = cast("Mapping[object, object]", value)
        return {key: REDACTED if key in PERSONAL_FIELDS else _redacted(inner) for key, inner in fields.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in cast("Sequence[object]", value)]
    return value
