"""Commands about retention: the rules by which clients are forgotten."""

from __future__ import annotations

from pathlib import Path

import click

from throughline.identity.v1 import rules_pb2
from throughline_client.client import Throughline
from throughline_client.commands.definitions import read_definition
from throughline_client.commands.running import as_of_option, connected, output_option
from throughline_client.commands.showing import how_long, plain, print_facts, print_json, print_table


@click.group()
def retention() -> None:
    """Show or publish the rules by which clients are forgotten, by channel or by consent purpose.

    \b
    Examples:
      throughline retention show
      throughline retention publish retention.yaml --by dpo --dry-run
    """


@retention.command("show")
@as_of_option
@output_option
@connected
async def show(client: Throughline, *, as_of: int, output: str) -> None:
    """Show the rules in force, now or at an instant. As JSON: in the form that `publish` reads.

    \b
    Example:
      throughline retention show --output json
    """
    rules = await client.identity.retention_rules(as_of=as_of)
    if output == "json":
        print_json(plain(rules))
        return
    print_facts({"version": rules.version})
    print_table(
        ["rule", "keep", "channels", "purpose"],
        [[each.name, how_long(each.keep), list(each.channels), each.purpose] for each in rules.rules],
    )


@retention.command("publish")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--by", required=True, help="Who publishes them.")
@click.option("--dry-run", is_flag=True, help="Publish nothing, tell who would be forgotten now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
@connected
async def publish(client: Throughline, *, file: Path, by: str, dry_run: bool, yes: bool, output: str) -> None:
    """Publish all rules of retention anew, from a YAML or JSON file (throughline.identity.v1.RetentionRules).

    Clients who are over by them are forgotten from then on, and no rule published later brings them back.

    \b
    Examples:
      throughline retention publish retention.yaml --by dpo --dry-run
      throughline retention publish retention.yaml --by dpo
    """
    rules = read_definition(file, rules_pb2.RetentionRules())
    if not yes and not dry_run:
        click.confirm("Forget for ever whoever is over by these rules, now and from now on?", abort=True, err=True)
    answer = await client.identity.publish_retention_rules(rules, published_by=by, dry_run=dry_run)
    if output == "json":
        print_json(plain(answer))
        return
    if not dry_run:
        print_facts({"version": answer.version})
        return
    print_facts({"version": f"{answer.version}, not published", "clients who would be forgotten now": answer.clients})
    if answer.over:
        print_table(["client", "rule"], [[each.client_id, each.rule] for each in answer.over])
