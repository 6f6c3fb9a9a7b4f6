"""The embedded registry over given storage, with a clock that a test sets."""

from random import SystemRandom

from propeller.http.memory import MemoryHttp
from propeller.images.digest import digest_of
from propeller.images.registry.app import RegistryApp
from propeller.ports import Instant

ORIGIN = "http://registry:5000"


class SetClock:
    """A clock that a test sets."""

    now_s = 1000.0

    def now(self):
        """What the test said."""
        return Instant(self.now_s, 1e9 + self.now_s)


class Started:
    """A registry over given storage, as after a start of the process."""

    def __init__(self, blobs, index):
        self.clock = SetClock()
        self.app = RegistryApp(blobs, index, self.clock, SystemRandom())
        self.http = MemoryHttp()
        self.http.register(ORIGIN, self.app)

    async def __call__(self, method, path, body=b"", **headers):
        """One request."""
        return await self.http.request(method, ORIGIN + path, body=body, headers=headers)

    async def push(self, content, repo="a"):
        """A blob in one POST."""
        return await self("POST", f"/v2/{repo}/blobs/uploads/?digest={digest_of(content)}", content)
