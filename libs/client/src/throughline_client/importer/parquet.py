"""Rows out of Parquet files. The one module of the command that needs Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from throughline_client.importer.mapping import FileSpec
from throughline_client.importer.problems import DataFileError
from throughline_client.importer.reading import Rejected, Table, truncated


class ParquetTable(Table):
    """A Parquet file, read in row groups' batches; every value becomes the text a CSV of it would hold."""

    def __init__(self, path: Path, spec: FileSpec) -> None:
        super().__init__(path, spec)
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, pa.ArrowIOError) as error:
            raise DataFileError(str(path), f"is not Parquet: {_first_line(error)}", "check the file") from None
        self.columns = list(self._file.schema_arrow.names)
        self.size = self._file.metadata.num_rows
        self._done = 0

    @property
    def done(self) -> int:
        return self._done

    def rows(self, wanted: Sequence[str], rejected: Rejected) -> Iterator[tuple[int, list[str]]]:
        clean = self._cleaner(wanted)
        number = 0
        try:
            batches: Iterator[Any] = self._file.iter_batches(batch_size=8192, columns=list(wanted))  # pyright: ignore[reportUnknownMemberType] -- partly typed
            for batch in batches:
                columns = [_texts(batch.column(name)) for name in wanted]
                for cells in zip(*columns, strict=True) if columns else ((),) * batch.num_rows:
                    number += 1
                    yield number, clean(cells)
                self._done = number
        except (pa.ArrowInvalid, pa.ArrowIOError, OSError) as error:
            self.truncated = True
            rejected(truncated(self.file, number + 1, 0, _first_line(error)))

    def close(self) -> None:
        self._file.close()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _texts(column: Any) -> list[str]:
    """The values as text; instants to the microsecond in ISO form, missing ones as ""."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        # Finer than a microsecond is finer than anything here counts.
        column = column.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    if pa.types.is_nested(kind):
        return ["" if value is None else orjson.dumps(value).decode() for value in column.to_pylist()]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return ["" if value is None else value.decode("utf-8", "replace") for value in column.to_pylist()]
    return ["" if value is None else value for value in column.cast(pa.string()).to_pylist()]
