"""The embedded sandbox as a transport: opened at the first request, its database errors named as the journal's are."""

from pathlib import Path

import httpx

from agent.database import named
from agent.sandbox.api import SandboxTransport, create_app


class Embedded(httpx.AsyncBaseTransport):
    """Each request raises DatabaseError for a file that can't be used, so that the doctor can go on past it."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._inner: SandboxTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with named(self._database):
            if self._inner is None:
                self._inner = SandboxTransport(create_app(self._database))
            return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        if self._inner is not None:
            await self._inner.aclose()
