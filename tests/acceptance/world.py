"""A running suite that real data is imported into by the command that people use, and what it then answers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from line import connect, identifier

from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import feedback_pb2, routes_pb2
from throughline.identity.v1 import identity_pb2
from throughline.ingestion.v1 import ingestion_pb2
from throughline.scoring.v1 import events_pb2, metrics_pb2, scoring_pb2
from throughline_client.suite.suite import Suite

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SETTLING = 900.0
KINDS = {
    "channel": events_pb2.SUBJECT_KIND_CHANNEL,
    "source": events_pb2.SUBJECT_KIND_SOURCE,
    "touchpoint": events_pb2.SUBJECT_KIND_TOUCHPOINT,
    "department": events_pb2.SUBJECT_KIND_DEPARTMENT,
}

# (metric, aspect) of one subject.
Card = dict[tuple[str, str], events_pb2.Score]


@dataclass(frozen=True, slots=True)
class Told:
    """What the services answer at one moment, once everything has reached everyone."""

    tallies: dict[str, eventlog_pb2.Tally]
    cards: dict[tuple[str, str], Card]
    departments: dict[str, feedback_pb2.DepartmentStats]

    def score(self, kind: str, subject: str, metric: str, aspect: str = "") -> events_pb2.Score:
        """One figure; an empty one of n = 0 where nothing is known of the subject."""
        return self.cards.get((kind, subject), {}).get((metric, aspect), events_pb2.Score())


@dataclass(frozen=True, slots=True)
class Imported:
    """A data set's import: what the command said, what the services told before it and after it."""

    said: dict[str, dict[str, Any]]
    before: Told
    after: Told

    def more(self, kind: str, subject: str, metric: str, aspect: str = "", *, part: str = "") -> int:
        """By how much the import raised a score's n, or one of its parts."""
        scores = [told.score(kind, subject, metric, aspect) for told in (self.before, self.after)]
        before, after = (score.parts.get(part, 0) if part else score.n for score in scores)
        return after - before

    def items(self, department: str) -> int:
        """How many more items of feedback a department received."""
        nothing = feedback_pb2.DepartmentStats()
        before, after = (told.departments.get(department, nothing).items for told in (self.before, self.after))
        return after - before


@dataclass(slots=True)
class World:
    """A running suite, and what tests do to it and ask of it."""

    suite: Suite

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the `throughline` command on the suite."""
        return subprocess.run(
            [str(Path(sys.executable).with_name("throughline")), *arguments, "--data", str(self.suite.folder)],
            capture_output=True,
            text=True,
            check=False,
        )

    def bring(self, mapping: str, folder: Path, *more: str) -> dict[str, dict[str, Any]]:
        """Imports a folder; what the command says of each import, by name. Nothing may be rejected or in trouble."""
        run = self.run("import", "--mapping", mapping, str(folder), "--output", "json", *more)
        assert run.returncode == 0, f"{run.stderr[-2000:]}\n{run.stdout[-2000:]}"
        return {each["import"]: each for each in json.loads(run.stdout)["imports"]}

    def told(self) -> Told:
        """Waits until everything has reached everyone, and asks."""
        return asyncio.run(self._told())

    def bring_and_ask(self, mapping: str, folder: Path) -> Imported:
        """Imports a folder, and asks before and after."""
        before = self.told()
        return Imported(self.bring(mapping, folder), before, self.told())

    def publish_routes(self, name: str) -> None:
        """Publishes a route set that ships with feedback, as the next version."""
        parsed = yaml.safe_load(files("feedback").joinpath("data", f"{name}.yaml").read_text(encoding="utf-8"))
        routes = json_format.ParseDict(parsed, routes_pb2.RouteSet())
        routes.version = 0

        async def publish() -> None:
            async with connect(self.suite) as line:
                await line.feedback.PublishRoutes(
                    feedback_pb2.PublishRoutesRequest(routes=routes, published_by="acceptance")
                )

        asyncio.run(publish())

    def define(self, definition: metrics_pb2.MetricDefinition) -> None:
        """Defines a metric of one's own."""

        async def define() -> None:
            async with connect(self.suite) as line:
                await line.scoring.DefineMetric(
                    scoring_pb2.DefineMetricRequest(definition=definition, defined_by="acceptance")
                )

        asyncio.run(define())

    async def _told(self) -> Told:
        async with connect(self.suite) as line:
            await line.settled(SETTLING)
            tallies = await line.ingestion.GetTallies(ingestion_pb2.GetTalliesRequest())
            stats = await line.feedback.GetDepartmentStats(feedback_pb2.GetDepartmentStatsRequest())
            cards: dict[tuple[str, str], Card] = {}
            for name, kind in KINDS.items():
                listed = await line.scoring.ListScorecards(scoring_pb2.ListScorecardsRequest(subject_kind=kind))
                for card in listed.scorecards:
                    cards[name, card.subject] = {(score.metric, score.aspect): score for score in card.scores}
            own = [
                metric.metric for metric in (await line.scoring.ListMetrics(scoring_pb2.ListMetricsRequest())).metrics
            ]
            for name, subject in list(cards) if own else ():
                request = scoring_pb2.GetScorecardRequest(subject_kind=KINDS[name], subject=subject)
                for score in (await line.scoring.GetScorecard(request)).scores:
                    cards[name, subject][score.metric, score.aspect] = score
        return Told(
            {tally.source: tally for tally in tallies.tallies},
            cards,
            {each.department: each for each in stats.departments},
        )


async def credited(world: World, cards: set[str]) -> dict[str, dict[str, list[str]]]:
    """Of each conversion of the clients with these loyalty cards: the campaigns credited, by model."""
    found: dict[str, dict[str, list[str]]] = {}
    async with connect(world.suite) as line:
        for card in sorted(cards):
            who = identity_pb2.ResolveClientRequest(identifiers=[identifier("loyalty_card", card)])
            client = await line.identity.ResolveClient(who)
            asked = scoring_pb2.GetAttributionRequest(client_id=client.client_id)
            for conversion in (await line.scoring.GetAttribution(asked)).conversions:
                found[conversion.conversion_interaction_id] = {
                    model.model: [credit.campaign_id for credit in model.credits] for model in conversion.models
                }
    return found
