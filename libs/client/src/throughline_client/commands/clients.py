"""Commands about one client: who, what next, why, and how to put it right."""

from __future__ import annotations

import click

from throughline.identity.v1 import consent_pb2, identity_pb2
from throughline.ingestion.v1 import interaction_pb2
from throughline.journey.v1 import journey_pb2
from throughline_client.client import Throughline
from throughline_client.commands.running import (
    Duration,
    IdentifierParam,
    as_of_option,
    between_option,
    connected,
    one_of,
    output_option,
    tell,
    whom,
)
from throughline_client.commands.showing import (
    exactly,
    plain,
    print_facts,
    print_json,
    print_left_out,
    print_line,
    print_table,
    short,
    when,
)
from throughline_kernel import ALWAYS, Interval

Identifiers = tuple[interaction_pb2.Identifier, ...]
identifier_option = click.option(
    "-i", "--identifier", "identifiers", type=IdentifierParam(), multiple=True, help="Who it is; may be repeated."
)


@click.command()
@click.argument("client_id", default="")
@identifier_option
@as_of_option
@output_option
@connected
async def resolve(client: Throughline, *, client_id: str, identifiers: Identifiers, as_of: int, output: str) -> None:
    """Tell which client an id, an alias or identifiers mean now, or meant at an instant.

    \b
    Examples:
      throughline resolve -i loyalty_card=2322
      throughline resolve -i email=a@shop.eu -i phone=+43123456
      throughline resolve 5f0c... --as-of 2026-05-03T14:00:00+02:00
    """
    one_of(client_id, identifiers)
    answer = await client.identity.resolve(client_id, identifiers=identifiers, as_of=as_of)
    if output == "json":
        print_json(plain(answer))
        return
    print_facts(
        {
            "client": answer.client_id,
            "known person": answer.known_person,
            "also meant": list(answer.other_client_ids),
        }
    )
    _as_known(answer)


@click.command()
@click.argument("client_id", default="")
@identifier_option
@click.option("--channel", required=True, help="The channel that asks.")
@click.option("--compact", is_flag=True, help="At most 4 KB.")
@click.option("--personal/--no-personal", default=True, show_default=True, help="Read personal answers too.")
@as_of_option
@output_option
@connected
async def resume(
    client: Throughline,
    *,
    client_id: str,
    identifiers: Identifiers,
    channel: str,
    compact: bool,
    personal: bool,
    as_of: int,
    output: str,
) -> None:
    """Tell what the next channel must know about a client, or should have known at an instant.

    \b
    Examples:
      throughline resume -i phone=+43123456 --channel call_centre
      throughline resume 5f0c... --channel call_centre --as-of 2026-05-03T14:00:00+02:00
      throughline resume 5f0c... --compact --output json
    """
    one_of(client_id, identifiers)
    context = await client.resume(
        client_id, identifiers=identifiers, channel=channel, compact=compact, personal=personal, as_of=as_of
    )
    if output == "json":
        print_json(plain(context))
    else:
        print_context(context)


def print_context(context: journey_pb2.ResumeContextResponse) -> None:
    """What a channel is told, section by section, for people."""
    print_facts(
        {
            "client": context.client_id,
            "aliases": list(context.alias_ids),
            "known person": context.known_person,
            "interactions": context.interactions,
            "first seen": when(context.first_seen_at),
            "last seen": when(context.last_seen_at),
            "channels": list(context.channels_used),
            "too long to tell": [f"{count} {name}" for name, count in sorted(context.omitted.items())],
            "forgotten since": context.withheld or "",
        }
    )
    _section(
        "open matters",
        ["matter", "what", "stage", "owner", "since", "due"],
        [[m.kind, m.summary or m.id, m.stage, m.owner, when(m.since), when(m.due_at)] for m in context.open_matters],
    )
    _section("next", ["step", "journey", "stage"], [[n.text, n.journey, n.stage] for n in context.next_steps])
    _section(
        "last steps",
        ["at", "channel", "kind", "matter", "outcome", "what"],
        [[when(s.at), s.channel, s.kind, s.matter, s.outcome, s.summary] for s in context.last_steps],
    )
    _section(
        "answers already given",
        ["question", "answer", "at", "channel", "asked"],
        [
            [a.question, a.answer or ("(personal)" if a.sealed else ""), when(a.at), a.channel, f"{a.times_asked}x"]
            for a in context.answers
        ],
    )
    _section(
        "promises",
        ["promise", "due", "overdue", "channel", "made"],
        [[p.text, when(p.due_at), p.overdue, p.channel, when(p.at)] for p in context.promises],
    )
    _section(
        "campaigns seen",
        ["campaign", "times", "last", "responded"],
        [[c.campaign_id, c.times, when(c.last_at), c.responded] for c in context.campaigns],
    )
    kinds = interaction_pb2.FeedbackKind
    _section(
        "loyalty",
        ["kind", "score", "at"],
        [[short(kinds.Name(each.kind), "FEEDBACK_KIND_"), each.score, when(each.at)] for each in context.loyalty],
    )
    print_left_out(context.left_out)


def _section(title: str, columns: list[str], rows: list[list[object]]) -> None:
    if rows:
        print_table(columns, rows, title=f"\n{title}")


@click.command()
@click.argument("client_id", default="")
@identifier_option
@as_of_option
@between_option
@click.option("--watch", is_flag=True, help="Go on with each new entry as it is noted.")
@output_option
@connected
async def history(
    client: Throughline,
    *,
    client_id: str,
    identifiers: Identifiers,
    as_of: int,
    between: Interval,
    watch: bool,
    output: str,
) -> None:
    """Show a client's history over all channels, oldest first. As JSON: one entry a line.

    --as-of shows it as it was known at an instant, whatever came later; --between what happened in an interval. Both
    together: what was known then of what happened in it.

    \b
    Examples:
      throughline history -i loyalty_card=2322
      throughline history 5f0c... --as-of 2026-05-03T14:00:00+02:00
      throughline history 5f0c... --between 2026-04-01 2026-05-01 --as-of "2026-05-03 12:00:00"
      throughline history 5f0c... --watch --output json
    """
    if watch and (as_of or between != ALWAYS):
        raise click.UsageError("--watch shows what is new, --as-of and --between what was: choose one")
    client_id = await whom(client, client_id, identifiers, as_of)
    show = _print_entry if output == "json" else _echo_entry
    entries: list[journey_pb2.TimelineEntry] = []
    left_out: list[consent_pb2.LeftOut] = []
    page = journey_pb2.GetTimelineResponse()
    async for page in client.journey.timeline_pages(client_id, as_of=as_of, between=between):
        entries += page.entries
        left_out += page.left_out
    if output == "json":
        for entry in entries:
            show(entry)
    else:
        print_table(_HISTORY, map(_history_row, entries))
        print_left_out(left_out)
        click.echo(f"\nAs journey knew it at {exactly(page.as_of)}, position {page.position}.")
    if page.withheld:
        tell(f"{page.withheld} interactions, answers or cases are left out: whose they are was forgotten since")
    if watch:
        async for entry in client.watch(client_id, after_position=page.position):
            show(entry)


def _print_entry(entry: journey_pb2.TimelineEntry) -> None:
    print_line(plain(entry))


def _echo_entry(entry: journey_pb2.TimelineEntry) -> None:
    click.echo("  ".join(str(cell) for cell in _history_row(entry)))


_HISTORY = ["at", "channel", "what", "journey", "stage", "summary"]


def _history_row(entry: journey_pb2.TimelineEntry) -> list[object]:
    what = entry.interaction.kind if entry.type == "interaction" else entry.type
    return [when(entry.occurred_at), entry.channel, what, entry.journey, entry.stage, entry.summary]


@click.command("client")
@click.argument("client_id")
@as_of_option
@output_option
@connected
async def client_command(client: Throughline, *, client_id: str, as_of: int, output: str) -> None:
    """Show one client: aliases, identifiers (hashed), merges, proposals, consents; now, or as it was at an instant.

    \b
    Examples:
      throughline client 5f0c...
      throughline client 5f0c... --as-of 2026-05-03T14:00:00+02:00
    """
    answer = await client.identity.client_known(client_id, as_of=as_of)
    found = answer.client
    if output == "json":
        print_json(plain(found))
        return
    print_facts(
        {
            "client": found.client_id,
            "aliases": list(found.alias_ids),
            "known person": found.known_person,
            "interactions": found.interactions,
            "first seen": when(found.first_seen_at),
            "last seen": when(found.last_seen_at),
        }
    )
    _section(
        "identifiers",
        ["type", "hash", "assurance", "interactions", "first seen", "rule"],
        [
            [
                each.identifier.type,
                each.identifier.hash.hex()[:16],
                short(interaction_pb2.Assurance.Name(each.identifier.assurance), "ASSURANCE_"),
                each.interactions,
                when(each.first_seen_at),
                each.evidence.rule,
            ]
            for each in found.identifiers
        ],
    )
    _section("merges", _MERGES, [_merge_row(each) for each in found.merges])
    _section(
        "proposals",
        ["proposal", "client", "other", "since", "rule"],
        [[p.merge_id, p.client_id, p.other_client_id, when(p.at), p.evidence.rule] for p in found.proposals],
    )
    _section(
        "consents",
        ["purpose", "granted", "scope", "source", "at"],
        [[c.purpose, c.granted, c.scope, c.source, when(c.at)] for c in found.consents],
    )
    _as_known(answer)


def _as_known(
    answer: identity_pb2.GetClientResponse | identity_pb2.ResolveClientResponse | identity_pb2.ExplainLinkResponse,
) -> None:
    click.echo(f"\nAs identity knew it at {exactly(answer.as_of)}, position {answer.position}.")


_MERGES = ["merge", "client", "merged", "by", "at", "undone", "rule"]


def _merge_row(merge: identity_pb2.Merge) -> list[object]:
    by = merge.decided_by or "(rule)"
    return [
        merge.merge_id,
        merge.client_id,
        merge.merged_client_id,
        by,
        when(merge.at),
        merge.undone,
        merge.evidence.rule,
    ]


@click.command()
@click.argument("interaction_id", default="")
@identifier_option
@as_of_option
@output_option
@connected
async def explain(
    client: Throughline, *, interaction_id: str, identifiers: Identifiers, as_of: int, output: str
) -> None:
    """Tell why an interaction or an identifier belongs to its client, or did at an instant: the events and the rule.

    \b
    Examples:
      throughline explain 9a41...
      throughline explain 9a41... --as-of 2026-05-03T14:00:00+02:00
      throughline explain -i loyalty_card=2322
    """
    if bool(interaction_id) == bool(identifiers) or len(identifiers) > 1:
        raise click.UsageError("name either one INTERACTION_ID or one --identifier TYPE=VALUE")
    answer = await client.identity.explain(
        interaction_id=interaction_id, identifier=identifiers[0] if identifiers else None, as_of=as_of
    )
    if output == "json":
        print_json(plain(answer))
        return
    print_facts({"client": answer.client_id})
    print_table(
        ["recorded", "event", "client", "rule", "why", "event id"],
        [
            [
                when(step.recorded_at),
                step.event_type.rpartition(".")[2],
                step.client_id,
                step.evidence.rule,
                step.explanation,
                step.event_id,
            ]
            for step in answer.steps
        ],
    )
    _as_known(answer)


@click.command()
@click.argument("client_id")
@click.argument("other_client_id")
@click.option("--by", required=True, help="Who decides.")
@click.option("--reason", required=True, help="Why.")
@output_option
@connected
async def merge(
    client: Throughline, *, client_id: str, other_client_id: str, by: str, reason: str, output: str
) -> None:
    """Make two clients one, by decision of a person. `undo-merge` takes it back.

    \b
    Example:
      throughline merge 5f0c... 77ab... --by ana --reason "same passport"
    """
    answer = await client.identity.merge(client_id, other_client_id, decided_by=by, reason=reason)
    if output == "json":
        print_json(plain(answer))
        return
    print_facts({"merge": answer.merge_id, "client": answer.client_id, "interactions moved": answer.reattributed})


@click.command("undo-merge")
@click.argument("merge_id")
@click.option("--by", required=True, help="Who decides.")
@click.option("--reason", required=True, help="Why.")
@output_option
@connected
async def undo_merge(client: Throughline, *, merge_id: str, by: str, reason: str, output: str) -> None:
    """Undo a merge, automatic or decided, in any order.

    \b
    Example:
      throughline undo-merge 41c0... --by ana --reason "two sisters"
    """
    answer = await client.identity.undo_merge(merge_id, decided_by=by, reason=reason)
    if output == "json":
        print_json(plain(answer))
        return
    print_facts(
        {
            "client": answer.client_id,
            "restored": answer.restored_client_id,
            "interactions moved": answer.reattributed,
        }
    )


@click.command()
@as_of_option
@output_option
@connected
async def proposals(client: Throughline, *, as_of: int, output: str) -> None:
    """List the merges that wait for a person, since both sides are known persons; or that did at an instant.

    \b
    Examples:
      throughline proposals
      throughline proposals --as-of 2026-05-03T14:00:00+02:00
    """
    found = [each async for each in client.identity.proposals(as_of=as_of)]
    if output == "json":
        print_json([plain(each) for each in found])
        return
    print_table(
        ["proposal", "client", "other", "since", "rule"],
        [[p.merge_id, p.client_id, p.other_client_id, when(p.at), p.evidence.rule] for p in found],
    )


@click.command()
@click.argument("client_id")
@click.option("--by", required=True, help="Who decides.")
@click.option("--reason", required=True, help="Why, e.g. the number of the request.")
@click.option("--grace", type=Duration(), default=0, help="Time in which it can be cancelled, e.g. 30d. None: at once.")
@click.option("--dry-run", is_flag=True, help="Decide nothing, tell what would go.")
@click.option("--cancel", is_flag=True, help="Take back what is scheduled.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
@connected
async def forget(
    client: Throughline,
    *,
    client_id: str,
    by: str,
    reason: str,
    grace: int,
    dry_run: bool,
    cancel: bool,
    yes: bool,
    output: str,
) -> None:
    """Forget a person: destroy the keys to their personal values (docs/forgetting.md). Once done it cannot be undone.

    \b
    Examples:
      throughline forget 5f0c... --by dpo --reason "request 2026-114" --dry-run
      throughline forget 5f0c... --by dpo --reason "request 2026-114" --grace 30d
      throughline forget 5f0c... --by dpo --reason "changed their mind" --cancel
    """
    if cancel:
        if grace or dry_run:
            raise click.UsageError("--cancel takes back what is scheduled: it goes with neither --grace nor --dry-run")
        cancelled = await client.identity.cancel_forgetting(client_id, decided_by=by, reason=reason)
        if output == "json":
            print_json(plain(cancelled))
        else:
            print_facts({"client": client_id, "forgotten": "no: taken back"})
        return
    if not yes and not grace and not dry_run:
        click.confirm(f"Destroy the keys of client {client_id} for ever?", abort=True, err=True)
    answer = await client.identity.forget(client_id, decided_by=by, reason=reason, grace=grace, dry_run=dry_run)
    if output == "json":
        print_json(plain(answer))
        return
    when_done = "not yet: this is what would go" if dry_run else when(answer.due_at) or "now"
    print_facts(
        {
            "client": answer.client_id,
            "aliases": list(answer.alias_ids),
            "forgotten": when_done,
            "sealing keys": answer.personas,
            "identifiers": answer.identifiers,
            "interactions sealed for ever": answer.interactions,
            "consents": answer.consents,
            "merges and proposals": answer.merges + answer.proposals,
        }
    )


@click.command()
@click.option("--scheduled", is_flag=True, help="Those whose grace time is not over instead.")
@as_of_option
@output_option
@connected
async def forgotten(client: Throughline, *, scheduled: bool, as_of: int, output: str) -> None:
    """List who was forgotten, or is to be; now, or by an instant.

    \b
    Examples:
      throughline forgotten
      throughline forgotten --as-of 2026-05-03
      throughline forgotten --scheduled --output json
    """
    found = [each async for each in client.identity.forgettings(done=not scheduled, as_of=as_of)]
    if output == "json":
        print_json([plain(each) for each in found])
        return
    print_table(
        ["client", "aliases", "decided", "due", "by", "reason"],
        [
            [each.client_id, list(each.alias_ids), when(each.at), when(each.due_at), each.decided_by, each.reason]
            for each in found
        ],
    )


@click.command()
@click.argument("interaction_id")
@output_option
@connected
async def interaction(client: Throughline, *, interaction_id: str, output: str) -> None:
    """Show one interaction with its personal values, and the conflicting versions kept beside it.

    \b
    Example:
      throughline interaction 9a41...
    """
    found = await client.ingestion.interaction(interaction_id)
    if output == "json":
        print_json(plain(found))
        return
    facts = found.facts
    print_facts(
        {
            "interaction": facts.interaction_id,
            "source": f"{facts.source} {facts.source_interaction_id}",
            "at": when(facts.occurred_at),
            "recorded": when(found.recorded_at),
            "channel": facts.channel,
            "kind": facts.kind,
            "touchpoint": facts.touchpoint,
            "matter": facts.matter,
            "outcome": facts.outcome,
            "identifiers": [f"{each.type}={each.value}" for each in found.personal.identifiers],
            "answers": [f"{each.question}: {each.answer}" for each in found.personal.exchanges],
            "words": [words for words in found.personal.verbatims if words],
            "attributes": facts.attributes.decode(errors="replace"),
            "personal": found.personal.personal_attributes.decode(errors="replace"),
            "forgotten": "yes" if found.forgotten else "",
            "conflicts": len(found.conflicts) or "",
        }
    )
