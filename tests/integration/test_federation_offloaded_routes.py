"""Every route that decodes a large body, does arithmetic or prints a model does it off the loop."""

from federation_world import Services
from propeller import limits

MODEL = {"w": [0.123456] * (limits.OFFLOAD_INLINE_BYTES // 7), "b": 0}


async def test_all_work_on_content_is_offloaded():
    """The routes hand over bytes and get bytes: named here, so that a new one is added knowingly."""
    jobs = []

    async def recording(work, /, *args, **kwargs):
        jobs.append(work.__name__)
        return work(*args, **kwargs)

    services = Services(offload=recording)
    updates = {"updates": [{"num_samples": 1, "update": MODEL}]}
    asked = [
        ("POST", "http://aggregator/aggregate", updates),
        ("POST", "http://registry/models", {"model": MODEL}),
        ("GET", "http://registry/models/0", None),
        ("POST", "http://data/datasets/p1", {"data": [{"x": [1], "y": 0}] * 5}),
        ("GET", "http://data/datasets/p1?part=train", None),
    ]
    for method, url, body in asked:
        status, _ = await services.ask(method, url, body)
        assert status in {200, 201}
    assert jobs == ["fold", "propose", "render", "accept", "part"]
