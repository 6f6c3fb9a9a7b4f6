"""Whatever is sent to the aggregator, the registry and the data store: 2xx or a 4xx in JSON, never a 5xx."""

import asyncio
import json
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation_world import Services

SERVICES = Services()
"""Built once, because building applications takes longer than asking them; `emptied` before each example."""

RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["w", "b", "version", "fedavg", "full", "p1", "global_model", "1e999"])
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
numbers = st.integers(-3, 3) | st.floats(width=32) | st.floats()
tensors = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
models = st.dictionaries(
    st.sampled_from(["w", "b", "version", "l/1"]) | st.text(max_size=3), tensors | leaves, max_size=3
)


def shaped(**fields):
    """An object in which each field is mostly of its own kind, sometimes anything, sometimes absent."""
    return st.fixed_dictionaries({}, optional={name: kind | anything for name, kind in fields.items()})


updates = shaped(num_samples=st.integers(-1, 5), update=models, proplet_id=st.text(max_size=5))
aggregations = shaped(
    updates=st.lists(updates, max_size=4),
    strategy=st.sampled_from(["", "fedavg", "magic"]),
    options=st.dictionaries(st.text(max_size=3), leaves, max_size=2),
    base=models,
    state=models,
    reply=st.sampled_from(["model", "full"]),
)
versions = shaped(
    version=st.integers(-1, 3),
    model=models,
    name=st.sampled_from(["global_model", "m", "a/b", ""]),
    parent=st.integers(-1, 3),
    round_id=st.sampled_from(["r1", "r2", "", "a b"]),
    strategy=st.dictionaries(st.text(max_size=3), anything, max_size=2),
    participants=st.lists(st.text(max_size=4), max_size=3),
    metrics=st.dictionaries(st.text(max_size=4), numbers, max_size=3),
)
rows = shaped(x=st.lists(numbers, max_size=3), y=numbers)
datasets = shaped(data=st.lists(rows, max_size=4), schema=st.text(max_size=5), synthetic=st.booleans())


def encoded(kind):
    """Bodies of this kind, arbitrary JSON, arbitrary bytes, and JSON cut short."""
    whole = (kind | anything).map(lambda one: json.dumps(one).encode())
    return (
        whole
        | st.binary(max_size=40)
        | st.tuples(whole, st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]])
    )


def emptied():
    """Forget what earlier examples stored."""
    SERVICES.models._stored.clear()
    SERVICES.datasets._documents.clear()


def never_5xx(url, body, method="POST"):
    """Send it, and check the answer's shape."""
    answer = asyncio.run(SERVICES.raw(method, url, body))
    assert 200 <= answer.status < 500, answer
    if answer.status >= 400:
        said = json.loads(answer.body)
        assert said["error"]
        assert said["code"]
    return answer


@RELAXED
@given(encoded(aggregations))
def test_aggregate(body):
    """A 200 is a model of finite numbers."""
    answer = never_5xx("http://aggregator/aggregate", body)
    if answer.status == 200:
        json.loads(answer.body, parse_constant=lambda name: (_ for _ in ()).throw(AssertionError(name)))


@RELAXED
@given(st.lists(encoded(versions), min_size=1, max_size=4))
def test_store_models(bodies):
    """A 201 can be read back under the number it gave, whatever came before it."""
    emptied()
    for body in bodies:
        answer = never_5xx("http://registry/models", body)
        if answer.status == 201:
            stored = json.loads(answer.body)
            path = f"http://registry/models/{stored['name']}/versions/{stored['version']}"
            assert never_5xx(path, b"", "GET").status == 200
            assert never_5xx(path + "/info", b"", "GET").status == 200


@RELAXED
@given(encoded(datasets))
def test_store_datasets(body):
    """A 201 can be read back, whole and in parts, and posted again unchanged."""
    emptied()
    if never_5xx("http://data/datasets/p1", body).status != 201:
        return
    for query in ("", "?part=train", "?part=test"):
        assert never_5xx(f"http://data/datasets/p1{query}", b"", "GET").status == 200
    whole = never_5xx("http://data/datasets/p1", b"", "GET").body
    never_5xx("http://data/datasets/p1", whole)
    assert never_5xx("http://data/datasets/p1", b"", "GET").body == whole


@RELAXED
@given(
    st.sampled_from(["http://registry/models", "http://data/datasets", "http://aggregator"]),
    st.lists(
        st.text(alphabet=st.characters(codec="ascii", exclude_characters="\r\n"), min_size=1, max_size=20),
        max_size=4,
    ),
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]),
)
def test_any_path(base, parts, method):
    """Strange paths are 4xx too."""
    url = "/".join([base, *(quote(one, safe="") for one in parts)])
    answer = asyncio.run(SERVICES.raw(method, url))
    assert answer.status < 500, answer
