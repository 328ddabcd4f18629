"""`throughline.identity.v1.IdentityService`: each call translated in, decided or answered, translated out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import grpc.aio

from identity.application.commands import (
    Cancelled,
    Command,
    Consented,
    Decision,
    Decisions,
    Merged,
    Outcome,
    Published,
    RetentionPublished,
    Undone,
)
from identity.application.forgetting import Forgetting
from identity.application.messages import retention_message, rules_message
from identity.application.queries import Explanation, Queries
from identity.application.retention import retention_in_force
from identity.application.rulebook import HashIdentifier, Rulebook
from identity.domain.personas import OrderKey
from identity.domain.refusals import invalid
from identity.entrypoints import requests, responses
from identity.entrypoints.tokens import Asked, page_token, read_page_token
from throughline.identity.v1 import events_pb2, identity_pb2_grpc
from throughline.identity.v1 import identity_pb2 as pb
from throughline_eventlog import Reader, Store, Writer
from throughline_kernel import Interval, Recorded
from throughline_rpc import Hosted
from throughline_telemetry import current_traceparent

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Certify: TypeAlias = Callable[[str, Sequence[tuple[Recorded, events_pb2.ClientForgotten]]], str]
R = TypeVar("R")
O = TypeVar("O", bound=Outcome)  # noqa: E741 -- an outcome


def hosted(servicer: IdentityServicer) -> Hosted[IdentityServicer]:
    """The servicer, ready to be hosted."""
    return Hosted(
        pb.DESCRIPTOR.services_by_name["IdentityService"].full_name,
        identity_pb2_grpc.add_IdentityServiceServicer_to_server,
        servicer,
    )


class IdentityServicer(identity_pb2_grpc.IdentityServiceServicer):
    """Serves identity. Reads run in threads, each on one consistent view."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        rulebook: Rulebook,
        hash_identifier: HashIdentifier,
        *,
        decisions: Decisions,
        forgetting: Forgetting,
        certify: Certify,
    ) -> None:
        self._store = store
        self._writer = writer
        self._rulebook = rulebook
        self._hash = hash_identifier
        self._decisions = decisions
        self._forgetting = forgetting
        self._certify = certify

    async def ResolveClient(  # noqa: N802 -- named by the contract
        self, request: pb.ResolveClientRequest, context: Context
    ) -> pb.ResolveClientResponse:
        """The client that an id, or the identifier that speaks first, means now."""
        if bool(request.client_id) == bool(request.identifiers):
            raise invalid("client_id", "an id or identifiers, not both", "give one of the two")
        as_of = requests.instant(request.as_of)
        client_id = requests.hex_bytes("client_id", request.client_id) if request.client_id else b""
        clear = requests.identifiers("identifiers", request.identifiers)
        hashes = [(type_, self._hash(type_, value)) for type_, value in clear]

        def read(reader: Reader) -> pb.ResolveClientResponse:
            queries = Queries(reader, as_of)
            if client_id:
                resolved = queries.resolve_id(client_id)
            else:
                resolved = queries.resolve_identifiers(hashes, self._rulebook.at(reader, as_of))
            commit = queries.commit
            return pb.ResolveClientResponse(
                client_id=resolved.client_id.hex(),
                other_client_ids=[each.hex() for each in resolved.others],
                known_person=resolved.known_person,
                as_of=commit.recorded_at,
                position=commit.position,
            )

        return await self._read(read)

    async def GetClient(  # noqa: N802 -- named by the contract
        self, request: pb.GetClientRequest, context: Context
    ) -> pb.GetClientResponse:
        """One client, with the commit that the answer stands on."""
        client_id = requests.hex_bytes("client_id", request.client_id)
        as_of = requests.instant(request.as_of)

        def read(reader: Reader) -> pb.GetClientResponse:
            queries = Queries(reader, as_of)
            view, commit = queries.client(client_id), queries.commit
            version = self._rulebook.at(reader, as_of).version
            return pb.GetClientResponse(
                client=responses.client(view, version),
                position=commit.position,
                as_of=commit.recorded_at,
            )

        return await self._read(read)

    async def ExplainLink(  # noqa: N802 -- named by the contract
        self, request: pb.ExplainLinkRequest, context: Context
    ) -> pb.ExplainLinkResponse:
        """The events and the rules behind a link."""
        if bool(request.interaction_id) == request.HasField("identifier"):
            raise invalid("interaction_id", "an interaction or an identifier, not both", "give one of the two")
        as_of = requests.instant(request.as_of)
        explain: Callable[[Queries], Explanation]
        if request.interaction_id:
            interaction_id = requests.hex_bytes("interaction_id", request.interaction_id)
            explain = lambda queries: queries.explain_interaction(interaction_id)  # noqa: E731 -- one of two questions
        else:
            type_, value = requests.identifiers("identifier", [request.identifier])[0]
            key = self._hash(type_, value)
            explain = lambda queries: queries.explain_identifier(key)  # noqa: E731 -- the other

        def read(reader: Reader) -> pb.ExplainLinkResponse:
            queries = Queries(reader, as_of)
            return responses.explanation(explain(queries), queries.commit)

        return await self._read(read)

    async def ListClientInteractions(  # noqa: N802 -- named by the contract
        self, request: pb.ListClientInteractionsRequest, context: Context
    ) -> pb.ListClientInteractionsResponse:
        """A page of the client's interactions in canonical order."""
        client_id = requests.hex_bytes("client_id", request.client_id)
        size = requests.page_size(request.page_size)
        between = Interval.between(request.between.start, request.between.end)
        asked = Asked(requests.instant(request.as_of), between)
        as_of, after = read_page_token(request.page_token, asked, OrderKey)

        def read(reader: Reader) -> pb.ListClientInteractionsResponse:
            queries = Queries(reader, as_of)
            found, commit = queries.interactions(client_id, between, after, size + 1), queries.commit
            keys = found[:size]
            return pb.ListClientInteractionsResponse(
                interaction_ids=[key.interaction_id.hex() for key in keys],
                next_page_token=page_token(asked, commit.recorded_at, keys[-1]) if len(found) > size else "",
                as_of=commit.recorded_at,
                position=commit.position,
            )

        return await self._read(read)

    async def MergeClients(  # noqa: N802 -- named by the contract
        self, request: pb.MergeClientsRequest, context: Context
    ) -> pb.MergeClientsResponse:
        """Makes two clients one, every re-attribution in the same transaction."""
        decision, merged = await self._decide(requests.merge_clients(request, current_traceparent()), Merged)
        return pb.MergeClientsResponse(
            merge_id=merged.merge_id.hex(),
            client_id=merged.client_id.hex(),
            position=decision.position,
            reattributed=merged.reattributed,
        )

    async def UndoMerge(  # noqa: N802 -- named by the contract
        self, request: pb.UndoMergeRequest, context: Context
    ) -> pb.UndoMergeResponse:
        """Undoes a merge."""
        decision, undone = await self._decide(requests.undo_merge(request, current_traceparent()), Undone)
        return pb.UndoMergeResponse(
            client_id=undone.client_id.hex(),
            restored_client_id=undone.restored_client_id.hex(),
            position=decision.position,
            reattributed=undone.reattributed,
        )

    async def ListProposals(  # noqa: N802 -- named by the contract
        self, request: pb.ListProposalsRequest, context: Context
    ) -> pb.ListProposalsResponse:
        """A page of the merges that wait for a person."""
        size = requests.page_size(request.page_size)
        asked = Asked(requests.instant(request.as_of))
        as_of, after = read_page_token(request.page_token, asked, bytes)

        def read(reader: Reader) -> pb.ListProposalsResponse:
            queries = Queries(reader, as_of)
            found, commit = queries.proposals(after or b"", size + 1), queries.commit
            rows = found[:size]
            return pb.ListProposalsResponse(
                proposals=[responses.proposal(merge_id, row) for merge_id, row in rows],
                next_page_token=page_token(asked, commit.recorded_at, rows[-1][0]) if len(found) > size else "",
                as_of=commit.recorded_at,
                position=commit.position,
            )

        return await self._read(read)

    async def RecordConsent(  # noqa: N802 -- named by the contract
        self, request: pb.RecordConsentRequest, context: Context
    ) -> pb.RecordConsentResponse:
        """Notes what the client said about a purpose."""
        decision, _ = await self._decide(requests.record_consent(request, current_traceparent()), Consented)
        return pb.RecordConsentResponse(position=decision.position)

    async def ForgetClient(  # noqa: N802 -- named by the contract
        self, request: pb.ForgetClientRequest, context: Context
    ) -> pb.ForgetClientResponse:
        """Forgets the client at once or later, or tells what would go."""
        command = requests.forget_client(request, current_traceparent())
        return responses.forgotten(*await self._forgetting.forget(command))

    async def CancelForgetting(  # noqa: N802 -- named by the contract
        self, request: pb.CancelForgettingRequest, context: Context
    ) -> pb.CancelForgettingResponse:
        """Takes back a forgetting whose time has not come."""
        decision, _ = await self._decide(requests.cancel_forgetting(request, current_traceparent()), Cancelled)
        return pb.CancelForgettingResponse(position=decision.position)

    async def ListForgettings(  # noqa: N802 -- named by the contract
        self, request: pb.ListForgettingsRequest, context: Context
    ) -> pb.ListForgettingsResponse:
        """A page of those who are to be forgotten, or are."""
        size = requests.page_size(request.page_size)
        asked = Asked(requests.instant(request.as_of))
        as_of, place = read_page_token(request.page_token, asked, bytes)
        after, done = place or b"", request.done

        def read(reader: Reader) -> pb.ListForgettingsResponse:
            queries = Queries(reader, as_of)
            commit = queries.commit
            found = (
                responses.done(queries.forgettings(after, size + 1))
                if done
                else responses.scheduled(queries.scheduled(after, size + 1))
            )
            last = bytes.fromhex(found[size - 1].client_id) if len(found) > size else b""
            return pb.ListForgettingsResponse(
                forgettings=found[:size],
                next_page_token=page_token(asked, commit.recorded_at, last) if last else "",
                as_of=commit.recorded_at,
                position=commit.position,
            )

        return await self._read(read)

    async def GetForgettingCertificate(  # noqa: N802 -- named by the contract
        self, request: pb.GetForgettingCertificateRequest, context: Context
    ) -> pb.GetForgettingCertificateResponse:
        """The signed word that a client was forgotten."""
        events = await self._forgetting.certify(requests.hex_bytes("client_id", request.client_id))
        return pb.GetForgettingCertificateResponse(certificate=self._certify(request.client_id, events))

    async def GetRules(  # noqa: N802 -- named by the contract
        self, request: pb.GetRulesRequest, context: Context
    ) -> pb.GetRulesResponse:
        """The rules in force."""
        as_of = requests.instant(request.as_of)
        rules = await self._read(lambda reader: self._rulebook.at(reader, as_of).rule_set)
        return pb.GetRulesResponse(rules=rules_message(rules))

    async def PublishRules(  # noqa: N802 -- named by the contract
        self, request: pb.PublishRulesRequest, context: Context
    ) -> pb.PublishRulesResponse:
        """Puts rules into force and decides all history again under them."""
        _, published = await self._decide(requests.publish_rules(request, current_traceparent()), Published)
        return pb.PublishRulesResponse(version=published.version, reattributed=published.reattributed)

    async def GetRetentionRules(  # noqa: N802 -- named by the contract
        self, request: pb.GetRetentionRulesRequest, context: Context
    ) -> pb.GetRetentionRulesResponse:
        """The rules of retention in force."""
        as_of = requests.instant(request.as_of)
        rules = await self._read(lambda reader: retention_in_force(reader, as_of))
        return pb.GetRetentionRulesResponse(rules=retention_message(rules))

    async def PublishRetentionRules(  # noqa: N802 -- named by the contract
        self, request: pb.PublishRetentionRulesRequest, context: Context
    ) -> pb.PublishRetentionRulesResponse:
        """Puts rules of retention into force, or tells who would be forgotten by them."""
        command = requests.publish_retention(request, current_traceparent())
        if request.dry_run:
            return responses.tried(*await self._forgetting.try_retention(command.rules))
        _, published = await self._decide(command, RetentionPublished)
        return pb.PublishRetentionRulesResponse(version=published.version)

    async def _decide(self, command: Command, kind: type[O]) -> tuple[Decision, O]:
        """Each command has its own kind of outcome, which the caller names."""
        decision = await self._writer.submit(self._decisions, command, traceparent=command.traceparent)
        return decision, cast("O", decision.outcome)

    async def _read(self, work: Callable[[Reader], R]) -> R:
        def read() -> R:
            with self._store.snapshot() as reader:
                return work(reader)

        return await asyncio.to_thread(read)
