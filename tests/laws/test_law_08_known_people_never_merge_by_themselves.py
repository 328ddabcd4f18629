"""Law 8: two known people never merge by themselves, and every merge can be undone in any order."""

from __future__ import annotations

import pytest
from line import DAY, START, Line, identifier, interaction

from throughline.identity.v1 import identity_pb2

pytestmark = pytest.mark.e2e


async def resolve(line: Line, kind: str, value: str) -> str:
    """The client that an identifier means now."""
    answer = await line.identity.ResolveClient(identity_pb2.ResolveClientRequest(identifiers=[identifier(kind, value)]))
    return answer.client_id


async def test_law_08_known_people_never_merge_by_themselves(line: Line) -> None:
    """Two cards seen with one verified phone stay two people; somebody is asked."""
    phone = identifier("phone", "+4915112345678")
    await line.record(
        [
            interaction(1, identifier("loyalty_card", "9200000001"), phone),
            interaction(2, identifier("loyalty_card", "9200000002"), phone, at=START + DAY),
        ]
    )
    await line.settled()
    one, other = await resolve(line, "loyalty_card", "9200000001"), await resolve(line, "loyalty_card", "9200000002")
    assert one != other
    proposals = await line.identity.ListProposals(identity_pb2.ListProposalsRequest())
    assert {(each.client_id, each.other_client_id) for each in proposals.proposals} & {(one, other), (other, one)}


async def test_every_merge_can_be_undone_in_any_order(line: Line) -> None:
    """Three people merged one after the other and undone first-merged-first: every service is where it was before."""
    await line.record(
        [
            interaction(f"{card}-{visit}", identifier("loyalty_card", f"920000000{card}"), at=START + visit * DAY)
            for card in range(3)
            for visit in range(4)
        ]
    )
    before = await line.digests()
    ids = [await resolve(line, "loyalty_card", f"920000000{card}") for card in range(3)]
    assert len(set(ids)) == 3
    merges = [
        (
            await line.identity.MergeClients(
                identity_pb2.MergeClientsRequest(
                    client_id=ids[0], other_client_id=other, decided_by="test", reason="the same household"
                )
            )
        ).merge_id
        for other in ids[1:]
    ]
    merged = await line.digests()
    assert len({await resolve(line, "loyalty_card", f"920000000{card}") for card in range(3)}) == 1
    assert merged["journey"] != before["journey"]

    for merge_id in merges:
        await line.identity.UndoMerge(
            identity_pb2.UndoMergeRequest(merge_id=merge_id, decided_by="test", reason="they said no")
        )
    after = await line.digests()
    assert [await resolve(line, "loyalty_card", f"920000000{card}") for card in range(3)] == ids
    for service in ("journey", "feedback", "scoring"):
        assert after[service] == before[service], service
