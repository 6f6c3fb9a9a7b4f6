"""The SDK: what a program says to a running system, by `AsyncClient` or, without an event loop, `Client`.

    from propeller.client import Client

    with Client() as propeller:
        task = propeller.tasks.create(TaskBody(name="add", image_url="localhost:5000/add:latest"))
        propeller.tasks.start(task.id)

Results are the structs of `propeller.wire`; whatever goes wrong is one of `propeller.errors`, with the
server's own message. It must not know how any role works inside.
"""

from propeller.client.blocking import Client
from propeller.client.client import AsyncClient, Endpoints

__all__ = ["AsyncClient", "Client", "Endpoints"]
