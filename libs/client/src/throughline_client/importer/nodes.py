"""YAML read with its places, so that every mistake in a mapping is told with its line and key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml

from throughline_client.importer.problems import MappingError, nearest


class Node:
    """One value of a mapping file: where it stands, and checked ways to read it. Scalars stay the text they were."""

    def __init__(self, file: str, key: str, node: yaml.Node, words: Mapping[str, str] | None = None) -> None:
        self._file = file
        self.key = key
        self._node = node
        self._words = words or {}

    def wrong(self, rule: str, remedy: str, key: str | None = None) -> MappingError:
        """The error for a rule that this value breaks."""
        line: int = self._node.start_mark.line + 1
        return MappingError(f"{self._file}:{line}", self.key if key is None else key, rule, remedy)

    @property
    def is_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        return isinstance(self._node, yaml.SequenceNode)

    def text(self) -> str:
        """The scalar as written. Raises: MappingError where it is a list or mapping."""
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.wrong("must be one value", "write a single text or number here")
        value = str(self._node.value)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] -- untyped
        if value in {"null", "~"} and self._node.style is None:
            return ""
        for word, meaning in self._words.items():
            value = value.replace(word, meaning)
        return value

    def required_text(self) -> str:
        value = self.text()
        if not value.strip():
            raise self.wrong("must not be empty", "give a value or leave the key out")
        return value

    def boolean(self) -> bool:
        value = self.text().casefold()
        if value not in {"true", "false"}:
            raise self.wrong(f"is {value!r}", "write true or false")
        return value == "true"

    def integer(self) -> int:
        try:
            return int(self.text())
        except ValueError:
            raise self.wrong(f"is {self.text()!r}", "write a whole number") from None

    def one_of(self, *names: str) -> str:
        value = self.text()
        if value not in names:
            raise self.wrong(f"is {value!r}", f"{nearest(value, names)} (one of {', '.join(names)})")
        return value

    def items(self) -> list[tuple[str, Node]]:
        """The entries of a mapping in their order. Raises: MappingError where it is none or a key stands twice."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.wrong("must be a mapping", "write `key: value` lines below it")
        entries: dict[str, Node] = {}
        for key_node, value_node in self._pairs():
            key = Node(self._file, self.key, key_node, self._words).text()
            if key in entries:
                raise Node(self._file, self._path(key), key_node).wrong("is given twice", "keep one of the two")
            entries[key] = Node(self._file, self._path(key), value_node, self._words)
        return list(entries.items())

    def _pairs(self) -> list[tuple[yaml.Node, yaml.Node]]:
        return list(self._node.value)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] -- untyped

    def _path(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def children(self) -> list[Node]:
        """The entries of a list; a single value counts as a list of one."""
        if not isinstance(self._node, yaml.SequenceNode):
            return [self]
        values: list[yaml.Node] = list(self._node.value)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] -- untyped
        return [Node(self._file, f"{self.key}[{index}]", value, self._words) for index, value in enumerate(values)]

    def texts(self) -> tuple[str, ...]:
        return tuple(child.text() for child in self.children())

    def fields(self, *known: str, required: tuple[str, ...] = ()) -> dict[str, Node]:
        """The mapping's entries, of which every key must be known. Raises: MappingError naming the nearest key."""
        entries = dict(self.items())
        for key, node in entries.items():
            if key not in known:
                raise node.wrong("is not a key of a mapping file here", nearest(key, known))
        for key in required:
            if key not in entries:
                raise self.wrong(f"lacks the key {key!r}", f"add `{key}:`")
        return entries

    def has(self, key: str) -> bool:
        return self.is_mapping and any(name == key for name, _ in self.items())

    def with_words(self, words: Mapping[str, str]) -> Node:
        """The same value, in which each of the words is replaced by its meaning."""
        return Node(self._file, self.key, self._node, {**self._words, **words})

    def __iter__(self) -> Iterator[Node]:
        return iter(self.children())


def read_yaml(text: str, file: str) -> Node:
    """Reads one YAML document. Raises: MappingError where it is not YAML or is empty."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)  # pyright: ignore[reportUnknownMemberType] -- untyped
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise MappingError(f"{file}:{line}", "", f"is not YAML: {error.problem}", "mend the line") from None
    except yaml.YAMLError as error:
        raise MappingError(file, "", f"is not YAML: {error}", "save it as UTF-8 text") from None
    if node is None:
        raise MappingError(file, "", "is empty", "write a mapping; `throughline import --help` names those that ship")
    return Node(file, "", node)
