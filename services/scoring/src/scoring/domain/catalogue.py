"""The built-in metrics and the formulas behind them: name, version, words and source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scoring.domain.formulas.attribution import CONVERSIONS, MODELS, TOUCHES

WILSON: Final = "Interval: E. B. Wilson (1927), J. Amer. Statist. Assoc. 22(158), 209-212."


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula in words. A change of what it computes is a new version."""

    formula: str
    version: int
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A metric that ships: its formula, what n counts, and whether less is better."""

    metric: str
    label: str
    formula: str
    counted: str
    unit: str
    # Needs the minimum n to be told.
    estimate: bool = True
    lower_is_better: bool = False
    # Told for every subject, also where nothing is known yet.
    core: bool = False


FORMULAS: Final = {
    formula.formula: formula
    for formula in (
        Formula(
            "nps",
            1,
            "100 x (promoters - detractors) / answers; promoters answer 9 or 10, detractors 0 to 6; answers "
            "outside 0 to 10 are blanks. "
            "95% adjusted-Wald interval: 3 added to n, 3/4 each to promoters and detractors.",
            "F. F. Reichheld (2003), Harvard Business Review 81(12), 46-54. Interval: D. G. Bonett and R. M. "
            "Price (2012), J. Educ. Behav. "
            "Statist. 37(4), 479-488; J. Sauro and J. R. Lewis, Quantifying the User Experience (2012, 2016).",
        ),
        Formula(
            "nps_weighted",
            1,
            "As nps, each answer counted by its survey weight; the interval at the effective number of answers, "
            "(sum of weights)^2 / (sum of squared weights).",
            "As nps; L. Kish (1965), Survey Sampling, Wiley.",
        ),
        Formula(
            "csat",
            1,
            "Percent of answers in the top quarter of the scale: 4 and 5 of 5. 95% Wilson interval.",
            "P. W. Farris et al. (2010), Marketing Metrics, 2nd edition. " + WILSON,
        ),
        Formula(
            "ces",
            1,
            "Percent of answers in the top third of the scale: 5 to 7 of 7. 95% Wilson interval.",
            "M. Dixon, K. Freeman and N. Toman (2010), Harvard Business Review 88(7/8), 116-122; M. Dixon, N. "
            "Toman and R. DeLisi (2013), "
            "The Effortless Experience. " + WILSON,
        ),
        Formula(
            "mean",
            1,
            "Arithmetic mean on the metric's own scale, +- 1.96 standard errors; answers on other scales are "
            "moved to it.",
            "G. W. Snedecor and W. G. Cochran (1989), Statistical Methods, 8th edition.",
        ),
        Formula("count", 1, "How many there are. Staff interactions are told apart and not counted.", "Counting."),
        Formula("clients", 1, "Different clients with at least one contact.", "Counting."),
        Formula(
            "fcr",
            1,
            "Percent of contacts on a matter by identified clients that the same client did not follow, on the "
            "same matter, within 7 x 24 "
            "hours. What staff entered as outcome does not count; staff contacts are left out. 95% Wilson interval.",
            "Own definition, by repeat contact. " + WILSON,
        ),
        Formula(
            "durations",
            1,
            "Median (mean of the two middle ones where n is even) with its 95% interval from order statistics; "
            "mean and 90th percentile among "
            "the parts.",
            "R. J. Hyndman and Y. Fan (1996), The American Statistician 50(4), 361-365, definition 2; W. J. "
            "Conover (1999), Practical "
            "Nonparametric Statistics, section 3.2.",
        ),
        Formula(
            "measurement_coverage",
            1,
            "Percent of contacts with any scored answer (NPS, CSAT, CES, review). 95% Wilson interval.",
            "Own definition. " + WILSON,
        ),
        Formula("amount", 1, "Sum of the amounts, per currency, in whole millionths.", "Adding."),
        Formula(
            "completion_rate",
            1,
            "Percent completed of the journeys that ended (completed or abandoned). 95% Wilson interval.",
            "Own definition. " + WILSON,
        ),
        Formula(
            "attribution",
            1,
            "Conversions credited to the touches of the same client before them, within 30 days or until the "
            "touch's `active_until`; at most "
            "the 200 most recent. Credits of one conversion add up to exactly 1000000 millionths (largest "
            "remainder). Time decay halves every 7 "
            f"days. Conversions: {', '.join(sorted(CONVERSIONS))}. Touches: {', '.join(sorted(TOUCHES))}.",
            "P. K. Kannan, W. Reinartz and P. C. Verhoef (2016), Int. J. Research in Marketing 33(3), 449-456; "
            "half-life: the default of Google "
            "Analytics; M. L. Balinski and H. P. Young (2001), Fair Representation.",
        ),
        Formula(
            "share", 1, "Percent of the population's units that satisfy the numerator. 95% Wilson interval.", WILSON
        ),
    )
}

BUILT_IN: Final = {
    metric.metric: metric
    for metric in (
        BuiltIn("nps", "NPS", "nps", "answers", "points", core=True),
        BuiltIn("nps_weighted", "weighted NPS", "nps_weighted", "answers", "points"),
        BuiltIn("csat", "CSAT", "csat", "answers", "percent", core=True),
        BuiltIn("csat_mean", "mean satisfaction", "mean", "answers", "of 5"),
        BuiltIn("ces", "CES", "ces", "answers", "percent", core=True),
        BuiltIn("ces_mean", "mean ease", "mean", "answers", "of 7"),
        BuiltIn("review_mean", "mean rating", "mean", "answers", "of 5"),
        BuiltIn("volume", "contacts", "count", "contacts", "count", estimate=False, core=True),
        BuiltIn("clients", "clients", "clients", "clients", "count", estimate=False, core=True),
        BuiltIn("feedback", "feedback", "count", "items", "count", estimate=False),
        BuiltIn("cases", "cases", "count", "cases", "count", estimate=False),
        BuiltIn("fcr", "first contact resolution", "fcr", "contacts", "percent", core=True),
        BuiltIn("response_time", "response time", "durations", "cases", "seconds", lower_is_better=True, core=True),
        BuiltIn("resolution_time", "resolution time", "durations", "cases", "seconds", lower_is_better=True),
        BuiltIn("handling_time", "handling time", "durations", "contacts", "seconds", lower_is_better=True, core=True),
        BuiltIn("wait_time", "waiting time", "durations", "contacts", "seconds", lower_is_better=True, core=True),
        BuiltIn(
            "measurement_coverage",
            "measurement coverage",
            "measurement_coverage",
            "contacts",
            "percent",
            core=True,
        ),
        BuiltIn("value", "value", "amount", "contacts", "", estimate=False),
        BuiltIn("cost", "cost", "amount", "contacts", "", estimate=False, lower_is_better=True),
        BuiltIn("value_after_costs", "value after costs", "amount", "contacts", "", estimate=False),
        BuiltIn("completion_rate", "journey completion", "completion_rate", "ended journeys", "percent", core=True),
        BuiltIn("conversions", "conversions", "count", "conversions", "count", estimate=False),
        *(
            BuiltIn(
                f"attribution_{model}",
                f"{model.replace('_', ' ')} touch attribution".replace("decay touch", "decay"),
                "attribution",
                "conversions",
                "conversions",
                estimate=False,
            )
            for model in MODELS
        ),
    )
}
