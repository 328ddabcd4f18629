"""Identity: who is who, why, and how to put it right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from throughline.identity.v1 import identity_pb2, identity_pb2_grpc, rules_pb2
from throughline.ingestion.v1 import interaction_pb2
from throughline_client.sdk.calling import call, interval_message, pages
from throughline_kernel import ALWAYS, Interval


class IdentityClient:
    """Calls identity. Every method raises RemoteRefusal where the call fails."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = identity_pb2_grpc.IdentityServiceStub(channel)

    async def resolve(
        self, client_id: str = "", *, identifiers: Sequence[interaction_pb2.Identifier] = (), as_of: int = 0
    ) -> identity_pb2.ResolveClientResponse:
        """The client that an id, an alias or identifiers mean now, or meant at `as_of` (microseconds)."""
        request = identity_pb2.ResolveClientRequest(client_id=client_id, identifiers=identifiers, as_of=as_of)
        return await call(self.stub.ResolveClient, request)

    async def client(self, client_id: str, *, as_of: int = 0) -> identity_pb2.Client:
        """One client: aliases, identifiers (hashed), merges, proposals, consents; as it was at `as_of` (microseconds,
        0: now).
        """
        return (await self.client_known(client_id, as_of=as_of)).client

    async def client_known(self, client_id: str, *, as_of: int = 0) -> identity_pb2.GetClientResponse:
        """As `client`, with the instant that the answer stands on."""
        return await call(self.stub.GetClient, identity_pb2.GetClientRequest(client_id=client_id, as_of=as_of))

    async def explain(
        self, *, interaction_id: str = "", identifier: interaction_pb2.Identifier | None = None, as_of: int = 0
    ) -> identity_pb2.ExplainLinkResponse:
        """Why an interaction or an identifier belongs to its client, or did at `as_of` (microseconds)."""
        request = identity_pb2.ExplainLinkRequest(interaction_id=interaction_id, identifier=identifier, as_of=as_of)
        return await call(self.stub.ExplainLink, request)

    def interactions(
        self, client_id: str, page_size: int = 500, *, as_of: int = 0, between: Interval = ALWAYS
    ) -> AsyncIterator[str]:
        """The ids of a client's interactions, oldest first: as known at `as_of` (microseconds, 0: now), and what of
        them happened in an interval.
        """

        async def fetch(token: str) -> tuple[list[str], str]:
            request = identity_pb2.ListClientInteractionsRequest(
                client_id=client_id,
                page_size=page_size,
                page_token=token,
                as_of=as_of,
                between=interval_message(between),
            )
            page = await call(self.stub.ListClientInteractions, request)
            return list(page.interaction_ids), page.next_page_token

        return pages(fetch)

    async def merge(
        self, client_id: str, other_client_id: str, *, decided_by: str, reason: str
    ) -> identity_pb2.MergeClientsResponse:
        """Makes two clients one by decision of a person; nothing retries it, since it is not known to be repeatable."""
        request = identity_pb2.MergeClientsRequest(
            client_id=client_id, other_client_id=other_client_id, decided_by=decided_by, reason=reason
        )
        return await call(self.stub.MergeClients, request)

    async def undo_merge(self, merge_id: str, *, decided_by: str, reason: str) -> identity_pb2.UndoMergeResponse:
        """Undoes a merge, in any order."""
        request = identity_pb2.UndoMergeRequest(merge_id=merge_id, decided_by=decided_by, reason=reason)
        return await call(self.stub.UndoMerge, request)

    def proposals(self, page_size: int = 500, *, as_of: int = 0) -> AsyncIterator[identity_pb2.Proposal]:
        """Merges that wait for a person's decision, or did at `as_of` (microseconds)."""

        async def fetch(token: str) -> tuple[list[identity_pb2.Proposal], str]:
            request = identity_pb2.ListProposalsRequest(page_size=page_size, page_token=token, as_of=as_of)
            page = await call(self.stub.ListProposals, request)
            return list(page.proposals), page.next_page_token

        return pages(fetch)

    async def record_consent(
        self, client_id: str, purpose: str, *, granted: bool, source: str, scope: str = "", at: int = 0
    ) -> identity_pb2.RecordConsentResponse:
        """Records that a client gave or withdrew a consent, for the channel `scope` or for all, at `at` (microseconds,
        0: now).
        """
        request = identity_pb2.RecordConsentRequest(
            client_id=client_id, purpose=purpose, granted=granted, source=source, scope=scope, at=at
        )
        return await call(self.stub.RecordConsent, request)

    async def forget(
        self, client_id: str, *, decided_by: str, reason: str, grace: int = 0, dry_run: bool = False
    ) -> identity_pb2.ForgetClientResponse:
        """Destroys the client's keys, once `grace` microseconds are over; with `dry_run` tells what would go."""
        request = identity_pb2.ForgetClientRequest(
            client_id=client_id, decided_by=decided_by, reason=reason, grace=grace, dry_run=dry_run
        )
        return await call(self.stub.ForgetClient, request)

    async def cancel_forgetting(
        self, client_id: str, *, decided_by: str, reason: str
    ) -> identity_pb2.CancelForgettingResponse:
        """Takes back a forgetting whose grace time is not over."""
        request = identity_pb2.CancelForgettingRequest(client_id=client_id, decided_by=decided_by, reason=reason)
        return await call(self.stub.CancelForgetting, request)

    def forgettings(
        self, *, done: bool = False, page_size: int = 500, as_of: int = 0
    ) -> AsyncIterator[identity_pb2.Forgetting]:
        """Those who are to be forgotten; with `done` those who are; as it was at `as_of` (microseconds, 0: now)."""

        async def fetch(token: str) -> tuple[list[identity_pb2.Forgetting], str]:
            request = identity_pb2.ListForgettingsRequest(page_size=page_size, page_token=token, done=done, as_of=as_of)
            page = await call(self.stub.ListForgettings, request)
            return list(page.forgettings), page.next_page_token

        return pages(fetch)

    async def certificate(self, client_id: str) -> str:
        """The signed note that a client was forgotten, and none of their keys is left."""
        request = identity_pb2.GetForgettingCertificateRequest(client_id=client_id)
        return (await call(self.stub.GetForgettingCertificate, request)).certificate

    async def rules(self, *, as_of: int = 0) -> rules_pb2.RuleSet:
        """The rules by which identity decides now, or did at `as_of` (microseconds)."""
        return (await call(self.stub.GetRules, identity_pb2.GetRulesRequest(as_of=as_of))).rules

    async def publish_rules(self, rules: rules_pb2.RuleSet, *, published_by: str) -> identity_pb2.PublishRulesResponse:
        """Publishes rules; all history is decided again under them."""
        request = identity_pb2.PublishRulesRequest(rules=rules, published_by=published_by)
        return await call(self.stub.PublishRules, request, timeout=None)

    async def retention_rules(self, *, as_of: int = 0) -> rules_pb2.RetentionRules:
        """The rules by which clients are over now, or were at `as_of` (microseconds)."""
        return (await call(self.stub.GetRetentionRules, identity_pb2.GetRetentionRulesRequest(as_of=as_of))).rules

    async def publish_retention_rules(
        self, rules: rules_pb2.RetentionRules, *, published_by: str, dry_run: bool = False
    ) -> identity_pb2.PublishRetentionRulesResponse:
        """Publishes all rules of retention anew; with `dry_run` tells who would be forgotten by them now."""
        request = identity_pb2.PublishRetentionRulesRequest(rules=rules, published_by=published_by, dry_run=dry_run)
        return await call(self.stub.PublishRetentionRules, request, timeout=None)
