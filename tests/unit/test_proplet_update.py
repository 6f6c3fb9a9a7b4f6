"""From a guest's output to an accepted update: what is one, how it is sent, and when to give up."""

import asyncio
import hashlib
import json
from random import Random

import pytest
from proplet_fakes import COORDINATOR, URLS, FakeHttp, in_virtual_time, unavailable

from propeller.errors import TooLarge
from propeller.ports import GuestDone
from propeller.proplet.delivery import Courier, Verdicts, deliver
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.records import AttemptState, Held
from propeller.proplet.services import Patience, Services
from propeller.proplet.settings import ServiceUrls
from propeller.proplet.update import make_update
from propeller.wire.messages import AttemptKey, Start, Usage
from propeller.wire.rounds import Verdict
from propeller.wire.topics import Topics

POST = f"POST {COORDINATOR}/update"
ENV = {"ROUND_ID": "r-1", "MODEL_URI": "fl/models/global_model_v0"}
START = Start(id="t", name="n", env=ENV, run=1, attempt=1, update_token="secret")
BODY = b'{"update":{"w":[1,2.50],"b":1e-5},"num_samples":64,"metrics":{"loss":0.5}}'
TOPICS = Topics("d", "c")


def made(stdout="", result=None):
    """The update that a guest's output makes, as JSON."""
    return json.loads(make_update(GuestDone(stdout=stdout, stderr="", result=result), START, "p-1"))


def test_what_the_guest_left_out_is_filled_in():
    """Round, participant and base are known here; the weights' text is untouched."""
    raw = make_update(GuestDone(stdout=BODY.decode(), stderr=""), START, "p-1")
    assert b'{"w":[1,2.50],"b":1e-5}' in raw
    update = json.loads(raw)
    assert (update["round_id"], update["proplet_id"]) == ("r-1", "p-1")
    assert update["base_model_uri"] == ENV["MODEL_URI"]


def test_what_the_guest_says_itself_is_kept():
    """Its own base (an empty one is none) and its own fields."""
    update = made('{"update":{},"base_model_uri":"fl/models/x_v3","round_id":"r-1","proplet_id":null,"z":1}')
    assert (update["base_model_uri"], update["proplet_id"], update["z"]) == ("fl/models/x_v3", "p-1", 1)
    assert made('{"update":{},"base_model_uri":""}')["base_model_uri"] == ENV["MODEL_URI"]


def test_put_result_comes_before_stdout():
    """A guest that uses the host function may print what it likes."""
    assert made("chatter", b'{"update":{"w":[7]}}')["update"] == {"w": [7]}


EVALUATES = Start(id="t", name="n", env={**ENV, "FL_MODE": "evaluate"}, run=1, attempt=1)


def test_an_evaluation_has_metrics_and_no_update():
    """And says which module measured, whatever the guest says of that."""
    said = '{"num_samples":3,"metrics":{"loss":0.5},"trainer_hash":"mine"}'
    update = json.loads(make_update(GuestDone(stdout=said, stderr=""), EVALUATES, "p-1", "abc"))
    assert (update["metrics"], update["trainer_hash"], "update" in update) == ({"loss": 0.5}, "abc", False)
    for wrong in ('{"num_samples":3}', '{"metrics":{"loss":1},"update":{"w":[1]}}', '{"metrics":[1]}'):
        with pytest.raises(AttemptFailed, match="the round evaluates"):
            make_update(GuestDone(stdout=wrong, stderr=""), EVALUATES, "p-1")


@pytest.mark.parametrize(
    ("stdout", "says"),
    [
        ("", "not one JSON object"),
        ("[1]", "not one JSON object"),
        ('{"update":{}} {"update":{}}', "not one JSON object"),
        ('{"update":{"w":[nan]}}', "not one JSON object"),
        ('{"num_samples":1}', "no object `update`"),
        ('{"update":[1]}', "no object `update`"),
        ('{"update":{},"round_id":"r-2"}', "r-2"),
        ('{"update":{},"proplet_id":"p-2"}', "p-2"),
        ('{"update":{},"round_id":7}', "round_id '7'"),
        ('{"update":' + "[" * 5000 + "]" * 5000 + "}", "not one JSON object"),
    ],
)
def test_what_is_no_update_of_this_round_fails(stdout, says):
    """The reason is the guest's, and says so."""
    with pytest.raises(AttemptFailed, match="(?s)" + says.replace("[", r"\[")) as caught:
        made(stdout)
    assert caught.value.kind == "invalid_update"


class Wire:
    """A bus that keeps what is published; `answer` may put a verdict when something is."""

    def __init__(self, *, up=True, answer=None):
        self.up = up
        self.sent = []
        self.answer = answer

    async def publish(self, message):
        """Keep it."""
        if self.up:
            self.sent.append(message)
            if self.answer:
                self.answer()
        return self.up

    async def run(self, session, on_message, on_connect=None):
        """Not used here."""


def delivered(http, wire=None, *, wall_s=60.0, verdicts=None, urls=URLS, body=BODY, by_broker=False):
    """The outcome of a delivery, and the virtual seconds it took."""
    held = Held(
        key=AttemptKey(task_id="t", run=1, attempt=1),
        state=AttemptState.RUNNING,
        order=1,
        start=START,
        update=body,
        usage=Usage(wall_s=3.0),
    )

    async def main(clock):
        courier = Courier(
            proplet_id="p-1",
            http=http,
            bus=wire or Wire(up=False),
            topics=TOPICS,
            services=Services(urls),
            verdicts=verdicts or Verdicts(),
            by_broker=by_broker,
        )
        outcome = await deliver(held, courier, Patience(clock, Random(1), wall_s))  # noqa: S311 - jitter
        return outcome, clock.now().mono_s

    return in_virtual_time(main)


def test_an_accepted_update_is_reported_without_its_weights():
    """One POST with the token; the task's result says who, what and how much."""
    http = FakeHttp()
    outcome, _ = delivered(http)
    ((method, url, headers, body),) = http.asked
    assert (method, url, body) == ("POST", f"{COORDINATOR}/update", BODY)
    assert headers == {"Content-Type": "application/json", "X-Update-Token": "secret"}
    assert json.loads(outcome.results) == {
        "task_id": "t",
        "round_id": "r-1",
        "proplet_id": "p-1",
        "base_model_uri": None,
        "num_samples": 64,
        "metrics": {"loss": 0.5},
        "status": "accepted",
        "via": "http",
    }
    assert (outcome.failure, outcome.usage.wall_s) == ("", 3.0)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413])
def test_a_refusal_ends_the_delivery_with_its_reason(status):
    """4xx is definite: no second try, no MQTT, and the coordinator's words."""
    http, wire = FakeHttp(), Wire()
    http.answers[POST] = status
    with pytest.raises(AttemptFailed, match=f"{status} scripted: status {status}") as caught:
        delivered(http, wire)
    assert caught.value.kind == "update_refused"
    assert (http.count("POST"), wire.sent) == (1, [])


@pytest.mark.parametrize("trouble", [unavailable(), 500, 503, 429])
def test_passing_trouble_is_tried_again(trouble):
    """No answer, 5xx and 429: again, until it is accepted."""
    http = FakeHttp()
    http.answers[POST] = [trouble, trouble, b"{}"]
    outcome, took_s = delivered(http)
    assert (json.loads(outcome.results)["via"], http.count("POST")) == ("http", 3)
    assert took_s > 0


def test_the_update_goes_by_mqtt_in_turn_and_a_verdict_accepts_it():
    """With HTTP out of reach, MQTT carries the same bytes on the participant's topic."""
    http, verdicts = FakeHttp(), Verdicts()
    http.answers[POST] = unavailable()
    wire = Wire(answer=lambda: verdicts.put(Verdict(round_id="r-1", status=200)))
    outcome, _ = delivered(http, wire, verdicts=verdicts)
    assert json.loads(outcome.results)["via"] == "mqtt"
    ((topic, payload),) = [(message.topic, message.payload) for message in wire.sent]
    assert (topic, payload) == ("m/d/c/c/fl/rounds/r-1/updates/p-1", BODY)
    assert http.count("POST") == 1


def test_a_refusing_verdict_counts_like_a_refusing_answer():
    """409 by MQTT is a refusal with its reason."""
    http, verdicts = FakeHttp(), Verdicts()
    http.answers[POST] = unavailable()
    late = Verdict(round_id="r-1", status=409, reason="round_closed", error="too late")
    with pytest.raises(AttemptFailed, match="409 round_closed: too late"):
        delivered(http, Wire(answer=lambda: verdicts.put(late)), verdicts=verdicts)


def test_verdicts_that_are_not_definite_or_not_ours_change_nothing():
    """503 by MQTT, another round, nobody waiting: the next try decides."""
    http, verdicts = FakeHttp(), Verdicts()
    http.answers[POST] = [unavailable(), b"{}"]

    def answer():
        verdicts.put(Verdict(round_id="r-2", status=409))
        verdicts.put(Verdict(round_id="r-1", status=503))

    verdicts.put(Verdict(round_id="r-1", status=409))
    outcome, _ = delivered(http, Wire(answer=answer), verdicts=verdicts)
    assert json.loads(outcome.results)["via"] == "http"


LARGE = BODY[:-1] + b',"z":"' + b"x" * (1 << 20) + b'"}'


def test_a_large_update_goes_by_mqtt_in_pieces():
    """Over a message's limit a manifest goes, and then what is wanted of it; the verdict decides."""
    http, verdicts = FakeHttp(), Verdicts()
    http.answers[POST] = unavailable()
    told = [
        {"status": 202, "wanted": [0, 2]},
        {"status": 503},
        {"status": 202, "wanted": [1]},
        {"status": 200},
    ]

    def answer():
        if len(wire.sent) != 2:
            verdicts.put(Verdict(round_id="r-1", **told.pop(0)))

    wire = Wire(answer=answer)
    outcome, _ = delivered(http, wire, verdicts=verdicts, body=LARGE)
    assert json.loads(outcome.results)["via"] == "mqtt"
    manifests = [json.loads(one.payload) for one in wire.sent if one.topic.endswith("manifests/p-1")]
    pieces = [one.payload for one in wire.sent if one.topic.endswith("pieces/p-1")]
    assert manifests[0] == manifests[-1]
    assert manifests[0]["bytes"] == len(LARGE)
    assert manifests[0]["sha256"] == [hashlib.sha256(pieces[at]).hexdigest() for at in (0, 2, 1)]
    assert pieces[0] + pieces[2] + pieces[1] == LARGE


def test_a_piece_that_is_not_there_ends_the_delivery():
    """A coordinator that wants more than there is has another update in mind."""
    http, verdicts = FakeHttp(), Verdicts()
    http.answers[POST] = unavailable()
    wire = Wire(answer=lambda: verdicts.put(Verdict(round_id="r-1", status=202, wanted=[3])))
    with pytest.raises(AttemptFailed, match="piece 3 of an update of 3"):
        delivered(http, wire, verdicts=verdicts, body=LARGE)


def test_without_http_nothing_is_asked_of_it():
    """The broker alone: the same topic, the same verdict, and no URL is looked for."""
    http, verdicts = FakeHttp(), Verdicts()
    wire = Wire(answer=lambda: verdicts.put(Verdict(round_id="r-1", status=200)))
    outcome, _ = delivered(http, wire, verdicts=verdicts, urls=ServiceUrls(), by_broker=True)
    assert (json.loads(outcome.results)["via"], http.asked, len(wire.sent)) == ("mqtt", [], 1)
    with pytest.raises(AttemptFailed, match=r"nobody answered for the update in .* tries, at last: by MQTT"):
        delivered(http, Wire(up=False), urls=ServiceUrls(), by_broker=True)


def test_silence_ends_at_the_wall_limit():
    """Both ways are tried in turn until the attempt's time is up, not longer."""
    http, wire = FakeHttp(), Wire()
    http.answers[POST] = unavailable("connection refused")

    async def timed(clock):
        held = Held(
            key=AttemptKey(task_id="t", run=1, attempt=1),
            state=AttemptState.RUNNING,
            order=1,
            start=START,
            update=BODY,
        )
        courier = Courier(
            proplet_id="p-1", http=http, bus=wire, topics=TOPICS, services=Services(URLS), verdicts=Verdicts()
        )
        with pytest.raises(AttemptFailed, match="connection refused") as caught:
            await deliver(held, courier, Patience(clock, Random(1), 60.0))  # noqa: S311 - jitter
        return caught.value.kind, clock.now().mono_s

    kind, took_s = in_virtual_time(timed)
    assert kind == "update_undelivered"
    assert 60.0 <= took_s < 61.0
    assert http.count("POST") == len(wire.sent) > 3


def test_an_answer_that_cannot_be_read_is_no_delivery():
    """A monstrous answer is an error of its own, not a crash."""
    http = FakeHttp()
    http.answers[POST] = TooLarge("the answer is over the limit")
    with pytest.raises(AttemptFailed, match="over the limit") as caught:
        delivered(http)
    assert caught.value.kind == "update_undelivered"


def test_a_coordinator_that_is_not_allowed_is_not_asked():
    """Also after a restart with another configuration."""
    http = FakeHttp()
    with pytest.raises(AttemptFailed) as caught:
        delivered(http, urls=ServiceUrls())
    assert (caught.value.kind, http.asked) == ("configuration", [])


async def test_a_verdict_is_kept_for_one_who_waits_only():
    """At most one verdict waits, and none without a delivery."""
    verdicts = Verdicts()
    queue = verdicts.open("r-1")
    for status in (200, 409):
        verdicts.put(Verdict(round_id="r-1", status=status))
    assert (await asyncio.wait_for(queue.get(), 1)).status == 200
    verdicts.close("r-1")
    verdicts.put(Verdict(round_id="r-1", status=200))
    assert queue.empty()
