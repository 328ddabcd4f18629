"""Writes what is made of the chart: the tables of its README, and the snapshots of its tests. Run by `make chart`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from chart.rendering import CHART, VALUES, Document, containers, installed, labels, named, of_kind, pods

from throughline_eventlog import all_rights
from throughline_kernel import UPSTREAMS

README: Final = CHART / "README.md"
RIGHTS: Final = CHART / "files" / "bus-rights.yaml"
BEGIN: Final = "<!-- made by `make chart`: begin -->"
END: Final = "<!-- made by `make chart`: end -->"
_KEY: Final = re.compile(r"^( *)([A-Za-z0-9]+):")
_WIDTH: Final = 60


def described(text: str) -> Iterator[tuple[str, str]]:
    """(path, description) of every key of values.yaml above which a comment begins with `# --`."""
    way: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            said = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and said:
            said.append(stripped.removeprefix("# "))
        elif (key := _KEY.match(line)) is not None:
            depth = len(key[1]) // 2
            way[depth:] = [key[2]]
            if said:
                yield ".".join(way), " ".join(said)
            said = []
        else:
            said = []


def undescribed(values: Any, paths: frozenset[str], place: str = "") -> Iterator[str]:
    """The leaves of the values that neither have a description nor stand under a key that has."""
    if place in paths:
        return
    if isinstance(values, dict) and values:
        for name, inner in values.items():
            yield from undescribed(inner, paths, f"{place}.{name}" if place else name)
    else:
        yield place


def table() -> str:
    """The table of values, in Markdown."""
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    rows = ["| value | what it is | default |", "|---|---|---|"]
    for path, description in described(text):
        value: Any = values
        for step in path.split("."):
            value = value[step]
        default = json.dumps(value)
        shown = f"`{default}`" if len(default) <= _WIDTH else "see values.yaml"
        rows.append(f"| `{path}` | {description.replace('|', chr(92) + '|')} | {shown} |")
    return "\n".join(rows)


def readme(text: str) -> str:
    """The README with its table as it should be."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def bus_rights() -> str:
    """What each service's user may do on the bus, as templates take it: by service whose log it is about, with words in
    the place of the streams' prefix and of a partition's number.
    """
    number = {service: 1_000_000 + index for index, service in enumerate(UPSTREAMS)}
    made: dict[str, Document] = {}
    for rights in all_rights(prefix="PREFIX", partitions={service: (each,) for service, each in number.items()}):
        publish: dict[str, list[str]] = {}
        for subject in rights.publish:
            (of,) = (service for service, each in number.items() if str(each) in subject)
            publish.setdefault(of, []).append(subject.replace(str(number[of]), "PARTITION"))
        made[rights.service] = {"publish": publish, "subscribe": list(rights.subscribe)}
    return (
        "# Made by `make chart` of what `throughline bus permissions` says. PREFIX is nats.streamPrefix, prefix the\n"
        f"# same in lower case.\n{yaml.safe_dump(made, sort_keys=False, width=1_000)}"
    )


def snapshot(documents: list[Document]) -> str:
    """What an installation consists of, and what each of its pods is told, runs and mounts."""
    lines = sorted(f"{each['kind']} {named(each)}" for each in documents)
    for name, pod in sorted(pods(documents).items()):
        lines += ["", f"{name} ({labels(pod)['app.kubernetes.io/component']})"]
        for container in containers(pod):
            lines.append(f"  {container['name']}: {container['image']}")
            lines += [f"    mounts {each['mountPath']}" for each in container.get("volumeMounts", [])]
            lines += [f"    told {line}" for line in sorted(map(_told, container.get("env", [])))]
    for config in of_kind(documents, "ConfigMap"):
        if named(config).endswith("-config"):
            lines += ["", named(config), *(f"  {name}={value}" for name, value in sorted(config["data"].items()))]
    return "\n".join(lines) + "\n"


def _told(variable: Document) -> str:
    source = variable.get("valueFrom", {}).get("secretKeyRef")
    if source is None:
        return f"{variable['name']}={variable['value']}"
    maybe = ", if there" if source.get("optional") else ""
    return f"{variable['name']} from secret {source['name']}, {source['key']}{maybe}"


def main() -> None:
    """Writes everything anew."""
    README.write_text(readme(README.read_text()))
    RIGHTS.write_text(bus_rights())
    folder = Path(__file__).parent / "snapshots"
    folder.mkdir(exist_ok=True)
    for name in VALUES:
        (folder / f"{name}.txt").write_text(snapshot(installed(name)))


if __name__ == "__main__":
    main()
