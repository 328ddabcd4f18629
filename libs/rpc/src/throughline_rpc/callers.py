"""What a caller says about itself in the metadata of a call."""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import grpc.aio

from throughline_kernel import SERVICE, InvalidError, Violation

PURPOSE_KEY: Final = "throughline-purpose"

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def purpose_of(context: Context) -> str:
    """What the call reads for, as its metadata names it under `throughline-purpose`; `service` where it does not.

    Raises: InvalidError.
    """
    for key, value in context.invocation_metadata() or ():
        if key == PURPOSE_KEY:
            purpose = value if isinstance(value, str) else ""
            if not _NAME.match(purpose):
                raise InvalidError.of(
                    Violation(
                        f"metadata[{PURPOSE_KEY}]",
                        "a lower-case word of up to 64 letters, digits and underscores",
                        f"name what the read is for, e.g. marketing, or leave it out for {SERVICE}",
                    )
                )
            return purpose
    return SERVICE
