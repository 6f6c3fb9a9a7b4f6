"""An HTTP client for the life of a context; apart, because commands that only ask start with it."""

import contextlib
from collections.abc import AsyncIterator

from propeller.http.client import AiohttpHttp


@contextlib.asynccontextmanager
async def http_client() -> AsyncIterator[AiohttpHttp]:
    """A client for the life of the context."""
    http = AiohttpHttp()
    try:
        yield http
    finally:
        await http.close()
