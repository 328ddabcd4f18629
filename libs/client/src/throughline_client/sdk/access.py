"""Who read whose data, when, and for what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from throughline.accesslog.v1 import accesslog_pb2, accesslog_pb2_grpc
from throughline_client.sdk.calling import call, pages

IDS_AT_ONCE = 1_000
"""What one question names at most."""


class AccessLogClient:
    """Reads one service's access log. Every method raises RemoteRefusal where the call fails."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = accesslog_pb2_grpc.AccessLogServiceStub(channel)

    def entries(self, ids: Sequence[str] = (), page_size: int = 500) -> AsyncIterator[accesslog_pb2.AccessEntry]:
        """The reads of these (at most 1,000 ids; none: of all), oldest first."""

        async def fetch(token: str) -> tuple[list[accesslog_pb2.AccessEntry], str]:
            request = accesslog_pb2.ListAccessRequest(ids=ids, page_size=page_size, page_token=token)
            page = await call(self.stub.ListAccess, request)
            return list(page.entries), page.next_page_token

        return pages(fetch)
