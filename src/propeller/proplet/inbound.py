"""From messages on the bus to events of the agent. Total: event, verdict, or `BadInput`; keeps nothing."""

from propeller.core.ids import check_id
from propeller.errors import BadInput
from propeller.ports import Message
from propeller.proplet import events as e
from propeller.wire import codec
from propeller.wire.messages import Ack, AttemptKey, Invoke, Start, Stop, Welcome
from propeller.wire.rounds import Verdict
from propeller.wire.topics import FromManager, Topics

Inbound = e.Welcomed | e.StartReceived | e.StopReceived | e.AckReceived | Invoke | Verdict


def read(message: Message, topics: Topics, me: str) -> Inbound:
    """What `message` means to proplet `me`. Raises `BadInput` or `TooLarge` for what means nothing."""
    match topics.parse_manager(message.topic, me):
        case FromManager.START:
            return _start(codec.decode(Start, message.payload, what="a start message"))
        case FromManager.STOP:
            stop = codec.decode(Stop, message.payload, what="a stop message")
            check_id(stop.id, "the task of a stop message")
            return e.StopReceived(stop)
        case FromManager.ACK:
            return e.AckReceived(tuple(codec.decode(Ack, message.payload, what="an acknowledgement").events))
        case FromManager.INVOKE:
            invoke = codec.decode(Invoke, message.payload, what="a call")
            check_id(invoke.id, "the task of a call")
            check_id(invoke.invocation_id, "the id of a call")
            if not invoke.broadcast and isinstance(invoke.proplet_id, str) and invoke.proplet_id != me:
                raise BadInput(f"a call for {invoke.proplet_id[:100]!r} came to {me}")
            return invoke
        case FromManager.WELCOME:
            return e.Welcomed(codec.decode(Welcome, message.payload, what="a welcome").heartbeat_s)
        case _:
            return _verdict(message, topics, me)


def _start(start: Start) -> e.StartReceived:
    """A start is of protocol 2: without run and attempt there is nothing to answer with."""
    run, attempt = start.run, start.attempt
    check_id(start.id, "the task of a start message")
    if not isinstance(run, int) or not isinstance(attempt, int) or min(run, attempt) < 0:
        raise BadInput(f"the start message of task {start.id} names no run and attempt")
    return e.StartReceived(AttemptKey(task_id=start.id, run=run, attempt=attempt), start)


def _verdict(message: Message, topics: Topics, me: str) -> Verdict:
    topic = topics.parse_round(message.topic)
    if topic is None or topic.kind != "verdicts" or topic.participant != me:
        raise BadInput(f"a message on {message.topic[:200]!r} means nothing to a proplet")
    verdict = codec.decode(Verdict, message.payload, what="a verdict")
    if verdict.round_id != topic.round_id:
        raise BadInput(f"a verdict on round {topic.round_id} speaks of round {verdict.round_id[:100]!r}")
    return verdict
