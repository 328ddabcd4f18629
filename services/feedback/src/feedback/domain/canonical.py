"""A client's feedback as one JSON value, so that live state and replay can be compared to the last byte."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from feedback.domain.cases import Case
from feedback.domain.items import Item


def client_state(
    client_id: str, items: Iterable[tuple[Item, Mapping[str, Any], tuple[str, ...]]], cases: Iterable[Case]
) -> dict[str, Any]:
    """The client's items (with their facts as JSON, and the case of each assignment) and cases; nothing that
    hangs on the order of arrival.
    """
    return {
        "client_id": client_id,
        "items": {
            item.feedback_id: {
                **facts,
                "assignments": [
                    [each.department, each.topic, each.route, each.because, case_id]
                    for each, case_id in zip(item.assignments, places, strict=True)
                ],
                "routes_version": item.routes_version,
            }
            for item, facts, places in items
        },
        "cases": {case.case_id: case_state(case) for case in cases},
    }


def case_state(case: Case) -> dict[str, Any]:
    """A case as JSON."""
    return {
        "matter": list(case.matter),
        "opened_by": case.opened_by,
        "channel": case.channel,
        "opened_at": case.opened_at,
        "department": case.department,
        "state": case.state.name,
        "acknowledge_by": case.acknowledge_by,
        "resolve_by": case.resolve_by,
        "items": case.items,
        "acknowledged": [case.acknowledged_by, case.acknowledged_at],
        "resolved": [case.resolved_by, case.resolved_at, case.resolution, case.root_cause],
        "reopened": case.reopened,
        "reopened_by": case.reopened_by,
        "missed": [case.missed_acknowledge, case.missed_resolve],
    }
