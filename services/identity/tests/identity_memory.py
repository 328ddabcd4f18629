"""A store in memory for the laws: the same views as the real ones, which the component tests use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence

from throughline_eventlog import Commit, InboxPosition, LoggedRow, NewEvent, StreamConflictError
from throughline_kernel import Recorded


class MemoryStore:
    """A log and its tables; reads see everything written."""

    def __init__(self) -> None:
        self.log: list[Recorded] = []
        self.streams: dict[bytes, list[Recorded]] = {}
        self.tables: dict[str, dict[bytes, bytes]] = {}
        self.now = 1_000_000
        self.overtaken = False
        self.traceparent = ""

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.tables.get(table, {}).get(key)

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes]:
        rows = self.tables.get(table, {})
        return {key: rows[key] for key in keys if key in rows}

    def scan(
        self, table: str, *, prefix: bytes = b"", after: bytes = b"", limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        rows = self.tables.get(table, {})
        keys = sorted(key for key in rows if key.startswith(prefix))
        if reverse:
            keys = [key for key in reversed(keys) if not after or key < after]
        else:
            keys = keys[bisect_right(keys, after) :] if after else keys
        return iter([(key, rows[key]) for key in keys[:limit]])

    def count(self, table: str) -> int:
        return len(self.tables.get(table, {}))

    def read(
        self, after: int = 0, *, until: int | None = None, as_of: int | None = None, limit: int | None = None
    ) -> list[Recorded]:
        found = [
            each
            for each in self.log[after:]
            if (until is None or each.position <= until) and (as_of is None or each.recorded_at <= as_of)
        ]
        return found[:limit]

    def read_logged(
        self, after: int = 0, *, until: int | None = None, as_of: int | None = None, limit: int | None = None
    ) -> list[LoggedRow]:
        raise NotImplementedError

    def read_stream(self, stream_id: bytes, *, after_version: int = 0, limit: int | None = None) -> list[Recorded]:
        return self.streams.get(stream_id, [])[after_version:][:limit]

    def read_streams(self, stream_ids: Collection[bytes]) -> dict[bytes, list[Recorded]]:
        return {each: list(self.streams[each]) for each in stream_ids if each in self.streams}

    def last_version(self, stream_id: bytes) -> int:
        return len(self.streams.get(stream_id, ()))

    def last_versions(self, stream_ids: Collection[bytes]) -> dict[bytes, int]:
        return {each: self.last_version(each) for each in stream_ids}

    def last_position(self) -> int:
        return len(self.log)

    def commit_at(self, as_of: int | None = None) -> Commit:
        known = [each for each in self.log if as_of is None or each.recorded_at <= as_of]
        return Commit(known[-1].recorded_at, known[-1].position) if known else Commit(0, 0)

    def count_events(self) -> int:
        return len(self.log)

    def inbox(self, stream: str) -> InboxPosition | None:
        raise NotImplementedError

    def inboxes(self) -> list[InboxPosition]:
        raise NotImplementedError

    def append(self, events: Sequence[NewEvent], positions: Sequence[int] | None = None) -> list[int]:
        assert positions is None, "nothing is made again here"
        positions = []
        for each in events:
            stream = self.streams.setdefault(each.stream_id, [])
            if each.version != len(stream) + 1:
                raise StreamConflictError("CONCURRENT_CHANGE", f"version {each.version} after {len(stream)}")
            position = len(self.log) + 1
            event_id = each.event_id or b"derived" + position.to_bytes(9, "big")
            recorded = Recorded(
                position,
                each.stream_id,
                each.version,
                each.type,
                event_id,
                1,
                each.occurred_at,
                self.now,
                each.correlation_id,
                each.causation_id,
                each.traceparent,
                each.payload,
            )
            assert event_id not in {other.event_id for other in self.log}, each.type
            stream.append(recorded)
            self.log.append(recorded)
            positions.append(position)
        return positions

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.tables.setdefault(table, {})[key] = value

    def put_many(self, table: str, rows: Mapping[bytes, bytes]) -> None:
        self.tables.setdefault(table, {}).update(rows)

    def delete(self, table: str, key: bytes) -> None:
        self.tables.get(table, {}).pop(key, None)

    def set_inbox(self, position: InboxPosition) -> None:
        raise NotImplementedError
