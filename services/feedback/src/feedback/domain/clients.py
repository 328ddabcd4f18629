"""All feedback of one client (or of one item that nobody is known to have given)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from feedback.domain.cases import Act, Case, Entry, Matter, Policies, Step, act_order
from feedback.domain.items import Item, Order


@dataclass(slots=True)
class ClientFeedback:
    """Items, acts and the cases that follow. Not thread-safe; changed by one writer.

    `weight` counts what is held. `version` is the last version of its stream.
    """

    client_id: str
    policies: Policies
    version: int = 0
    items: dict[str, Item] = field(default_factory=dict[str, Item])
    acts: dict[str, Act] = field(default_factory=dict[str, Act])
    matters: dict[tuple[str, str], Matter] = field(default_factory=dict[tuple[str, str], Matter])
    _changed: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    @property
    def weight(self) -> int:
        """Roughly what it costs to hold it."""
        return 1 + len(self.items) + len(self.acts)

    @classmethod
    def restored(
        cls, client_id: str, policies: Policies, version: int, items: Iterable[Item], acts: Iterable[Act]
    ) -> ClientFeedback:
        """The state that these facts give, in whatever order they are listed."""
        client = cls(client_id, policies, version)
        entries: dict[tuple[str, str], list[Entry]] = {}
        for item in items:
            client.items[item.feedback_id] = item
            for matter in _matters(item):
                entries.setdefault(matter, []).append((item.order, item))
        for act in acts:
            client.acts[act.act_id] = act
            anchor = client.items.get(act.anchor)
            if anchor is not None and act.matter in entries:
                entries[act.matter].append((act_order(act, anchor), act))
        for matter, listed in entries.items():
            client.matters[matter] = Matter(client_id, matter, policies)
            client.matters[matter].restore(listed)
        return client

    def add_item(self, item: Item, acts: Iterable[Act] = ()) -> list[Step]:
        """Takes an item, with the acts anchored to it; says at once what follows where it came in order."""
        self.items[item.feedback_id] = item
        steps = [self._add(matter, item.order, item) for matter in _matters(item)]
        steps.extend(self.add_act(act) for act in acts)
        return [step for step in steps if step is not None]

    def add_act(self, act: Act) -> Step | None:
        """Takes an act; says at once what follows where it came in order. A known act is no news."""
        if act.act_id in self.acts:
            return None
        self.acts[act.act_id] = act
        return self._add(act.matter, act_order(act, self.items[act.anchor]), act)

    def remove_item(self, feedback_id: str) -> tuple[Item, list[Act]]:
        """Gives the item up, with the acts anchored to it, in one order whether they were at hand or had to be read."""
        item = self.items.pop(feedback_id)
        acts = [act for act in self.acts.values() if act.anchor == feedback_id]
        acts.sort(key=lambda act: (act.at, act.act_id))
        gone = frozenset({feedback_id, *(act.act_id for act in acts)})
        for act in acts:
            del self.acts[act.act_id]
        for matter in _matters(item):
            self.matters[matter].remove(gone)
            self._changed.add(matter)
        return item, acts

    def settle(self, at: int) -> list[Step]:
        """What has to be told of the matters that changed out of order."""
        told: list[Step] = []
        for key in sorted(self._changed):
            matter = self.matters[key]
            told.extend(matter.settle(at))
            if not matter.entries:
                del self.matters[key]
        self._changed.clear()
        return told

    @property
    def changed(self) -> bool:
        """Whether something has to be settled."""
        return bool(self._changed)

    def case_of(self, feedback_id: str, matter: tuple[str, str]) -> str:
        """The case an item is in for one department and topic, empty where in none."""
        found = self.matters.get(matter)
        return found.course.place.get(feedback_id, "") if found else ""

    def cases(self) -> Iterator[Case]:
        """Every case that stands."""
        for matter in self.matters.values():
            yield from matter.course.cases.values()

    def case(self, case_id: str, matter: tuple[str, str]) -> Case | None:
        """One case that stands."""
        found = self.matters.get(matter)
        return found.course.cases.get(case_id) if found else None

    def latest(self, matter: tuple[str, str]) -> int:
        """When the last thing of a matter was, 0 where there is none."""
        found = self.matters.get(matter)
        return found.entries[-1][0][0] if found and found.entries else 0

    def last_act_at(self) -> int:
        """When the last act was, 0 where none: the next one comes after it."""
        return max((act.at for act in self.acts.values()), default=0)

    def _add(self, key: tuple[str, str], order: Order, entry: Item | Act) -> Step | None:
        matter = self.matters.get(key)
        if matter is None:
            matter = self.matters[key] = Matter(self.client_id, key, self.policies)
        step = matter.add(order, entry)
        if matter.changed:
            self._changed.add(key)
        return step


def _matters(item: Item) -> Iterator[tuple[str, str]]:
    """The matters an item stands in: those of its assignments that open cases."""
    return ((each.department, each.topic) for each in item.assignments if each.opens)
