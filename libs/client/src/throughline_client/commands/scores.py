"""Commands about figures: scorecards, their evidence, attribution, metrics of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from throughline.scoring.v1 import events_pb2, metrics_pb2, scoring_pb2
from throughline_client.client import Throughline
from throughline_client.commands.definitions import read_definition
from throughline_client.commands.running import TakesToken, as_of_option, between_option, connected, output_option
from throughline_client.commands.showing import (
    exactly,
    plain,
    print_facts,
    print_json,
    print_left_out,
    print_table,
    short,
)
from throughline_kernel import Interval

_KINDS = {short(name, "SUBJECT_KIND_"): number for name, number in events_pb2.SubjectKind.items() if number}
_COLUMNS = ["metric", "aspect", "value", "95% interval", "n", "unit", "note", "score id"]
MICRO = 1_000_000
# What a board shows where nobody asked for other metrics, in this order.
_ON_THE_BOARD = (
    "volume",
    "clients",
    "nps",
    "csat",
    "ces",
    "fcr",
    "wait_time",
    "measurement_coverage",
    "value",
    "value_after_costs",
)


def _figure(value: float) -> str:
    return f"{value:,.2f}"


def _row(score: events_pb2.Score) -> list[object]:
    return [
        score.metric,
        score.aspect,
        _figure(score.value) if score.HasField("value") else "",
        f"{_figure(score.low)} to {_figure(score.high)}" if score.HasField("low") else "",
        score.n,
        score.unit,
        score.note,
        score.score_id,
    ]


@click.command()
@click.argument("kind", type=click.Choice(list(_KINDS)))
@click.argument("subject", default="")
@click.option("--publish", "published_by", default="", metavar="NAME", help="Write it into the log, published by NAME.")
@as_of_option
@between_option
@output_option
@connected
async def scorecard(
    client: Throughline, *, kind: str, subject: str, published_by: str, as_of: int, between: Interval, output: str
) -> None:
    """Show all figures of one channel, touchpoint, journey, department, client, or of everything.

    --as-of shows them as they were known at an instant, --between those of what began in an interval, each with all
    that is known of it. --publish writes what is shown into the log, for ever, with both times.

    \b
    Examples:
      throughline scorecard channel store
      throughline scorecard all --between 2026-04-01 2026-05-01 --as-of 2026-05-03T14:00:00+02:00
      throughline scorecard all --between 2026-04-01 2026-05-01 --publish ana
    """
    if published_by:
        answer = await client.scoring.publish(
            _KINDS[kind], subject, published_by=published_by, as_of=as_of, between=between
        )
    else:
        answer = await client.scoring.scorecard(_KINDS[kind], subject, as_of=as_of, between=between)
    if output == "json":
        print_json(plain(answer))
    else:
        print_table(_COLUMNS, map(_row, answer.scores), title=f"{kind} {subject}".strip())
        _tell_instant(answer)
        print_left_out(answer.left_out)


@click.command()
@click.argument("kind", type=click.Choice(list(_KINDS)), default="channel")
@click.option("--metric", "metrics", multiple=True, help="Only this metric; may be repeated.")
@click.option("--headline", default="", help="Metric by which the worst is found.")
@as_of_option
@between_option
@output_option
@connected
async def scorecards(
    client: Throughline,
    *,
    kind: str,
    metrics: tuple[str, ...],
    headline: str,
    as_of: int,
    between: Interval,
    output: str,
) -> None:
    """Compare all subjects of a kind, the worst first and in the headline; instants as in `throughline scorecard`.

    \b
    Examples:
      throughline scorecards channel
      throughline scorecards channel --between 2026-04-01 2026-05-01
      throughline scorecards department --metric csat --metric volume
    """
    answer = await client.scoring.scorecards(
        _KINDS[kind], metrics=metrics, headline_metric=headline, as_of=as_of, between=between
    )
    if output == "json":
        print_json(plain(answer))
        return
    if answer.HasField("headline"):
        click.echo(answer.headline.text + "\n")
    else:
        click.echo(f"No {kind} has enough answers for {headline or 'nps'}: none can be named the worst.\n")
    # The aspect of an amount is its currency, that of an answer is its question: only the overall one is on the board.
    told = {score.metric for card in answer.scorecards for score in card.scores if _overall(score)}
    names = [name for name in metrics or _ON_THE_BOARD if name in told]
    aside = ["left out by consent"] if any(card.left_out for card in answer.scorecards) else []
    rows: list[list[object]] = []
    for card in answer.scorecards:
        figures: dict[str, list[events_pb2.Score]] = {}
        for score in card.scores:
            if _overall(score):
                figures.setdefault(score.metric, []).append(score)
        left_out = [", ".join(f"{part.count:,} {part.what}" for part in card.left_out)] if aside else []
        rows.append([card.subject, *(", ".join(map(_brief, figures.get(name, []))) for name in names), *left_out])
    print_table([kind, *names, *aside], rows)
    _tell_instant(answer)


def _tell_instant(
    answer: scoring_pb2.GetScorecardResponse
    | scoring_pb2.ListScorecardsResponse
    | scoring_pb2.PublishScorecardResponse,
) -> None:
    click.echo(f"\nAs scoring knew it at {exactly(answer.as_of)}, position {answer.position}.")


def _overall(score: events_pb2.Score) -> bool:
    return not score.aspect or score.metric in {"value", "cost", "value_after_costs"}


def _brief(score: events_pb2.Score) -> str:
    if score.unit == "count":
        return f"{score.value:,.0f}"
    if not score.HasField("value"):
        return f"- (n {score.n})"
    unit = {"percent": "%", "points": ""}.get(score.unit, f" {score.unit}")
    return f"{_figure(score.value)}{unit} (n {score.n:,})"


@click.command("explain-score", cls=TakesToken)
@click.argument("score_id")
@click.option("--evidence", is_flag=True, help="Also every event id that it stands on, one a line.")
@output_option
@connected
async def explain_score(client: Throughline, *, score_id: str, evidence: bool, output: str) -> None:
    """Tell what a figure is made of: formula, version, parts, evidence.

    \b
    Examples:
      throughline explain-score c1d2...
      throughline explain-score c1d2... --evidence
    """
    answer = await client.scoring.explain(score_id)
    ids = [each async for each in client.scoring.evidence(score_id)] if evidence else list(answer.event_ids)
    if output == "json":
        found = plain(answer)
        found.update({"event_ids": ids, "next_page_token": ""} if evidence else {})
        print_json(found)
        return
    score = answer.score
    print_facts(
        {
            "subject": f"{short(events_pb2.SubjectKind.Name(score.subject_kind), 'SUBJECT_KIND_')} {score.subject}",
            "metric": f"{score.metric} {score.aspect}".strip(),
            "value": f"{_figure(score.value)} {score.unit}" if score.HasField("value") else score.note,
            "95% interval": f"{_figure(score.low)} to {_figure(score.high)}" if score.HasField("low") else "",
            "between": [exactly(at) if at else "(open)" for at in (score.between.start, score.between.end)]
            if score.HasField("between")
            else "",
            "n": score.n,
            "parts": [f"{name} {count:,}" for name, count in sorted(score.parts.items())],
            "formula": f"{score.formula} v{score.formula_version}: {answer.formula.text}",
            "from": answer.formula.source,
            "definition": answer.definition.definition,
        }
    )
    if evidence:
        click.echo()
        for each in ids:
            click.echo(each)


@click.command()
@click.option("--client", "client_id", default="", help="One client's conversions.")
@click.option("--model", default="", help="first, last, linear or time_decay; all where left out.")
@as_of_option
@between_option
@output_option
@connected
async def attribution(
    client: Throughline, *, client_id: str, model: str, as_of: int, between: Interval, output: str
) -> None:
    """Show which channels and campaigns are credited with conversions, or with those of an interval.

    \b
    Examples:
      throughline attribution --model last
      throughline attribution --between 2026-04-01 2026-05-01
      throughline attribution --client 5f0c...
    """
    answer = await client.scoring.attribution(client_id=client_id, model=model, as_of=as_of, between=between)
    if output == "json":
        print_json(plain(answer))
        return
    print_table(
        ["model", "channel", "campaign", "conversions", "value", "currency"],
        [
            [
                row.model,
                row.channel,
                row.campaign_id,
                row.conversions_micros / MICRO,
                row.value_micros / MICRO,
                row.currency,
            ]
            for row in answer.rows
        ],
    )
    print_facts({"conversions": answer.conversions_total, "without a touch before": answer.unattributed})


@click.group(invoke_without_command=True)
@click.pass_context
def metrics(ctx: click.Context) -> None:
    """List the metrics and formulas, or define one of your own.

    \b
    Examples:
      throughline metrics
      throughline metrics define fcr_strict.yaml --by ana
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_metrics, output="table")


@metrics.command("list")
@output_option
@connected
async def list_metrics(client: Throughline, *, output: str) -> None:
    """List the metrics and formulas.

    \b
    Example:
      throughline metrics list --output json
    """
    answer = await client.scoring.metrics()
    if output == "json":
        print_json(plain(answer))
        return
    print_table(
        ["formula", "version", "text", "from"],
        [[each.formula, each.version, each.text, each.source] for each in answer.formulas],
    )
    print_table(
        ["metric", "version", "name", "definition"],
        [[each.metric, each.version, each.name, each.definition] for each in answer.metrics],
        title="\ndefined here",
    )


@metrics.command("define")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--by", required=True, help="Who defines it.")
@output_option
@connected
async def define_metric(client: Throughline, *, file: Path, by: str, output: str) -> None:
    """Publish a metric: a YAML or JSON file in the form of throughline.scoring.v1.MetricDefinition.

    \b
    Example:
      throughline metrics define fcr_strict.yaml --by ana
    """
    answer = await client.scoring.define_metric(read_definition(file, metrics_pb2.MetricDefinition()), defined_by=by)
    if output == "json":
        print_json(plain(answer))
    else:
        print_facts({"metric": answer.metric, "version": answer.version})
