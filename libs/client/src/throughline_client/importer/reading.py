"""Rows out of CSV, NDJSON and Parquet files, plain or gzipped, in bounded memory.

A reader gives each good row as a list of the columns asked for, blanks as "", and tells of every bad one. What ends a
file early (truncated gzip, a broken Parquet page) ends the reading of it, and is told too.
"""

from __future__ import annotations

import csv
import io
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import orjson

from throughline_client.importer.mapping import FileSpec
from throughline_client.importer.problems import DataFileError, Reject

# A field longer than this is taken for a lost closing quote.
FIELD_LIMIT: Final = 4 * 1024 * 1024
SAMPLE: Final = 1000
_ENDINGS: Final = {".csv": "csv", ".tsv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet"}
_CHUNK: Final = 1 << 18
# zlib's word for "with a gzip header".
_GZIP: Final = 31

if TYPE_CHECKING:
    from typing_extensions import Buffer

Rejected = Callable[[Reject], None]


class Table(ABC):
    """One data file. `columns` are its columns, in order; `done` and `size` tell how far the reading is."""

    def __init__(self, path: Path, spec: FileSpec) -> None:
        self.path = path
        self.file = str(path)
        self.columns: list[str] = []
        self.size = 0
        self.truncated = False
        self._spec = spec

    @property
    @abstractmethod
    def done(self) -> int:
        """How much of `size` is read."""

    @abstractmethod
    def rows(self, wanted: Sequence[str], rejected: Rejected) -> Iterator[tuple[int, list[str]]]:
        """Gives (row number, the wanted columns) for each good row; every other row goes to `rejected`."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the file."""

    def _cleaner(self, wanted: Sequence[str]) -> Callable[[Iterable[str]], list[str]]:
        blanks = self._spec.blanks
        special = [(wanted.index(name), values) for name, values in self._spec.column_blanks if name in wanted]

        def clean(cells: Iterable[str]) -> list[str]:
            return ["" if (value := cell.strip()) in blanks else value for cell in cells]

        if not special:
            return clean

        def clean_each(cells: Iterable[str]) -> list[str]:
            row = clean(cells)
            for index, values in special:
                if row[index] in values:
                    row[index] = ""
            return row

        return clean_each


def open_table(path: Path, spec: FileSpec) -> Table:
    """Opens a data file by its declared format, or by its name's ending. Raises: DataFileError."""
    suffixes = [suffix.casefold() for suffix in path.suffixes]
    zipped = bool(suffixes) and suffixes[-1] == ".gz"
    ending = (suffixes[-2] if len(suffixes) > 1 else "") if zipped else (suffixes[-1] if suffixes else "")
    form = spec.format or _ENDINGS.get(ending, "")
    if not form:
        raise DataFileError(
            str(path), "has a name that tells no format", "name it .csv, .ndjson or .parquet (.gz), or give `format:`"
        )
    try:
        if form == "parquet":
            return _parquet(path, spec)
        delimiter = spec.delimiter or ("\t" if ending == ".tsv" else ",")
        return CsvTable(path, spec, delimiter) if form == "csv" else NdjsonTable(path, spec)
    except FileNotFoundError:
        raise DataFileError(str(path), "does not exist", "give the path of the data file") from None
    except IsADirectoryError:
        raise DataFileError(str(path), "is a folder", "give one file") from None
    except OSError as error:
        raise DataFileError(str(path), f"cannot be read: {error.strerror or error}", "check the file") from None


def _parquet(path: Path, spec: FileSpec) -> Table:
    try:
        # Arrow is bigger than all the rest of the command: images go without.
        from throughline_client.importer.parquet import ParquetTable  # noqa: PLC0415 -- Arrow is large, and not everywhere
    except ModuleNotFoundError as missing:
        if missing.name != "pyarrow":
            raise
        raise DataFileError(
            str(path),
            "is Parquet, which this installation cannot read",
            "install the Python package pyarrow, or give CSV",
        ) from missing
    return ParquetTable(path, spec)


class _Unzipped(io.RawIOBase):
    """What of a gzip file can be unzipped; `broken` says why it ends where it should not."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        self.broken = ""
        self._raw = raw
        self._inflate = zlib.decompressobj(_GZIP)
        self._fed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        while True:
            try:
                data = self._inflate.decompress(self._fed, len(view))
            except zlib.error as error:
                self.broken = f"its gzip is damaged ({error})"
                return 0
            self._fed = self._inflate.unconsumed_tail
            if data:
                view[: len(data)] = data
                return len(data)
            if self._inflate.eof:
                self._fed = self._inflate.unused_data or self._raw.read(_CHUNK)
                if not self._fed.strip(b"\0"):
                    return 0
                self._inflate = zlib.decompressobj(_GZIP)
            elif not self._fed:
                self._fed = self._raw.read(_CHUNK)
                if not self._fed:
                    self.broken = "its gzip is truncated"
                    return 0


class _Lines:
    """Lines of a plain or gzipped file, decoded.

    Remembers that a line could not be decoded, and that the file ends early: then its last, cut line is left out.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self.raw: BinaryIO = path.open("rb")
        head = self.raw.read(2)
        self.raw.seek(0)
        self._unzipped = _Unzipped(self.raw) if head == b"\x1f\x8b" else None
        self._stream = io.BufferedReader(self._unzipped, _CHUNK) if self._unzipped else self.raw
        self.encoding = encoding
        self.number = 0
        self.undecodable = False

    @property
    def broken(self) -> str:
        """Why the file ends early, empty where it does not."""
        return self._unzipped.broken if self._unzipped else ""

    def __iter__(self) -> Iterator[str]:
        encoding = self.encoding
        for raw in self._stream:
            if not raw.endswith(b"\n") and self.broken:
                return
            self.number += 1
            line = raw if self.number > 1 else raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError:
                self.undecodable = True
                yield line.decode(encoding, "surrogateescape")

    def close(self) -> None:
        self._stream.close()
        self.raw.close()


def _has_surrogate(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


class CsvTable(Table):
    """Comma-separated values with a header line, or with columns that the mapping names."""

    def __init__(self, path: Path, spec: FileSpec, delimiter: str) -> None:
        super().__init__(path, spec)
        self.size = path.stat().st_size
        self._lines = _Lines(path, spec.encoding)
        csv.field_size_limit(FIELD_LIMIT)
        self._reader = csv.reader(self._lines, delimiter=delimiter)
        self._position = 0
        if spec.columns:
            self.columns = list(spec.columns)
            return
        try:
            self.columns = self._read_header()
        except DataFileError:
            self.close()
            raise

    def _read_header(self) -> list[str]:
        try:
            header = next(self._reader, None)
        except csv.Error as error:
            raise DataFileError(self.file, f"has no readable header: {error}", "check the file") from None
        if header is None:
            if self._lines.broken:
                raise DataFileError(self.file, f"cannot be read: {self._lines.broken}", "fetch the file again")
            raise DataFileError(self.file, "is empty", "give a file with a header line, or name its `columns:`")
        if self._lines.undecodable:
            raise DataFileError(
                self.file,
                f"has a header that is not {self._spec.encoding}",
                "set `encoding:` of the file in the mapping",
            )
        return [name.strip() for name in header]

    @property
    def done(self) -> int:
        return self._position

    def rows(self, wanted: Sequence[str], rejected: Rejected) -> Iterator[tuple[int, list[str]]]:
        for name in wanted:
            if self.columns.count(name) > 1:
                raise DataFileError(self.file, f"has the column {name!r} more than once", "rename one of them")
        pick = _picker([self.columns.index(name) for name in wanted])
        clean = self._cleaner(wanted)
        width = len(self.columns)
        lines, raw = self._lines, self._lines.raw
        number = 0
        for number, cells in self._records(rejected):
            if lines.undecodable or len(cells) != width:
                undecodable, lines.undecodable = lines.undecodable, False
                reject = self._undecodable(cells, number) if undecodable else None
                if reject is None and len(cells) != width:
                    reject = self._ragged(cells, number)
                if reject is not None:
                    rejected(reject)
                    continue
            if not number & 1023:
                self._position = raw.tell()
            yield number, clean(pick(cells))
        self._position = self.size
        if lines.broken:
            self.truncated = True
            rejected(truncated(self.file, number + 1, lines.number + 1, lines.broken))

    def _records(self, rejected: Rejected) -> Iterator[tuple[int, list[str]]]:
        """Numbers the records, without those that are no CSV and without blank lines."""
        number = 1
        while True:
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                rejected(Reject(self.file, number, self._lines.number, "", f"is not CSV: {error}", "mend its quotes"))
                number += 1
                continue
            if cells is None:
                return
            if cells:
                yield number, cells
                number += 1

    def _ragged(self, cells: list[str], number: int) -> Reject:
        return Reject(
            self.file,
            number,
            self._lines.number,
            "",
            f"has {len(cells)} fields where the header has {len(self.columns)}",
            "quote fields that hold a delimiter or line break",
        )

    def _undecodable(self, cells: list[str], number: int) -> Reject | None:
        for index, cell in enumerate(cells):
            if _has_surrogate(cell):
                return Reject(
                    self.file,
                    number,
                    self._lines.number,
                    self.columns[index] if index < len(self.columns) else "",
                    f"has bytes that are not {self._spec.encoding}",
                    "save the file as UTF-8, or set its `encoding:` in the mapping",
                )
        return None

    def close(self) -> None:
        self._lines.close()


def truncated(file: str, row: int, line: int, why: str) -> Reject:
    """What is told of a file that ends early."""
    return Reject(
        file,
        row,
        line,
        "",
        f"the file ends early from this row on: {why}",
        "fetch the file again, then import it again: nothing is counted twice",
    )


def _picker(places: list[int]) -> Callable[[list[str]], Iterable[str]]:
    if not places:
        return lambda _: ()
    if len(places) == 1:
        only = places[0]
        return lambda cells: (cells[only],)
    return itemgetter(*places)


class NdjsonTable(Table):
    """One JSON object per line. Columns may be missing; `a.b` reaches into an object."""

    def __init__(self, path: Path, spec: FileSpec) -> None:
        super().__init__(path, spec)
        self.size = path.stat().st_size
        self._lines = _Lines(path, "latin-1")
        self._position = 0
        self._sample: list[tuple[int, str]] = []
        self._rest = iter(self._lines)
        names: dict[str, None] = {}
        for text in self._rest:
            self._sample.append((self._lines.number, text))
            _collect_names(text, names)
            if len(self._sample) >= SAMPLE:
                break
        if not self._sample:
            self.close()
            if self._lines.broken:
                raise DataFileError(self.file, f"cannot be read: {self._lines.broken}", "fetch the file again")
            raise DataFileError(self.file, "is empty", "give a file with one JSON object per line")
        self.columns = list(names)

    @property
    def done(self) -> int:
        return self._position

    def rows(self, wanted: Sequence[str], rejected: Rejected) -> Iterator[tuple[int, list[str]]]:
        clean = self._cleaner(wanted)
        paths = [(name, name.split(".")) for name in wanted]
        raw = self._lines.raw
        row = 0
        for line, text in self._numbered():
            if not text.strip():
                continue
            row += 1
            try:
                record = orjson.loads(text.encode("latin-1"))
            except orjson.JSONDecodeError as error:
                rejected(Reject(self.file, row, line, "", f"is not JSON: {error}", "mend the line"))
                continue
            if not isinstance(record, dict):
                rejected(Reject(self.file, row, line, "", "is not a JSON object", "write one object per line"))
                continue
            found = cast("dict[str, object]", record)
            if not row & 1023:
                self._position = raw.tell()
            yield row, clean([_cell(found, name, path) for name, path in paths])
        self._position = self.size
        if self._lines.broken:
            self.truncated = True
            rejected(truncated(self.file, row + 1, self._lines.number + 1, self._lines.broken))

    def _numbered(self) -> Iterator[tuple[int, str]]:
        yield from self._sample
        self._sample = []
        for text in self._rest:
            yield self._lines.number, text

    def close(self) -> None:
        self._lines.close()


def _collect_names(text: str, names: dict[str, None]) -> None:
    try:
        record = orjson.loads(text.encode("latin-1"))
    except orjson.JSONDecodeError:
        return
    if isinstance(record, dict):
        _walk(cast("dict[str, object]", record), "", names)


def _walk(record: dict[str, object], prefix: str, names: dict[str, None]) -> None:
    for key, value in record.items():
        names[prefix + key] = None
        if isinstance(value, dict):
            _walk(cast("dict[str, object]", value), f"{prefix}{key}.", names)


def _as_object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _cell(record: dict[str, object], name: str, path: list[str]) -> str:
    value = record.get(name)
    if value is None and len(path) > 1:
        inner: object = record
        for key in path:
            inner = _as_object(inner).get(key)
        value = inner
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    return orjson.dumps(value).decode()
