"""A mapping file: what it declares, checked as far as it can be without data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Final

from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline_client.importer.expressions import (
    STYLE_KEYS,
    AttributeExpression,
    Defaults,
    MoneyExpression,
    NumberExpression,
    NumberStyle,
    TestExpression,
    TextExpression,
    parse_attributes,
    parse_duration,
    parse_money,
    parse_number,
    parse_switch,
    parse_test,
    parse_text,
    parse_time,
    parse_whole,
    read_formats,
    read_style,
    read_zone,
    time_of,
)
from throughline_client.importer.nodes import Node, read_yaml
from throughline_client.importer.problems import MappingError, nearest

NAME: Final = re.compile(r"[a-z][a-z0-9_]*\Z")
ENCODINGS: Final = ("utf-8", "latin-1", "cp1252", "ascii", "iso-8859-15")
FORMATS: Final = ("csv", "ndjson", "parquet")
TEXT_FIELDS: Final = (
    "source",
    "source_interaction_id",
    "channel",
    "touchpoint",
    "kind",
    "session_id",
    "conversation_id",
    "case_id",
    "campaign_id",
    "staff_id",
    "location_id",
    "matter",
    "outcome",
)
REQUIRED_FIELDS: Final = ("source", "source_interaction_id", "channel", "kind", "occurred_at")
INTERACTION_FIELDS: Final = (
    *TEXT_FIELDS,
    "occurred_at",
    "identifiers",
    "value",
    "cost",
    "wait_time",
    "handling_time",
    "exchanges",
    "promises",
    "promises_kept",
    "attributes",
    "personal_attributes",
    "subject_type",
    "feedback",
    "sequence",
)
AGGREGATES: Final = ("first", "last", "min", "max", "sum", "count", "distinct")


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A data file as the mapping expects it."""

    name: str
    names: tuple[str, ...]
    format: str = ""
    delimiter: str = ""
    encoding: str = "utf-8"
    columns: tuple[str, ...] = ()
    blanks: frozenset[str] = frozenset({""})
    column_blanks: tuple[tuple[str, frozenset[str]], ...] = ()


@dataclass(frozen=True, slots=True)
class LookupSpec:
    """Columns of another file, found by a key; `file` names a FileSpec, `key` its column, `by` what is looked up."""

    name: str
    file: str
    key: str
    by: TextExpression
    node: Node


@dataclass(frozen=True, slots=True)
class AggregateSpec:
    """One figure of a group of rows."""

    name: str
    function: str
    of: TextExpression | None
    style: NumberStyle
    kind: str
    instant: NumberExpression | None


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Rows with the same key become one. `contiguous` keeps one group at a time, where a file is sorted by the key."""

    by: tuple[tuple[str, Node], ...]
    aggregates: tuple[AggregateSpec, ...]
    contiguous: bool


@dataclass(frozen=True, slots=True)
class IdentifierSpec:
    type: TextExpression
    value: TextExpression
    assurance: int
    switch: TestExpression | None


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    question: TextExpression
    answer: TextExpression
    sensitivity: int
    switch: TestExpression | None


@dataclass(frozen=True, slots=True)
class PromiseSpec:
    promise_id: TextExpression
    text: TextExpression
    due_at: NumberExpression | None
    switch: TestExpression | None


@dataclass(frozen=True, slots=True)
class FeedbackSpec:
    kind: TextExpression
    score: NumberExpression | None
    scale: tuple[int, int]
    verbatim: TextExpression | None
    topic: TextExpression | None
    aspect: TextExpression | None
    solicited: bool
    weight: NumberExpression | None
    switch: TestExpression | None


@dataclass(frozen=True, slots=True)
class InteractionSpec:
    """How one row, or one group of rows, becomes one interaction."""

    node: Node
    texts: tuple[tuple[str, TextExpression], ...]
    occurred_at: NumberExpression
    numbers: tuple[tuple[str, NumberExpression], ...]
    money: tuple[tuple[str, MoneyExpression], ...]
    subject_type: TextExpression | None
    identifiers: tuple[IdentifierSpec, ...]
    exchanges: tuple[ExchangeSpec, ...]
    promises: tuple[PromiseSpec, ...]
    promises_kept: tuple[TextExpression, ...]
    attributes: tuple[AttributeExpression, ...]
    personal_attributes: tuple[AttributeExpression, ...]
    feedback: tuple[FeedbackSpec, ...]


@dataclass(frozen=True, slots=True)
class ImportSpec:
    """One file to interactions."""

    name: str
    file: str
    where: TestExpression | None
    repeat_of: tuple[tuple[str, Node], ...]
    group: GroupSpec | None
    lookups: tuple[LookupSpec, ...]
    interaction: InteractionSpec


@dataclass(frozen=True, slots=True)
class Mapping:
    """A whole mapping file. `digest` changes with any byte of it."""

    name: str
    about: str
    origin: str
    digest: str
    files: dict[str, FileSpec]
    imports: tuple[ImportSpec, ...]
    channels: tuple[ingestion_pb2.RegisterChannelRequest, ...]
    sources: tuple[ingestion_pb2.RegisterSourceRequest, ...]


def shipped_mappings() -> dict[str, str]:
    """The mappings that come with this package: name -> what it is for."""
    return {name: load_mapping(name).about for name in sorted(_shipped())}


def _shipped() -> dict[str, bytes]:
    folder = resources.files("throughline_client").joinpath("mappings")
    return {
        entry.name.removesuffix(".yaml"): entry.read_bytes()
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    }


def load_mapping(file: str) -> Mapping:
    """Reads a mapping from a path, or by the name of one that ships. Raises: MappingError."""
    path = Path(file)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        try:
            return parse_mapping(path.read_bytes(), file)
        except OSError as error:
            raise MappingError(
                file, "", f"cannot be read: {error.strerror}", "give the path of a mapping file"
            ) from None
    shipped = _shipped()
    if file not in shipped:
        raise MappingError(
            file, "", "is neither a file nor a mapping that ships", f"{nearest(file, sorted(shipped))}; or give a path"
        )
    return parse_mapping(shipped[file], f"{file}.yaml")


def parse_mapping(data: bytes, origin: str) -> Mapping:
    """Parses and checks a mapping. Raises: MappingError with the line and key of the first mistake."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise MappingError(origin, "", f"is not UTF-8 at byte {error.start}", "save it as UTF-8") from None
    root = read_yaml(text, origin)
    top = root.fields(
        "mapping",
        "about",
        "zone",
        "formats",
        "currency",
        "channels",
        "sources",
        "files",
        "imports",
        required=("mapping", "channels", "sources", "files", "imports"),
    )
    defaults = Defaults(
        read_zone(top["zone"]) if "zone" in top else None,
        read_formats(top["formats"]) if "formats" in top else ("iso",),
        top["currency"].required_text() if "currency" in top else "",
    )
    channels = tuple(_channel(name, node) for name, node in top["channels"].items())
    known_channels = [channel.channel for channel in channels]
    sources = tuple(_source(name, node, known_channels) for name, node in top["sources"].items())
    files = {name: _file(name, node) for name, node in top["files"].items()}
    imports = tuple(_import(name, node, files, defaults) for name, node in top["imports"].items())
    if not imports:
        raise top["imports"].wrong("is empty", "describe at least one import")
    _check_constants(imports, known_channels, [source.source for source in sources])
    return Mapping(
        top["mapping"].required_text(),
        top["about"].text() if "about" in top else "",
        origin,
        sha256(data).hexdigest(),
        files,
        imports,
        channels,
        sources,
    )


def _check_constants(imports: tuple[ImportSpec, ...], channels: list[str], sources: list[str]) -> None:
    for spec in imports:
        for field, known in (("channel", channels), ("source", sources)):
            constant = dict(spec.interaction.texts)[field].constant
            if constant is not None and constant not in known:
                node = dict(spec.interaction.node.items())[field]
                raise node.wrong(f"{constant!r} is not declared under `{field}s:`", nearest(constant, known))


def _name(name: str, node: Node) -> str:
    if not NAME.match(name):
        raise node.wrong(f"the name {name!r} is not snake_case", "use a to z, 0 to 9 and _, a letter first")
    return name


def _channel(name: str, node: Node) -> ingestion_pb2.RegisterChannelRequest:
    entries = node.fields("name", "physical", "assisted", "group", required=("name", "physical", "assisted"))
    return ingestion_pb2.RegisterChannelRequest(
        channel=_name(name, node),
        traits=interaction_pb2.ChannelTraits(
            name=entries["name"].required_text(),
            physical=entries["physical"].boolean(),
            assisted=entries["assisted"].boolean(),
            group=entries["group"].text() if "group" in entries else "",
        ),
    )


def _source(name: str, node: Node, channels: list[str]) -> ingestion_pb2.RegisterSourceRequest:
    entries = node.fields("name", "channels", required=("name",))
    allowed = entries["channels"].texts() if "channels" in entries else ()
    for channel in allowed:
        if channel not in channels:
            raise entries["channels"].wrong(
                f"names the channel {channel!r}, which is not declared", nearest(channel, channels)
            )
    return ingestion_pb2.RegisterSourceRequest(
        source=_name(name, node), name=entries["name"].required_text(), channels=allowed
    )


def _file(name: str, node: Node) -> FileSpec:
    spec = FileSpec(_name(name, node), ())
    if not node.is_mapping:
        return replace(spec, names=node.texts())
    entries = node.fields(
        "names", "format", "delimiter", "encoding", "columns", "blanks", "column_blanks", required=("names",)
    )
    spec = replace(spec, names=entries["names"].texts())
    if "format" in entries:
        spec = replace(spec, format=entries["format"].one_of(*FORMATS))
    if "delimiter" in entries:
        delimiter = entries["delimiter"].text().replace("\\t", "\t")
        if len(delimiter) != 1:
            raise entries["delimiter"].wrong("is not one character", 'write one character, e.g. ";" or "\\t"')
        spec = replace(spec, delimiter=delimiter)
    if "encoding" in entries:
        spec = replace(spec, encoding=entries["encoding"].one_of(*ENCODINGS))
    if "columns" in entries:
        spec = replace(spec, columns=entries["columns"].texts())
    if "blanks" in entries:
        spec = replace(spec, blanks=frozenset({"", *(text.strip() for text in entries["blanks"].texts())}))
    if "column_blanks" in entries:
        blanks = entries["column_blanks"].items()
        spec = replace(spec, column_blanks=tuple((column, frozenset(values.texts())) for column, values in blanks))
    return spec


def _import(name: str, node: Node, files: dict[str, FileSpec], defaults: Defaults) -> ImportSpec:
    entries = node.fields(
        "from", "where", "repeat_of", "group", "lookups", "interaction", required=("from", "interaction")
    )
    lookups = entries["lookups"].items() if "lookups" in entries else []
    return ImportSpec(
        name,
        _file_name(entries["from"], files),
        parse_test(entries["where"]) if "where" in entries else None,
        tuple((child.required_text(), child) for child in entries["repeat_of"]) if "repeat_of" in entries else (),
        _group(entries["group"], defaults) if "group" in entries else None,
        tuple(_lookup(lookup, child, files) for lookup, child in lookups),
        _interaction(entries["interaction"], defaults),
    )


def _file_name(node: Node, files: dict[str, FileSpec]) -> str:
    name = node.required_text()
    if name not in files:
        raise node.wrong(f"names the file {name!r}, which is not declared under `files:`", nearest(name, files))
    return name


def _lookup(name: str, node: Node, files: dict[str, FileSpec]) -> LookupSpec:
    entries = node.fields("in", "key", "by", required=("in", "key"))
    key = entries["key"].required_text()
    by = (
        parse_text(entries["by"])
        if "by" in entries
        else TextExpression(lambda scope: _slot(scope.slot(key, node)), key)
    )
    return LookupSpec(_name(name, node), _file_name(entries["in"], files), key, by, node)


def _slot(place: int) -> Callable[[list[str]], str]:
    return lambda row: row[place]


def _group(node: Node, defaults: Defaults) -> GroupSpec:
    entries = node.fields("by", "rows", "figures", required=("by", "figures"))
    figures = tuple(_aggregate(name, child, defaults) for name, child in entries["figures"].items())
    contiguous = "rows" in entries and entries["rows"].one_of("anywhere", "contiguous") == "contiguous"
    return GroupSpec(tuple((child.required_text(), child) for child in entries["by"]), figures, contiguous)


def _aggregate(name: str, node: Node, defaults: Defaults) -> AggregateSpec:
    functions = [key for key, _ in node.items() if key in AGGREGATES]
    entries = node.fields(*AGGREGATES, "as", "formats", "zone", *STYLE_KEYS)
    if len(functions) != 1:
        raise node.wrong(f"needs exactly one of {', '.join(AGGREGATES)}", "e.g. `{sum: sales_value}`")
    function = functions[0]
    source = entries[function]
    kind = entries["as"].one_of("text", "number", "time") if "as" in entries else "text"
    if function == "count":
        if source.text() != "rows":
            raise source.wrong(f"is {source.text()!r}", "write `count: rows`; `distinct: NAME` counts values")
        return AggregateSpec(name, function, None, NumberStyle(), kind, None)
    column = source.required_text()
    expression = TextExpression(lambda scope: _slot(scope.slot(column, source)), column)
    instant = None
    if kind == "time":
        formats = read_formats(entries["formats"]) if "formats" in entries else defaults.formats
        zone = read_zone(entries["zone"]) if "zone" in entries else defaults.zone
        instant = time_of(expression, replace(defaults, formats=formats, zone=zone))
    return AggregateSpec(name, function, expression, read_style(entries), kind, instant)


def _interaction(node: Node, defaults: Defaults) -> InteractionSpec:
    entries = node.fields(*INTERACTION_FIELDS, required=REQUIRED_FIELDS)

    def several(key: str) -> list[Node]:
        return entries[key].children() if key in entries else []

    numbers = [
        (key, parse_duration(entries[key], defaults)) for key in ("wait_time", "handling_time") if key in entries
    ]
    if "sequence" in entries:
        numbers.append(("sequence", parse_whole(entries["sequence"])))
    return InteractionSpec(
        node,
        tuple((key, parse_text(entries[key])) for key in TEXT_FIELDS if key in entries),
        parse_time(entries["occurred_at"], defaults),
        tuple(numbers),
        tuple((key, parse_money(entries[key], defaults)) for key in ("value", "cost") if key in entries),
        _subject_type(entries["subject_type"]) if "subject_type" in entries else None,
        tuple(_identifier(child) for child in several("identifiers")),
        tuple(_exchange(child) for child in several("exchanges")),
        tuple(_promise(child, defaults) for child in several("promises")),
        tuple(parse_text(child) for child in several("promises_kept")),
        tuple(parse_attributes(entries["attributes"], defaults)) if "attributes" in entries else (),
        tuple(parse_attributes(entries["personal_attributes"], defaults)) if "personal_attributes" in entries else (),
        tuple(_feedback(each) for child in several("feedback") for each in _repeated(child)),
    )


def _subject_type(node: Node) -> TextExpression:
    expression = parse_text(node)
    if expression.constant is not None and expression.constant not in SUBJECT_TYPES:
        raise node.wrong(f"is {expression.constant!r}", "write client or staff")
    return expression


def _identifier(node: Node) -> IdentifierSpec:
    entries = node.fields("type", "value", "assurance", "when", "unless", required=("type", "value"))
    assurance = entries["assurance"].one_of(*ASSURANCES) if "assurance" in entries else "claimed"
    return IdentifierSpec(
        parse_text(entries["type"]), parse_text(entries["value"]), ASSURANCES[assurance], parse_switch(entries)
    )


def _exchange(node: Node) -> ExchangeSpec:
    entries = node.fields("question", "answer", "sensitivity", "when", "unless", required=("question", "answer"))
    sensitivity = entries["sensitivity"].one_of(*SENSITIVITIES) if "sensitivity" in entries else "personal"
    return ExchangeSpec(
        parse_text(entries["question"]),
        parse_text(entries["answer"]),
        SENSITIVITIES[sensitivity],
        parse_switch(entries),
    )


def _promise(node: Node, defaults: Defaults) -> PromiseSpec:
    entries = node.fields("promise_id", "text", "due_at", "when", "unless", required=("promise_id", "text"))
    return PromiseSpec(
        parse_text(entries["promise_id"]),
        parse_text(entries["text"]),
        parse_time(entries["due_at"], defaults) if "due_at" in entries else None,
        parse_switch(entries),
    )


def _repeated(node: Node) -> list[Node]:
    """One entry with `for_each` stands for many: $each is the item, $label what is said of it."""
    if not node.has("for_each"):
        return [node]
    items = dict(node.items())["for_each"]
    pairs = (
        [(key, child.text()) for key, child in items.items()]
        if items.is_mapping
        else [(child.text(), child.text()) for child in items]
    )
    return [node.with_words({"$each": item, "$label": label}) for item, label in pairs]


def _feedback(node: Node) -> FeedbackSpec:
    entries = node.fields(
        "for_each",
        "kind",
        "score",
        "scale",
        "verbatim",
        "topic",
        "aspect",
        "solicited",
        "weight",
        "when",
        "unless",
        required=("kind",),
    )
    kind = parse_text(entries["kind"])
    if kind.constant is not None and kind.constant not in FEEDBACK_KINDS:
        raise entries["kind"].wrong(f"is {kind.constant!r}", f"one of {', '.join(FEEDBACK_KINDS)}")
    if not {"score", "verbatim", "topic"} & set(entries):
        raise node.wrong("has neither score nor verbatim nor topic", "add what the client said")
    scale = (0, 0)
    if "scale" in entries:
        ends = entries["scale"].children()
        if len(ends) != 2:
            raise entries["scale"].wrong("must have two ends", "write e.g. `scale: [1, 5]`")
        scale = (ends[0].integer(), ends[1].integer())
    return FeedbackSpec(
        kind,
        parse_whole(entries["score"]) if "score" in entries else None,
        scale,
        parse_text(entries["verbatim"]) if "verbatim" in entries else None,
        parse_text(entries["topic"]) if "topic" in entries else None,
        parse_text(entries["aspect"]) if "aspect" in entries else None,
        entries["solicited"].boolean() if "solicited" in entries else False,
        parse_number(entries["weight"], 1_000_000) if "weight" in entries else None,
        parse_switch(entries),
    )


ASSURANCES: Final = {
    "claimed": interaction_pb2.ASSURANCE_CLAIMED,
    "verified": interaction_pb2.ASSURANCE_VERIFIED,
}
SENSITIVITIES: Final = {
    "personal": interaction_pb2.SENSITIVITY_PERSONAL,
    "operational": interaction_pb2.SENSITIVITY_OPERATIONAL,
}
SUBJECT_TYPES: Final = {
    "client": interaction_pb2.SUBJECT_TYPE_CLIENT,
    "staff": interaction_pb2.SUBJECT_TYPE_STAFF,
}
FEEDBACK_KINDS: Final = {
    "nps": interaction_pb2.FEEDBACK_KIND_NPS,
    "csat": interaction_pb2.FEEDBACK_KIND_CSAT,
    "ces": interaction_pb2.FEEDBACK_KIND_CES,
    "review": interaction_pb2.FEEDBACK_KIND_REVIEW,
    "verbatim": interaction_pb2.FEEDBACK_KIND_VERBATIM,
    "complaint": interaction_pb2.FEEDBACK_KIND_COMPLAINT,
}
