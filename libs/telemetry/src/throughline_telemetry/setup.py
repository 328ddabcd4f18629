"""One call that sets up logs and traces for a process."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.trace import TracerProvider

from throughline_telemetry import metrics
from throughline_telemetry.exporting import configure_tracing
from throughline_telemetry.logs import configure_logging

LOG_LEVEL: Final = "THROUGHLINE_LOG_LEVEL"


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What was set up; `shutdown` writes the spans still held."""

    tracing: TracerProvider | None

    def shutdown(self) -> None:
        """Writes what is held and stops exporting. Blocks for at most a few seconds."""
        if self.tracing is not None:
            self.tracing.shutdown()


def configure(service: str, *, partition: int = 0, version: str = "", env: Mapping[str, str] = os.environ) -> Telemetry:
    """Sets up JSON logs (THROUGHLINE_LOG_LEVEL) and traces (see `configure_tracing`) for a process of one service, and
    tells both in its metrics.
    """
    metrics.BUILD.labels(service, version).set(1)
    metrics.CLOCK.set_function(time.time)
    configure_logging(service, partition=partition, version=version, level=env.get(LOG_LEVEL) or "INFO")
    return Telemetry(configure_tracing(service, partition=partition, version=version, env=env))
