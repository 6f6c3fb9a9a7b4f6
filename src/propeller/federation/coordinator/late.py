"""Late updates: admitted as of the round that asked for them, and moved onto the base of the open one.

Knows no transport; `engine.place` says whether and where an update may count.
"""

from propeller import limits
from propeller.federation.coordinator.live import Place
from propeller.federation.coordinator.peers import Peers
from propeller.federation.offload import Offload
from propeller.fl import update as updates
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensors import Tensors, to_safetensors
from propeller.fl.update import Draft, Terms, Update


async def prepared(
    draft: Draft, place: Place, chosen: str, peers: Peers, offload: Offload
) -> tuple[Update, bytes]:
    """The trusted update as the round at `place` counts it, and its file. Raises what `admit` raises."""
    origin, base = await peers.values(place.origin.base), await peers.values(place.base)
    terms = Terms(
        round_id=draft.round_id,
        participants=frozenset({draft.participant}),
        base=place.origin.base,
        base_hash=place.origin.base_hash,
    )
    if draft.tensors.bytes <= limits.HTTP_JSON_OFFLOAD_BYTES:
        return moved(draft, terms, origin, base, chosen)
    return await offload(moved, draft, terms, origin, base, chosen)


def moved(draft: Draft, terms: Terms, origin: Tensors, base: Tensors, chosen: str) -> tuple[Update, bytes]:
    """The same, given the tensors of both bases."""
    updates.check_trained(draft)
    expected = strategy(chosen).expects
    update = updates.admit(draft, terms, expected(origin))
    today = updates.rebased(update, expected(origin), expected(base))
    return today, to_safetensors(today.tensors)
