"""Figures from counters: value, interval, n, parts, and a sentence where there is too little to tell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from scoring.domain.catalogue import BUILT_IN, FORMULAS, BuiltIn
from scoring.domain.dimensions import Kind
from scoring.domain.formulas import effort, satisfaction
from scoring.domain.formulas.attribution import MODELS
from scoring.domain.formulas.durations import durations
from scoring.domain.formulas.intervals import Estimate
from scoring.domain.formulas.mean import mean
from scoring.domain.formulas.nps import Loyalty, loyalty, net_promoter_score
from scoring.domain.formulas.weighted_nps import weighted_net_promoter_score
from scoring.domain.formulas.wilson import share
from scoring.domain.metrics import MetricDefinition
from scoring.domain.tally import Line

MICROS: Final = 1_000_000
DEFAULT_MINIMUM: Final = 10

Answers = dict[tuple[int, int, int], int]
_Counts = Callable[[int, int, int], bool]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one subject. `value` is None where n is below the minimum; `note` says so."""

    metric: str
    aspect: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    parts: Mapping[str, int]
    unit: str
    formula: str
    formula_version: int
    note: str = ""


class _Lines:
    """One subject's counters, by metric and aspect."""

    def __init__(self, lines: Mapping[Line, int]) -> None:
        self._parts: dict[tuple[str, str], dict[str | int, int]] = {}
        for (metric, aspect, part), amount in lines.items():
            self._parts.setdefault((metric, aspect), {})[part] = amount

    def aspects(self, metric: str) -> list[str]:
        return sorted(aspect for name, aspect in self._parts if name == metric)

    def parts(self, metric: str, aspect: str = "") -> Mapping[str | int, int]:
        return self._parts.get((metric, aspect), {})

    def count(self, metric: str, part: str = "n", aspect: str = "") -> int:
        return self.parts(metric, aspect).get(part, 0)

    def answers(self, metric: str, aspect: str) -> Answers:
        answers: Answers = {}
        for part, amount in self.parts(metric, aspect).items():
            if amount:
                low, high, score = str(part).split(":")
                answers[int(low), int(high), int(score)] = amount
        return answers


_Tell = Callable[[BuiltIn, _Lines, int], list[Figure]]


def figures(
    lines: Mapping[Line, int],
    definitions: Iterable[MetricDefinition] = (),
    *,
    minimum: int = DEFAULT_MINIMUM,
) -> list[Figure]:
    """All figures of one subject from its counters, built-in ones in the order of the catalogue, then those of one's
    own.
    """
    sorted_lines = _Lines(lines)
    told: list[Figure] = []
    for built_in in BUILT_IN.values():
        told.extend(_TELL[built_in.metric](built_in, sorted_lines, minimum))
    told.extend(_own(definition, sorted_lines, minimum) for definition in definitions)
    return told


def _aspects(metric: BuiltIn, lines: _Lines) -> list[str]:
    aspects = [aspect for aspect in lines.aspects(metric.metric) if any(lines.parts(metric.metric, aspect).values())]
    return aspects if "" in aspects or not metric.core else ["", *aspects]


def _estimated(
    metric: BuiltIn, n: int, minimum: int, estimate: Estimate | None, *, parts: Mapping[str, int], aspect: str = ""
) -> Figure:
    """A figure that needs enough answers to be told."""
    formula = FORMULAS[metric.formula]
    enough = estimate is not None and n >= minimum
    return Figure(
        metric.metric,
        aspect,
        estimate.value if estimate is not None and enough else None,
        estimate.low if estimate is not None and enough else None,
        estimate.high if estimate is not None and enough else None,
        n,
        parts if enough else {},
        metric.unit,
        formula.formula,
        formula.version,
        "" if enough else too_few(n, metric.counted, minimum),
    )


def _exact(
    metric: BuiltIn, n: int, value: float, *, parts: Mapping[str, int], aspect: str = "", unit: str = ""
) -> Figure:
    """A figure that is counted, and no estimate of anything."""
    formula = FORMULAS[metric.formula]
    unit = unit or metric.unit
    return Figure(metric.metric, aspect, value, None, None, n, parts, unit, formula.formula, formula.version)


def too_few(n: int, counted: str, minimum: int) -> str:
    """Says in place of a number how many there are and how many it takes."""
    one = counted[:-1] if n == 1 and counted.endswith("s") else counted
    return f"{n} {one}, at least {minimum} are needed"


def _nps(metric: BuiltIn, lines: _Lines, minimum: int) -> list[Figure]:
    told: list[Figure] = []
    for aspect in _aspects(metric, lines):
        parts = dict.fromkeys((each.value for each in Loyalty), 0)
        for (_, _, score), amount in lines.answers("nps", aspect).items():
            parts[loyalty(score).value] += amount
        n = sum(parts.values())
        estimate = net_promoter_score(parts["promoters"], parts["passives"], parts["detractors"]) if n else None
        told.append(_estimated(metric, n, minimum, estimate, parts=parts, aspect=aspect))
    return told


def _weighted(metric: BuiltIn, lines: _Lines, minimum: int) -> list[Figure]:
    told: list[Figure] = []
    for aspect in lines.aspects("nps_weighted"):
        n = lines.count("nps_weighted", "n", aspect)
        promoters, passives, detractors = (lines.count("nps_weighted", each.value, aspect) for each in Loyalty)
        squares = lines.count("nps_weighted", "squares", aspect)
        if not n or (promoters + passives + detractors == n * MICROS and squares == n * MICROS * MICROS):
            continue
        parts = {
            "promoters_weight_micros": promoters,
            "passives_weight_micros": passives,
            "detractors_weight_micros": detractors,
        }
        estimate = weighted_net_promoter_score(promoters, passives, detractors, squares)
        told.append(_estimated(metric, n, minimum, estimate, parts=parts, aspect=aspect))
    return told


def _share_of_answers(counts: _Counts, name: str) -> _Tell:
    def tell(metric: BuiltIn, lines: _Lines, minimum: int) -> list[Figure]:
        told: list[Figure] = []
        for aspect in _aspects(metric, lines):
            answers = lines.answers(metric.metric, aspect)
            n = sum(answers.values())
            k = sum(amount for (low, high, score), amount in answers.items() if counts(score, low, high))
            estimate = share(k, n) if n else None
            told.append(_estimated(metric, n, minimum, estimate, parts={name: k, **_by_score(answers)}, aspect=aspect))
        return told

    return tell


def _mean_of(of: str, scale: tuple[int, int]) -> _Tell:
    def tell(metric: BuiltIn, lines: _Lines, minimum: int) -> list[Figure]:
        told: list[Figure] = []
        for aspect in lines.aspects(of):
            answers = lines.answers(of, aspect)
            n = sum(answers.values())
            if n:
                told.append(
                    _estimated(metric, n, minimum, mean(answers, scale), parts=_by_score(answers), aspect=aspect)
                )
        return told

    return tell


def _by_score(answers: Answers) -> dict[str, int]:
    parts: dict[str, int] = {}
    for (_, _, score), amount in sorted(answers.items()):
        parts[f"answer_{score}"] = parts.get(f"answer_{score}", 0) + amount
    return parts


def _share_of(of: str, name: str, *extra: str) -> _Tell:
    """`of` is the metric whose n is the whole."""

    def tell(metric: BuiltIn, lines: _Lines, minimum: int) -> list[Figure]:
        n, k = lines.count(of), lines.count(metric.metric, "k")
        parts = {name: k, **{each: lines.count(metric.metric, each) for each in extra}}
        return [_estimated(metric, n, minimum, share(k, n) if n else None, parts=parts)]

    return tell


def _count(metric: BuiltIn, lines: _Lines, _: int) -> list[Figure]:
    n = lines.count(metric.metric)
    if not n and not metric.core:
        return []
    beside = {part: lines.count(metric.metric, part) for part in ("staff", "unattributed")}
    return [_exact(metric, n, float(n), parts={part: amount for part, amount in beside.items() if amount})]


def _amount(metric: BuiltIn, lines: _Lines, _: int) -> list[Figure]:
    told: list[Figure] = []
    for currency in lines.aspects(metric.metric):
        micros = lines.count(metric.metric, "micros", currency)
        n = lines.count(metric.metric, "n", currency)
        told.append(_exact(metric, n, micros / MICROS, parts={"micros": micros}, aspect=currency, unit=currency))
    return told


def _after_costs(metric: BuiltIn, lines: _Lines, _: int) -> list[Figure]:
    told: list[Figure] = []
    for currency in sorted({*lines.aspects("value"), *lines.aspects("cost")}):
        value, cost = lines.count("value", "micros", currency), lines.count("cost", "micros", currency)
        either = lines.count("value", "n", currency) + lines.count("cost", "n", currency)
        n = either - lines.count("cost", "with_value", currency)
        parts = {"micros": value - cost, "value_micros": value, "cost_micros": cost}
        told.append(_exact(metric, n, (value - cost) / MICROS, parts=parts, aspect=currency, unit=currency))
    return told


def _attribution(metric: BuiltIn, lines: _Lines, _: int) -> list[Figure]:
    n = lines.count(metric.metric)
    credit = lines.count(metric.metric, "micros")
    return [_exact(metric, n, credit / MICROS, parts={"credit_micros": credit})] if n else []


def _times(metric: BuiltIn, lines: _Lines, minimum: int) -> list[Figure]:
    times = sorted(
        (part, amount) for part, amount in lines.parts(metric.metric).items() if isinstance(part, int) and amount
    )
    if not times:
        return [_estimated(metric, 0, minimum, None, parts={})] if metric.core else []
    told = durations(times)
    estimate = Estimate(float(told.median) / MICROS, told.low / MICROS, told.high / MICROS)
    parts = {
        "median_micros": round(told.median),
        "mean_micros": round(told.mean),
        "p90_micros": round(told.p90),
    }
    return [_estimated(metric, told.n, minimum, estimate, parts=parts)]


_TELL: Final[dict[str, _Tell]] = {
    "nps": _nps,
    "nps_weighted": _weighted,
    "csat": _share_of_answers(satisfaction.satisfied, "satisfied"),
    "csat_mean": _mean_of("csat", satisfaction.OWN_SCALE),
    "ces": _share_of_answers(effort.easy, "easy"),
    "ces_mean": _mean_of("ces", effort.OWN_SCALE),
    "review_mean": _mean_of("review_mean", satisfaction.OWN_SCALE),
    "volume": _count,
    "clients": _count,
    "feedback": _count,
    "cases": _count,
    "conversions": _count,
    "fcr": _share_of("fcr", "resolved"),
    "measurement_coverage": _share_of("volume", "measured"),
    "completion_rate": _share_of("completion_rate", "completed", "open"),
    "response_time": _times,
    "resolution_time": _times,
    "handling_time": _times,
    "wait_time": _times,
    "value": _amount,
    "cost": _amount,
    "value_after_costs": _after_costs,
    **{f"attribution_{model}": _attribution for model in MODELS},
}


def _own(definition: MetricDefinition, lines: _Lines, minimum: int) -> Figure:
    n = lines.count(definition.metric)
    k = lines.count(definition.metric, "k")
    units = f"{definition.unit.name.lower()}s"
    if n < minimum:
        return Figure(
            definition.metric,
            "",
            None,
            None,
            None,
            n,
            {},
            "percent",
            "share",
            definition.version,
            too_few(n, units, minimum),
        )
    told = share(k, n)
    return Figure(
        definition.metric,
        "",
        told.value,
        told.low,
        told.high,
        n,
        {"numerator": k},
        "percent",
        "share",
        definition.version,
    )


def worst(rows: Collection[tuple[str, Figure]]) -> tuple[str, Figure] | None:
    """The subject with the worst point value among those with enough answers; ties go to the first by name."""
    told = [row for row in rows if row[1].value is not None]
    return min(told, key=lambda row: (badness(row[1]), row[0]), default=None)


def badness(figure: Figure) -> float:
    """Sorts figures of one metric, the worst first; those without a value last."""
    if figure.value is None:
        return float("inf")
    built_in = BUILT_IN.get(figure.metric)
    return -figure.value if built_in is not None and built_in.lower_is_better else figure.value


def headline(kind: Kind, subject: str, figure: Figure, label: str) -> str:
    """One sentence, e.g. "Worst channel by NPS: phone, -12 (95% -20 to -4, n 310)"."""
    unit = "" if figure.unit in {"points", "count"} else "%" if figure.unit == "percent" else f" {figure.unit}"
    value = f"{_short(figure.value)}{unit}" if figure.value is not None else figure.note
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f"95% {_short(figure.low)} to {_short(figure.high)}, "
    return f"Worst {kind.name.lower()} by {label}: {subject}, {value} ({interval}n {figure.n})"


def _short(value: float) -> str:
    """One digit behind the point, and none where it is 0."""
    return f"{value:.1f}".removesuffix(".0")
