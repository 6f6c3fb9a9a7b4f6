"""Aggregation by reference: where files may lie, what they may be, and the same bits for any order."""

import json

import numpy as np
import pytest

from federation_world import Services
from propeller.federation.aggregator import app as aggregator
from propeller.federation.aggregator.by_reference import Reach
from propeller.federation.offload import inline
from propeller.fl.aggregation import aggregate
from propeller.fl.strategies.base import Contribution
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensors import Tensors, from_safetensors, to_safetensors

KIND = {"content-type": "application/vnd.propeller.aggregate+json"}


def models(count=3, size=300_000):
    """Updates of two dtypes, one tensor of them larger than a block."""
    random = np.random.default_rng(4)
    return [
        Tensors({"w": random.normal(size=size).astype("f4"), "b": random.normal(size=3)})
        for _ in range(count)
    ]


class Disk:
    """A folder of update files, and an aggregator that may read it."""

    def __init__(self, folder, threads=2):
        self.folder = folder / "shared"
        self.folder.mkdir()
        self.services = Services()
        reach = Reach(roots=(self.folder,), origins=("http://registry",), http=self.services.http)
        self.services.http.register(
            "http://aggregator", aggregator.build(offload=inline, reach=reach, threads=threads)
        )

    def source(self, number, content, **more):
        """A reference to `content` as update `number`."""
        path = self.folder / f"{number}.safetensors"
        path.write_bytes(content)
        said = {
            "url": path.as_uri(),
            "bytes": len(content),
            "participant": f"p{number}",
            "samples": number + 1,
        }
        return {**said, **more}

    async def fold(self, updates, **more):
        """The answer to an aggregation of references."""
        body = json.dumps({"updates": updates, **more}).encode()
        return await self.services.raw("POST", "http://aggregator/aggregate", body, **KIND)


@pytest.fixture
def disk(tmp_path):
    """One of them."""
    return Disk(tmp_path)


@pytest.mark.parametrize("name", ["fedavg", "median", "krum"])
async def test_files_fold_as_arrays_do(disk, name):
    """For any order, whatever the strategy needs: bit for bit what it makes of the same tensors in memory."""
    sent = models(5)
    expected = aggregate(
        strategy(name),
        [Contribution(participant=f"p{n}", samples=n + 1, tensors=one) for n, one in enumerate(sent)],
    ).model
    sources = [disk.source(number, to_safetensors(one)) for number, one in enumerate(sent)]
    for order in (sources, sources[::-1]):
        answer = await disk.fold(order, strategy=name)
        assert answer.status == 200, answer.body
        assert answer.body == to_safetensors(expected)


async def test_state_follows_the_model(disk):
    """Two files in one answer, the first one's size in a header; the base is fetched from a service."""
    base, *sent = models(3)
    posted = await disk.services.raw(
        "POST",
        "http://registry/models?name=m",
        to_safetensors(base),
        **{"content-type": "application/vnd.safetensors"},
    )
    assert posted.status == 201
    sources = [disk.source(number, to_safetensors(one)) for number, one in enumerate(sent)]
    where = {"url": "http://registry/models/m/versions/0", "bytes": len(to_safetensors(base))}
    answer = await disk.fold(sources, strategy="fedavgm", base=where)
    assert answer.status == 200, answer.body
    cut = int(answer.headers["x-model-bytes"])
    model, state = (from_safetensors(part, "x") for part in (answer.body[:cut], answer.body[cut:]))
    assert set(state) == {"momentum/b", "momentum/w"}
    np.testing.assert_allclose(model["b"], (sent[0]["b"] + 2 * sent[1]["b"]) / 3, rtol=1e-12)
    np.testing.assert_allclose(state["momentum/b"], model["b"] - base["b"], rtol=1e-12)


async def test_files_outside_its_folders_are_denied(disk, tmp_path):
    """By any spelling: another folder, dots, a link that leads out, another host, another service."""
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(to_safetensors(models(1)[0]))
    (disk.folder / "link").symlink_to(secret)
    size = secret.stat().st_size
    for url in (
        secret.as_uri(),
        f"file://{disk.folder}/../secret.safetensors",
        f"file://{disk.folder}/link",
        f"file://{disk.folder}/%2e%2e/secret.safetensors",
        f"file://elsewhere{secret}",
        "http://elsewhere/x",
        "ftp://registry/x",
        "nonsense",
    ):
        answer = await disk.fold([{"url": url, "bytes": size, "participant": "p", "samples": 1}])
        assert answer.status == 403, url


async def test_bad_references_are_refused_with_their_name(disk):
    """Each by the participant at fault."""
    good = to_safetensors(models(1)[0])
    other = to_safetensors(Tensors({"w": np.zeros(2, "f4")}))
    missing = disk.source(7, good)
    (disk.folder / "7.safetensors").unlink()
    cases = [
        ([missing], 404, "p7"),
        ([disk.source(1, good, bytes=9)], 400, "not 9"),
        ([disk.source(2, b"")], 400, "p2"),
        ([disk.source(3, b"x" * 40)], 413, "p3"),
        ([disk.source(1, good, samples=0)], 400, "p1"),
        ([disk.source(1, good), disk.source(4, other)], 400, "p4"),
        ([disk.source(1, good), disk.source(5, good, participant="p1")], 400, "of its own"),
        ([disk.source(1, good, format="zip")], 400, "format"),
        ([disk.source(1, good, bytes=1 << 40)], 400, "limit"),
        ([], 400, "empty list"),
    ]
    for updates, status, says in cases:
        answer = await disk.fold(updates)
        assert answer.status == status, (answer.status, answer.body)
        assert says in json.loads(answer.body)["error"]


async def test_downloads_are_verified_and_leave_nothing(disk, tmp_path):
    """A file that is not what was announced is refused; scratch is empty afterwards."""
    content = to_safetensors(models(1)[0])
    await disk.services.raw(
        "POST",
        "http://registry/models?name=m",
        content,
        **{"content-type": "application/vnd.safetensors"},
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    reach = Reach(origins=("http://registry",), http=disk.services.http, scratch=scratch)
    disk.services.http.register("http://aggregator", aggregator.build(offload=inline, reach=reach))
    source = {
        "url": "http://registry/models/m/versions/0",
        "bytes": len(content),
        "participant": "p",
        "samples": 1,
    }
    assert (await disk.fold([source])).body == content
    assert (await disk.fold([{**source, "sha256": "0" * 64}])).status == 502
    assert (await disk.fold([{**source, "bytes": 100}])).status == 413
    assert (await disk.fold([{**source, "url": "http://registry/models/m/versions/9"}])).status == 502
    assert list(scratch.iterdir()) == []
