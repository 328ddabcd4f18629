"""Sources' own quotas, from a file that may change."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from ingestion.domain.quota import Quota
from throughline_rpc import HostSettingsError, Watched

KNOWN: Final = frozenset({"events", "bytes", "burst"})


def quotas_from(file: Path | None, default: Quota) -> Callable[[str], Quota]:
    """Gives each source's quota as it is now: the file's, else the default.

    Raises: HostSettingsError for a file that is none: `{"till": {"events": 500, "bytes": 1000000, "burst": 30}}`.
    """
    if file is None:
        return lambda _: default
    own = Watched("quotas", [file], lambda: _read(file, default))
    return lambda source: own.current().get(source, default)


def _read(file: Path, default: Quota) -> Mapping[str, Quota]:
    try:
        found = cast("dict[str, dict[str, Any]]", json.loads(file.read_bytes()))
        return {source: _quota(source, said, default) for source, said in found.items()}
    except OSError as error:
        raise HostSettingsError(f"{file}: {error.strerror}; see INGESTION_QUOTAS_FILE") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise HostSettingsError(
            f'{file} is no file of quotas ({error}); write {{"till": {{"events": 500, "bytes": 1000000, "burst": 30}}}}'
        ) from error


def _quota(source: str, said: Mapping[str, Any], default: Quota) -> Quota:
    if unknown := said.keys() - KNOWN:
        raise ValueError(f"{source}: {', '.join(sorted(unknown))} is not known")
    events, size, burst = said.get("events", 0), said.get("bytes", 0), said.get("burst", default.burst)
    if not all(isinstance(each, int | float) and each >= 0 for each in (events, size, burst)) or not burst:
        raise ValueError(f"{source}: events, bytes and burst are numbers from 0, burst above it")
    return Quota(float(events), float(size), float(burst))
