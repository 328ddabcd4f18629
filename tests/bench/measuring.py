"""What is measured of processes and machines, and the table of it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[2]
TICK: Final = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """A process and those that it started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def cpu_seconds(pid: int) -> float:
    """User and system time that a process, and those that it started, have used so far."""
    spent = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        spent += int(fields[11]) + int(fields[12])
    return spent / TICK


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process and of those that it started, now and at its highest, in MB of 1,000,000 bytes."""
    found = {"VmRSS": 0.0, "VmHWM": 0.0}
    for each in family(pid):
        for line in Path(f"/proc/{each}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] += int(value.split()[0]) * 1_024 / 1e6
    return found["VmRSS"], found["VmHWM"]


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value that `share` of the values (ascending, at least one) do not exceed."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


@dataclass
class Cpu:
    """CPU time of processes from where it was made."""

    pids: dict[str, int]
    before: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def micros_per(self, events: int) -> dict[str, float]:
        """Microseconds of CPU per event and process since then."""
        return {name: (cpu_seconds(pid) - self.before[name]) * 1e6 / events for name, pid in self.pids.items()}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. `expected` is a bound in the figure's own unit, above or below as `at_least` says."""

    section: str
    what: str
    value: float
    unit: str
    store: str = ""
    cpu_micros: float | None = None
    ratio: float | None = None
    expected: float | None = None
    at_least: bool = True
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is as expected, None where nothing is."""
        if self.expected is None:
            return None
        return self.value >= self.expected if self.at_least else self.value <= self.expected


@dataclass
class Report:
    """The figures of one run, in the order in which they were measured."""

    size: str
    figures: list[Figure] = field(default_factory=list[Figure])
    started: float = field(default_factory=time.time)
    load_before: tuple[float, float, float] = field(default_factory=os.getloadavg)
    console: Console = field(default_factory=lambda: Console(width=170))

    def add(self, *figures: Figure) -> None:
        """Notes figures, and says so at once: a run takes minutes."""
        for figure in figures:
            self.figures.append(figure)
            self.console.print(
                f"  {figure.section}: {figure.what}: {_number(figure.value)} {figure.unit} {figure.store}",
                highlight=False,
            )

    def value(self, section: str, what: str) -> float | None:
        """A figure measured before in this run."""
        return next((each.value for each in self.figures if (each.section, each.what) == (section, what)), None)

    def machine(self) -> dict[str, Any]:
        """What it ran on."""
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
        return {
            "cpu": ", ".join(sorted(models)) or platform.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "commit": _commit(),
            "load_average_before": self.load_before,
            "load_average_after": os.getloadavg(),
            "size": self.size,
            "seconds": round(time.time() - self.started),
        }

    def print(self) -> None:
        """The one table."""
        machine = self.machine()
        self.console.print()
        table = Table(
            title=f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
            f"commit {machine['commit']}, load average {machine['load_average_before'][0]:.1f} before and "
            f"{machine['load_average_after'][0]:.1f} after, {machine['seconds']} s",
            title_justify="left",
        )
        for name, right in (
            ("what", False),
            ("store", False),
            ("measured", True),
            ("unit", False),
            ("CPU µs/event", True),
            ("of the floor", True),
            ("expected", True),
            ("", False),
            ("note", False),
        ):
            table.add_column(name, justify="right" if right else "left", no_wrap=name != "note")
        section = ""
        for each in self.figures:
            if each.section != section:
                table.add_section()
                table.add_row(f"[bold]{each.section}")
            section = each.section
            table.add_row(*_cells(each))
        self.console.print(table)

    def write(self, path: Path) -> None:
        """The same as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        told = [{**asdict(each), "met": each.met} for each in self.figures]
        path.write_text(json.dumps({"machine": self.machine(), "figures": told}, indent=2) + "\n")


def _cells(figure: Figure) -> Iterable[str]:
    bound = ""
    if figure.expected is not None:
        bound = f"{'>=' if figure.at_least else '<='} {_number(figure.expected)}"
    return (
        f"  {figure.what}",
        figure.store,
        _number(figure.value),
        figure.unit,
        "" if figure.cpu_micros is None else _number(figure.cpu_micros),
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        bound,
        "" if figure.met is None else "met" if figure.met else "not met",
        figure.note,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _commit() -> str:
    def git(*arguments: str) -> str:
        run = subprocess.run(
            [shutil.which("git") or "git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return run.stdout.strip()

    return f"{git('rev-parse', '--short', 'HEAD') or 'none'}{' with changes' if git('status', '--porcelain') else ''}"
