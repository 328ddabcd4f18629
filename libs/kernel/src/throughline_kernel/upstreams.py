"""Who takes whose log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

UPSTREAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "ingestion": ("identity",),
    "identity": ("ingestion",),
    "journey": ("identity", "feedback"),
    "feedback": ("identity",),
    "scoring": ("identity", "feedback", "journey"),
}
"""By service, the services whose logs it takes from the bus."""
