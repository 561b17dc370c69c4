"""Signatures of webhooks, by the Standard Webhooks specification 1.0.0 (https://www.standardwebhooks.com).

What is signed is `<id>.<timestamp>.<body>`, with HMAC-SHA256 (RFC 2104) under a secret of 32 random bytes, which
people see as `whsec_<base64>`. A receiver computes the same, compares in constant time, and looks at the timestamp
against replays (docs/events.md shows how).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime

PREFIX = "whsec_"
_SECRET_BYTES = 32  # the specification asks for 24 to 64

Randomness = Callable[[int], bytes]
"""Gives so many random bytes, as `secrets.token_bytes` does."""


def new_secret(random_bytes: Randomness) -> str:
    """A secret as people see it.

    >>> new_secret(lambda size: b"x" * size)
    'whsec_eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg='
    """
    return PREFIX + base64.b64encode(random_bytes(_SECRET_BYTES)).decode()


def signed(secret: str, message_id: str, at: datetime, body: bytes) -> Mapping[str, str]:
    """The headers that go with `body`.

    Args:
        secret: as `new_secret` made it.
        message_id: the same whenever the same event is sent again; without a full stop.
        at: when it is sent.
        body: the very bytes that are sent.
    """
    seconds = int(at.timestamp())
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.digest(key, f"{message_id}.{seconds}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
