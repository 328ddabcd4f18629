"""Rows to interactions: a mapping bound to its files. Pure but for reading the files; sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Final, Self

import orjson

from throughline.ingestion.v1 import interaction_pb2
from throughline_client.importer.expressions import (
    AttributeExpression,
    Number,
    NumberExpression,
    Row,
    Scope,
    Test,
    TestExpression,
    Text,
    TextExpression,
)
from throughline_client.importer.mapping import (
    FEEDBACK_KINDS,
    REQUIRED_FIELDS,
    SUBJECT_TYPES,
    AggregateSpec,
    FeedbackSpec,
    FileSpec,
    ImportSpec,
    InteractionSpec,
)
from throughline_client.importer.mapping import Mapping as MappingFile
from throughline_client.importer.problems import DataFileError, MappingError, Reject, ValueProblem, nearest
from throughline_client.importer.reading import Rejected, Table, open_table
from throughline_client.importer.times import EPOCH

ROW: Final = "$row"
REPEAT: Final = "$repeat"
FILE: Final = "$file"
SPECIAL: Final = (ROW, REPEAT, FILE)


@dataclass(frozen=True, slots=True)
class Produced:
    """One interaction, and the row that it was made of (the first one of a group)."""

    row: int
    interaction: interaction_pb2.Interaction


@dataclass(slots=True)
class Counts:
    """What became of the rows: rows = rejected + filtered + taken. A group of rows gives one interaction."""

    rows: int = 0
    rejected: int = 0
    filtered: int = 0
    taken: int = 0
    interactions: int = 0
    withheld: int = 0


def find_files(mapping: MappingFile, data: Path | None, named: Mapping[str, Path]) -> dict[str, Path]:
    """Finds the file of each name that the mapping declares: given by name, in the folder, or the data file itself.

    A data file stands for the file whose names it matches, else for the only file that an import reads.

    Raises: DataFileError for a name that is not declared, or where an import's file is not found.
    """
    for name in named:
        if name not in mapping.files:
            raise DataFileError(
                str(named[name]),
                f"is set as {name!r}, which the mapping does not declare",
                nearest(name, mapping.files),
            )
    found = dict(named)
    folder = data if data is not None and data.is_dir() else None
    if data is not None and folder is None:
        name = _name_of(mapping, data)
        if name is not None:
            found.setdefault(name, data)
        folder = data.parent
    for name, spec in mapping.files.items():
        if name in found or folder is None:
            continue
        for candidate in spec.names:
            if (folder / candidate).is_file():
                found[name] = folder / candidate
                break
    return found


def _name_of(mapping: MappingFile, data: Path) -> str | None:
    for name, spec in mapping.files.items():
        if data.name in spec.names:
            return name
    read = {spec.file for spec in mapping.imports}
    if len(read) == 1:
        return next(iter(read))
    raise DataFileError(
        str(data),
        f"could be any of {', '.join(sorted(read))}",
        f"give their folder, or say which: --set {min(read)}={data}",
    )


class Production:
    """One import of a mapping on its files: iterate to get the interactions in an order that never changes."""

    def __init__(self, mapping: MappingFile, spec: ImportSpec, files: Mapping[str, Path], rejected: Rejected) -> None:
        """Opens the file and binds the mapping to its columns. Raises: MappingError, DataFileError."""
        self.spec = spec
        self.counts = Counts()
        self._mapping = mapping
        self._files = files
        self._tell = rejected
        self.path = _path_of(mapping.files[spec.file], files)
        self.table: Table = open_table(self.path, mapping.files[spec.file])
        self._lookup_tables: dict[str, Table] = {}
        try:
            self._bind()
        except BaseException:
            self.table.close()
            raise
        finally:
            for table in self._lookup_tables.values():
                table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.table.close()

    @property
    def files(self) -> dict[str, Path]:
        """The files that this import reads, by the names that the mapping gives them."""
        names = {self.spec.file, *(lookup.file for lookup in self.spec.lookups)}
        return {name: self._files[name] for name in names}

    # Binding: once to learn which names are used, once more to place them.

    def _bind(self) -> None:
        spec = self.spec
        columns = self.table.columns
        special = [ROW, FILE, *([REPEAT] if spec.repeat_of else [])]
        if spec.group is None:
            scope = self._scope([*columns, *special], None)
            self._bind_rows(scope)
            self._bind_output(scope)
            layout, self._wanted, self._loaders = self._place(scope, columns, special)
            self._scope_of_lookups(layout)
            placed = self._scope(list(layout), layout)
            self._bind_rows(placed)
            self._bind_output(placed)
            return
        scope = Scope([*columns, *special])
        self._bind_rows(scope)
        self._bind_group(scope)
        self._wanted = [name for name in scope.used if name not in SPECIAL]
        layout = {name: place for place, name in enumerate([*self._wanted, *special])}
        placed = Scope(list(layout), layout)
        self._bind_rows(placed)
        self._bind_group(placed)
        names = [name for name, _ in spec.group.by] + [figure.name for figure in spec.group.aggregates]
        outer = self._scope([*names, ROW, FILE], None)
        self._bind_output(outer)
        layout, _, self._loaders = self._place(outer, names, [ROW, FILE], keep_all=True)
        self._scope_of_lookups(layout)
        self._bind_output(self._scope(list(layout), layout))

    def _scope(self, names: Sequence[str], layout: Mapping[str, int] | None) -> Scope:
        lookups = [] if layout is not None else self._lookup_columns(names)
        return Scope([*names, *lookups], layout)

    def _lookup_columns(self, taken: Sequence[str]) -> list[str]:
        names: list[str] = []
        for lookup in self.spec.lookups:
            spec = self._mapping.files[lookup.file]
            table = open_table(_path_of(spec, self._files), spec)
            self._lookup_tables[lookup.name] = table
            if lookup.key not in table.columns:
                raise lookup.node.wrong(
                    f"looks up {lookup.key!r}, which is not in {table.file}", nearest(lookup.key, table.columns)
                )
            names += [f"{lookup.name}.{column}" for column in table.columns if f"{lookup.name}.{column}" not in taken]
        return names

    def _place(
        self, scope: Scope, columns: Sequence[str], special: Sequence[str], *, keep_all: bool = False
    ) -> tuple[dict[str, int], list[str], list[tuple[str, list[str]]]]:
        """Places plain columns first, then the special ones, then each lookup's columns in turn."""
        for lookup in self.spec.lookups:
            lookup.by.bind(scope)
        used = [name for name in scope.used if name not in SPECIAL]
        plain = list(columns) if keep_all else [name for name in used if name in columns]
        loaders: list[tuple[str, list[str]]] = []
        order = [*plain, *special]
        for lookup in self.spec.lookups:
            prefix = f"{lookup.name}."
            wanted = [name for name in used if name.startswith(prefix) and name not in plain]
            order += wanted
            loaders.append((lookup.name, [name.removeprefix(prefix) for name in wanted]))
        return {name: place for place, name in enumerate(order)}, plain, loaders

    def _scope_of_lookups(self, layout: Mapping[str, int]) -> None:
        scope = Scope(list(layout), layout)
        wanted = dict(self._loaders)
        self._lookups: list[tuple[Text, dict[str, list[str]], list[str]]] = []
        for lookup in self.spec.lookups:
            names = wanted[lookup.name]
            table = self._lookup_tables[lookup.name]
            found = {cells[0]: cells[1:] for _, cells in table.rows([lookup.key, *names], self._tell) if cells[0]}
            self._lookups.append((lookup.by.bind(scope), found, [""] * len(names)))

    def _bind_rows(self, scope: Scope) -> None:
        self._where: Test | None = self.spec.where.bind(scope) if self.spec.where else None
        self._repeat_of = [scope.slot(name, node) for name, node in self.spec.repeat_of]

    def _bind_group(self, scope: Scope) -> None:
        group = self.spec.group
        if group is not None:
            self._by = [scope.slot(name, node) for name, node in group.by]
            self._figures = [_Figure(figure, scope) for figure in group.aggregates]

    def _bind_output(self, scope: Scope) -> None:
        self._make = _Maker(self.spec.interaction, scope)

    # Producing.

    def __iter__(self) -> Iterator[Produced]:
        rows = self._rows()
        if self.spec.group is not None:
            rows = self._groups(rows)
        counts, make, lookups = self.counts, self._make, self._lookups
        for number, row in rows:
            try:
                for key, found, missing in lookups:
                    row.extend(found.get(key(row), missing))
                interaction = make(row)
            except ValueProblem as problem:
                self._reject(number, problem)
                continue
            counts.interactions += 1
            yield Produced(number, interaction)

    def _reject(self, number: int, problem: ValueProblem) -> None:
        if self.spec.group is None:
            self.counts.taken -= 1
            self.counts.rejected += 1
        else:
            self.counts.withheld += 1
        self._tell(Reject(self.table.file, number, 0, problem.column, problem.rule, problem.remedy))

    def _unreadable(self, reject: Reject) -> None:
        self.counts.rows += 1
        self.counts.rejected += 1
        self._tell(reject)

    def _rows(self) -> Iterator[tuple[int, Row]]:
        counts, where, repeat_of = self.counts, self._where, self._repeat_of
        file = self.path.name
        seen: dict[bytes, int] = {}
        for number, row in self.table.rows(self._wanted, self._told):
            counts.rows += 1
            row.extend((str(number), file))
            if where is not None and not where(row):
                counts.filtered += 1
                continue
            if repeat_of:
                key = blake2b("\0".join([row[place] for place in repeat_of]).encode(), digest_size=12).digest()
                repeat = seen.get(key, 0) + 1
                seen[key] = repeat
                row.append(str(repeat))
            counts.taken += 1
            yield number, row

    def _told(self, reject: Reject) -> None:
        if self.table.truncated:
            # The end of the file, not a row of it.
            self._tell(reject)
        else:
            self._unreadable(reject)

    def _groups(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
        """One row for each group, in the order in which the groups began."""
        group = self.spec.group
        contiguous = group is not None and group.contiguous
        groups: dict[tuple[str, ...], _Group] = {}
        file = self.path.name
        by, figures = self._by, self._figures
        for number, row in rows:
            key = tuple([row[place] for place in by])
            held = groups.get(key)
            if held is None:
                if contiguous and groups:
                    for done in groups.values():
                        yield from self._finished(done, file)
                    groups.clear()
                held = groups[key] = _Group(number, key, [figure.start() for figure in figures])
            try:
                for index, figure in enumerate(figures):
                    held.figures[index] = figure.add(held.figures[index], row)
            except ValueProblem as problem:
                self.counts.taken -= 1
                self.counts.rejected += 1
                held.spoiled = True
                self._tell(Reject(self.table.file, number, 0, problem.column, problem.rule, problem.remedy))
        if self.table.truncated:
            # Any group still open may lack rows that stood in the lost part.
            self._withhold_open(groups)
            return
        for held in groups.values():
            yield from self._finished(held, file)

    def _withhold_open(self, groups: Mapping[tuple[str, ...], _Group]) -> None:
        self.counts.withheld += len(groups)
        if groups:
            first = next(iter(groups.values()))
            self._tell(
                Reject(
                    self.table.file,
                    first.row,
                    0,
                    "",
                    f"{len(groups)} groups are not sent, since the lost end of the file may hold rows of them",
                    "fetch the file again, then import it again",
                )
            )

    def _finished(self, held: _Group, file: str) -> Iterator[tuple[int, Row]]:
        if held.spoiled:
            self.counts.withheld += 1
            return
        figures = [figure.finish(value) for figure, value in zip(self._figures, held.figures, strict=True)]
        yield held.row, [*held.key, *figures, str(held.row), file]


def _path_of(spec: FileSpec, files: Mapping[str, Path]) -> Path:
    if spec.name not in files:
        raise DataFileError(
            spec.names[0], "is not found", f"give the folder that holds it, or its path: --set {spec.name}=FILE"
        )
    return files[spec.name]


def produce(
    mapping: MappingFile, files: Mapping[str, Path], rejected: Rejected, only: Sequence[str] = ()
) -> Iterator[Production]:
    """The imports of a mapping in their order, each opened when it is its turn. Raises: MappingError, DataFileError."""
    names = [spec.name for spec in mapping.imports]
    for name in only:
        if name not in names:
            raise MappingError(mapping.origin, "imports", f"has no import {name!r}", nearest(name, names))
    for spec in mapping.imports:
        if not only or spec.name in only:
            with Production(mapping, spec, files, rejected) as production:
                yield production


@dataclass(slots=True)
class _Group:
    row: int
    key: tuple[str, ...]
    figures: list[object]
    spoiled: bool = field(default=False)


class _Figure:
    """One figure of a group, added up row by row, exactly."""

    def __init__(self, spec: AggregateSpec, scope: Scope) -> None:
        self._spec = spec
        self._name = spec.name
        self._read: Text | None = spec.of.bind(scope) if spec.of else None
        self._instant: Number | None = spec.instant.bind(scope) if spec.instant else None
        self._add: Callable[[object, Row], object] = getattr(self, f"_{spec.function}")

    def start(self) -> object:
        match self._spec.function:
            case "count":
                return 0
            case "distinct":
                return set[str]()
            case _:
                return None

    def add(self, held: object, row: Row) -> object:
        return self._add(held, row)

    def finish(self, held: object) -> str:
        if held is None:
            return ""
        if isinstance(held, set):
            return str(len(held))  # pyright: ignore[reportUnknownArgumentType] -- a set of texts
        if self._instant is not None:
            return (EPOCH + timedelta(microseconds=int(str(held)))).isoformat()
        return str(held)

    def _value(self, row: Row) -> str | int | Decimal | None:
        if self._instant is not None:
            return self._instant(row)
        text = self._read(row) if self._read else ""
        if not text:
            return None
        if self._spec.kind == "number":
            return self._spec.style.read(text, self._name_of_column())
        return text

    def _name_of_column(self) -> str:
        return self._spec.of.name if self._spec.of else self._name

    def _count(self, held: int, _row: Row) -> object:
        return held + 1

    def _distinct(self, held: set[str], row: Row) -> object:
        text = self._read(row) if self._read else ""
        if text:
            held.add(text)
        return held

    def _first(self, held: object, row: Row) -> object:
        return self._value(row) if held is None else held

    def _last(self, held: object, row: Row) -> object:
        value = self._value(row)
        return held if value is None else value

    def _min(self, held: str | None, row: Row) -> object:
        value = self._value(row)
        return held if value is None or (held is not None and held <= value) else value  # pyright: ignore[reportOperatorIssue] -- one kind per figure

    def _max(self, held: str | None, row: Row) -> object:
        value = self._value(row)
        return held if value is None or (held is not None and held >= value) else value  # pyright: ignore[reportOperatorIssue] -- one kind per figure

    def _sum(self, held: Decimal | None, row: Row) -> object:
        text = self._read(row) if self._read else ""
        if not text:
            return held
        number = self._spec.style.read(text, self._name_of_column())
        return number if held is None else held + number


class _Maker:
    """Makes one interaction of one row."""

    def __init__(self, spec: InteractionSpec, scope: Scope) -> None:
        constants = {name: text.constant for name, text in spec.texts if text.constant}
        self._constants = constants
        self._texts = [
            (name, text.bind(scope), name in REQUIRED_FIELDS) for name, text in spec.texts if not text.constant
        ]
        self._occurred_at = spec.occurred_at.bind(scope)
        self._occurred_name = spec.occurred_at.name
        self._numbers = [(name, number.bind(scope)) for name, number in spec.numbers]
        self._money = [(name, money.amount.bind(scope), money.currency) for name, money in spec.money]
        subject = spec.subject_type
        self._subject = _enum(subject, SUBJECT_TYPES, scope) if subject else None
        self._identifiers = [
            (each.type.bind(scope), each.value.bind(scope), each.assurance, _switch(each.switch, scope))
            for each in spec.identifiers
        ]
        self._exchanges = [
            (each.question.bind(scope), each.answer.bind(scope), each.sensitivity, _switch(each.switch, scope))
            for each in spec.exchanges
        ]
        self._promises = [
            (
                each.promise_id.bind(scope),
                each.text.bind(scope),
                each.due_at.bind(scope) if each.due_at else None,
                _switch(each.switch, scope),
            )
            for each in spec.promises
        ]
        self._kept = [each.bind(scope) for each in spec.promises_kept]
        self._attributes = _object(spec.attributes, scope)
        self._personal = _object(spec.personal_attributes, scope)
        self._feedback = [_feedback_maker(each, scope) for each in spec.feedback]

    def __call__(self, row: Row) -> interaction_pb2.Interaction:
        made = interaction_pb2.Interaction(**self._constants)  # pyright: ignore[reportArgumentType] -- texts only
        for name, text, required in self._texts:
            value = text(row)
            if value:
                setattr(made, name, value)
            elif required:
                raise ValueProblem(name, "is empty, and every interaction needs it", "fill in the value it is made of")
        at = self._occurred_at(row)
        if at is None:
            raise ValueProblem(self._occurred_name, "is empty, and says when it happened", "fill in the time")
        made.occurred_at = at
        if self._subject is not None:
            made.subject_type = self._subject(row)  # pyright: ignore[reportAttributeAccessIssue] -- an enum's number
        if self._attributes is not None:
            made.attributes = self._attributes(row)
        if self._personal is not None:
            made.personal_attributes = self._personal(row)
        self._set_numbers(made, row)
        self._add_parts(made, row)
        return made

    def _set_numbers(self, made: interaction_pb2.Interaction, row: Row) -> None:
        for name, number in self._numbers:
            amount = number(row)
            if amount is not None:
                setattr(made, name, amount)
        for name, number, currency in self._money:
            amount = number(row)
            if amount is not None:
                money: interaction_pb2.Money = getattr(made, name)
                money.micros = amount
                money.currency = currency

    def _add_parts(self, made: interaction_pb2.Interaction, row: Row) -> None:
        for kind, value, assurance, switch in self._identifiers:
            text = value(row)
            if text and (switch is None or switch(row)):
                made.identifiers.add(type=kind(row), value=text, assurance=assurance)  # pyright: ignore[reportArgumentType] -- an enum's number
        for question, answer, sensitivity, switch in self._exchanges:
            text = answer(row)
            if text and (switch is None or switch(row)):
                made.exchanges.add(question=question(row), answer=text, sensitivity=sensitivity)  # pyright: ignore[reportArgumentType] -- an enum's number
        for promise_id, text_of, due, switch in self._promises:
            name = promise_id(row)
            if name and (switch is None or switch(row)):
                made.promises.add(promise_id=name, text=text_of(row), due_at=(due(row) or 0) if due else 0)
        for kept in self._kept:
            name = kept(row)
            if name:
                made.promises_kept.append(name)
        for add_feedback in self._feedback:
            add_feedback(made, row)


def _switch(test: TestExpression | None, scope: Scope) -> Test | None:
    return test.bind(scope) if test else None


def _enum(expression: TextExpression, names: Mapping[str, int], scope: Scope) -> Callable[[Row], int]:
    getter = expression.bind(scope)

    def number(row: Row) -> int:
        value = getter(row)
        if not value:
            return 0
        try:
            return names[value]
        except KeyError:
            rule = f"becomes {value!r}, which is none of {', '.join(names)}"
            raise ValueProblem(expression.name, rule, "map it to one of them") from None

    return number


def _object(expressions: Sequence[AttributeExpression], scope: Scope) -> Callable[[Row], bytes] | None:
    if not expressions:
        return None
    entries = [(each.key, each.bind(scope)) for each in expressions]

    def write(row: Row) -> bytes:
        values: dict[str, object] = {}
        for key, read in entries:
            value = read(row)
            if value is not None:
                values[key] = value
        return orjson.dumps(values) if values else b""

    return write


def _optional(expression: TextExpression | None, scope: Scope) -> Text | None:
    return expression.bind(scope) if expression else None


def _feedback_maker(spec: FeedbackSpec, scope: Scope) -> Callable[[interaction_pb2.Interaction, Row], None]:
    kind = _enum(spec.kind, FEEDBACK_KINDS, scope)
    read_score: Number | None = spec.score.bind(scope) if spec.score else None
    verbatim, topic, aspect = (_optional(each, scope) for each in (spec.verbatim, spec.topic, spec.aspect))
    topic_tells = spec.topic is not None and spec.topic.constant is None
    read_weight: Number | None = spec.weight.bind(scope) if spec.weight else None
    switch = _switch(spec.switch, scope)
    low, high = spec.scale
    solicited = spec.solicited

    def add(made: interaction_pb2.Interaction, row: Row) -> None:
        if switch is not None and not switch(row):
            return
        score = read_score(row) if read_score else None
        words = verbatim(row) if verbatim else ""
        about = topic(row) if topic else ""
        if score is None and not words and not (topic_tells and about):
            return
        entry = made.feedback.add()
        entry.kind = kind(row)  # pyright: ignore[reportAttributeAccessIssue] -- an enum's number
        if score is not None:
            if not -(2**31) <= score < 2**31:
                raise ValueProblem(_score_name(spec.score), "is no score", "mend the value, or list it under `blanks:`")
            entry.score = score
        if low or high:
            entry.scale_min, entry.scale_max = low, high
        entry.verbatim = words
        entry.topic = about
        if aspect:
            entry.aspect = aspect(row)
        entry.solicited = solicited
        if read_weight:
            entry.weight_micros = read_weight(row) or 0

    return add


def _score_name(expression: NumberExpression | None) -> str:
    return expression.name if expression else "score"
