"""Route sets as files: YAML (or JSON) in the form of the contract's RouteSet."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf import json_format

from feedback.application import codec
from feedback.domain.routing import RouteSet, check_routes
from throughline.feedback.v1 import routes_pb2
from throughline_kernel import InvalidError, Violation

PACKAGED: Final = ("default", "city_services", "airport_survey")
"""Names of the route sets that come with the service; the first holds where nothing else is said."""


def packaged_routes(name: str = PACKAGED[0]) -> RouteSet:
    """A route set that comes with the service. Raises InvalidError ROUTES_INVALID, FileNotFoundError."""
    return parse_routes(files("feedback").joinpath("data", f"{name}.yaml").read_text(encoding="utf-8"), name)


def read_routes_file(path: Path) -> RouteSet:
    """A route set from a file. Raises InvalidError ROUTES_INVALID, OSError."""
    return parse_routes(path.read_text(encoding="utf-8"), str(path))


def parse_routes(text: str, name: str) -> RouteSet:
    """A checked route set; `name` says in errors where the text is from. Raises InvalidError ROUTES_INVALID."""
    try:
        parsed: Any = yaml.safe_load(text)
        message = json_format.ParseDict(parsed, routes_pb2.RouteSet())
    except (yaml.YAMLError, json_format.ParseError, TypeError, AttributeError) as error:
        raise InvalidError.of(
            Violation("routes", f"{name} holds a RouteSet in YAML or JSON", f"mend it: {error}", "ROUTES_INVALID")
        ) from error
    routes = codec.routes_of(message)
    check_routes(routes)
    return routes
