"""Definitions in YAML or JSON files: journeys, metrics, routes, rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from throughline_client.commands.running import BAD_INPUT, Failure

M = TypeVar("M", bound=Message)


def read_definition(file: Path, into: M) -> M:
    """Reads a file in the form of a message. Raises: Failure naming the file and what does not fit."""
    try:
        found: Any = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise Failure(f"{file}: cannot be read: {error.strerror}", BAD_INPUT) from None
    except yaml.YAMLError as error:
        raise Failure(f"{file}: is neither YAML nor JSON: {error}", BAD_INPUT) from None
    if not isinstance(found, dict):
        raise Failure(f"{file}: is no mapping; write the fields of {into.DESCRIPTOR.full_name}", BAD_INPUT)
    try:
        return json_format.ParseDict(cast("dict[str, Any]", found), into)
    except json_format.ParseError as error:
        raise Failure(f"{file}: {error}; the form is {into.DESCRIPTOR.full_name}", BAD_INPUT) from None
