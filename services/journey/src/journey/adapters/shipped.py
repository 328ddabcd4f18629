"""The definitions that come with the package."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from journey.domain.definitions import JourneyDefinition, Match, MatterKey, Stage
from journey.domain.facts import DAY


def shipped_definitions() -> tuple[JourneyDefinition, ...]:
    """Every definition in the package's folder `definitions`, by name, each in its first version."""
    files = (
        file for file in resources.files("journey").joinpath("definitions").iterdir() if file.name.endswith(".yaml")
    )
    found = [_definition(yaml.safe_load(file.read_text("utf-8"))) for file in files]
    return tuple(sorted(found, key=lambda definition: definition.journey))


def _definition(data: dict[str, Any]) -> JourneyDefinition:
    return JourneyDefinition(
        data["journey"],
        1,
        data["name"],
        data["owner"],
        tuple(
            Stage(
                stage["stage"],
                stage.get("name", ""),
                tuple(map(_match, stage["matches"])),
                stage.get("entry", False),
            )
            for stage in data["stages"]
        ),
        tuple(data["goal_stages"]),
        data["timeout_days"] * DAY,
        MatterKey[data.get("matter_key", "none").upper()],
        tuple(sorted(data.get("next_steps", {}).items())),
    )


def _match(data: dict[str, Any]) -> Match:
    def values(name: str) -> frozenset[str]:
        return frozenset(data.get(name, ()))

    return Match(
        values("channels"),
        values("channel_groups"),
        values("kinds"),
        values("touchpoints"),
        values("outcomes"),
        values("matters"),
        tuple(sorted(data.get("attributes", {}).items())),
    )
