"""Update tokens: proof that a participant was asked for a round. Not who carries or demands them.

A token is HMAC-SHA256 (RFC 2104) keyed with a secret that manager and coordinator share, over
`propeller-update-1 NUL round NUL participant`; ids hold no NUL, so no two pairs share a text.
"""

import hashlib
import hmac


def make_token(secret: bytes, round_id: str, participant: str) -> str:
    """The token, 64 lower-case hex digits."""
    text = f"propeller-update-1\0{round_id}\0{participant}".encode()
    return hmac.new(secret, text, hashlib.sha256).hexdigest()


def verify_token(secret: bytes, round_id: str, participant: str, token: str) -> bool:
    """Whether `token` is the one of this round and participant; takes the same time for every wrong one."""
    return hmac.compare_digest(make_token(secret, round_id, participant).encode(), token.encode())
