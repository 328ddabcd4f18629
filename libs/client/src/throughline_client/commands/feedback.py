"""Commands about feedback: inboxes and cases."""

from __future__ import annotations

import click

from throughline.feedback.v1 import feedback_pb2
from throughline_client.client import Throughline
from throughline_client.commands.running import as_of_option, between_option, connected, output_option, tell
from throughline_client.commands.showing import (
    exactly,
    plain,
    print_facts,
    print_json,
    print_line,
    print_table,
    short,
    when,
)
from throughline_kernel import ALWAYS, Interval

_STATES = {short(name, "CASE_STATE_"): number for name, number in feedback_pb2.CaseState.items() if number}
_COLUMNS = ["case", "state", "topic", "client", "channel", "opened", "resolve by", "overdue", "items"]


def _row(case: feedback_pb2.Case) -> list[object]:
    return [
        case.case_id,
        short(feedback_pb2.CaseState.Name(case.state), "CASE_STATE_"),
        case.topic,
        case.client_id,
        case.channel,
        when(case.opened_at),
        when(case.resolve_by),
        case.overdue,
        len(case.feedback_ids),
    ]


@click.command()
@click.argument("department")
@click.option("--state", "states", type=click.Choice(list(_STATES)), multiple=True, help="Only cases in this state.")
@click.option("--watch", is_flag=True, help="Go on with each change.")
@as_of_option
@between_option
@output_option
@connected
async def inbox(
    client: Throughline,
    *,
    department: str,
    states: tuple[str, ...],
    watch: bool,
    as_of: int,
    between: Interval,
    output: str,
) -> None:
    """Show a department's cases, the most urgent first.

    --as-of shows what stood in the inbox at an instant, whatever became of it; --between what was opened in one.

    \b
    Examples:
      throughline inbox store_operations
      throughline inbox customer_care --state resolved --output json
      throughline inbox customer_care --watch
      throughline inbox customer_care --as-of 2026-05-03T14:00:00+02:00
    """
    if watch and (as_of or between != ALWAYS):
        raise click.UsageError("--watch shows what is new, --as-of and --between what was: choose one")
    if watch:
        async for case in client.feedback.watch_inbox(department):
            if output == "json":
                print_line(plain(case))
            else:
                click.echo("  ".join(map(str, _row(case))))
        return
    cases: list[feedback_pb2.Case] = []
    page = feedback_pb2.ListInboxResponse()
    wanted = [_STATES[state] for state in states]
    async for page in client.feedback.inbox_pages(department, states=wanted, as_of=as_of, between=between):
        cases += page.cases
    if output == "json":
        print_json([plain(each) for each in cases])
    else:
        print_table(_COLUMNS, map(_row, cases))
        _as_known(page)
    if page.withheld:
        tell(f"{page.withheld} cases are left out: whose they were was forgotten since")


def _as_known(answer: feedback_pb2.ListInboxResponse | feedback_pb2.GetDepartmentStatsResponse) -> None:
    click.echo(f"\nAs feedback knew it at {exactly(answer.as_of)}, position {answer.position}.")


@click.command()
@as_of_option
@between_option
@output_option
@connected
async def departments(client: Throughline, *, as_of: int, between: Interval, output: str) -> None:
    """Show items and cases per department: received, open, overdue, resolved.

    --as-of shows them as they stood at an instant; --between counts items given, and cases opened, in an interval.

    \b
    Examples:
      throughline departments
      throughline departments --between 2026-04-01 2026-05-01 --as-of 2026-05-03
    """
    found = await client.feedback.department_stats(as_of=as_of, between=between)
    if output == "json":
        print_json([plain(each) for each in found.departments])
        return
    columns = ["department", "items", "cases", "open", "overdue", "resolved", "reopened", "escalated"]
    print_table(columns, [[getattr(each, column) for column in columns] for each in found.departments])
    _as_known(found)


@click.group()
def case() -> None:
    """Look at a case and close the loop.

    \b
    Examples:
      throughline case show 3b9d...
      throughline case ack 3b9d... --by ana
      throughline case resolve 3b9d... --by ana --resolution "refunded" --cause "double charge"
    """


def _print_case(found: feedback_pb2.Case, output: str) -> None:
    if output == "json":
        print_json(plain(found))
        return
    print_facts(
        {
            "case": found.case_id,
            "state": short(feedback_pb2.CaseState.Name(found.state), "CASE_STATE_"),
            "department": found.department,
            "topic": found.topic,
            "client": found.client_id,
            "channel": found.channel,
            "opened": when(found.opened_at),
            "acknowledge by": when(found.acknowledge_by),
            "resolve by": when(found.resolve_by),
            "overdue": found.overdue,
            "escalated": found.escalated,
            "reopened": found.reopened or "",
            "root cause": found.root_cause,
            "items": list(found.feedback_ids),
        }
    )
    if found.steps:
        print_table(
            ["at", "step", "by", "text"],
            [[when(step.at), step.type, step.by, step.text] for step in found.steps],
            title="\nsteps",
        )


@case.command("show")
@click.argument("case_id")
@as_of_option
@output_option
@connected
async def show(client: Throughline, *, case_id: str, as_of: int, output: str) -> None:
    """Show a case with its steps, now or as it stood at an instant.

    \b
    Examples:
      throughline case show 3b9d...
      throughline case show 3b9d... --as-of 2026-05-03T14:00:00+02:00
    """
    _print_case(await client.feedback.case(case_id, as_of=as_of), output)


@case.command("ack")
@click.argument("case_id")
@click.option("--by", required=True, help="Who looks after it.")
@output_option
@connected
async def acknowledge(client: Throughline, *, case_id: str, by: str, output: str) -> None:
    """Acknowledge a case.

    \b
    Example:
      throughline case ack 3b9d... --by ana
    """
    _print_case(await client.feedback.acknowledge(case_id, by=by), output)


@case.command("reassign")
@click.argument("case_id")
@click.argument("department")
@click.option("--by", required=True, help="Who decides.")
@click.option("--reason", required=True, help="Why.")
@output_option
@connected
async def reassign(client: Throughline, *, case_id: str, department: str, by: str, reason: str, output: str) -> None:
    """Give a case to another department.

    \b
    Example:
      throughline case reassign 3b9d... logistics --by ana --reason "late parcel"
    """
    _print_case(await client.feedback.reassign(case_id, department, by=by, reason=reason), output)


@case.command("resolve")
@click.argument("case_id")
@click.option("--by", required=True, help="Who resolved it.")
@click.option("--resolution", required=True, help="What was done; no personal values.")
@click.option("--cause", default="", help="What had caused it.")
@output_option
@connected
async def resolve(client: Throughline, *, case_id: str, by: str, resolution: str, cause: str, output: str) -> None:
    """Resolve a case.

    \b
    Example:
      throughline case resolve 3b9d... --by ana --resolution "refunded" --cause "double charge"
    """
    found = await client.feedback.resolve(case_id, by=by, resolution=resolution, root_cause=cause)
    _print_case(found, output)


@case.command("reopen")
@click.argument("case_id")
@click.option("--by", required=True, help="Who decides.")
@click.option("--reason", required=True, help="Why.")
@output_option
@connected
async def reopen(client: Throughline, *, case_id: str, by: str, reason: str, output: str) -> None:
    """Open a resolved case again.

    \b
    Example:
      throughline case reopen 3b9d... --by ana --reason "charged again"
    """
    _print_case(await client.feedback.reopen(case_id, by=by, reason=reason), output)
