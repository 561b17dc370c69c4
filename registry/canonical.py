"""One spelling for each JSON value, and a digest of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from registry.errors import InvalidRecord

JSON = Any  # null, bool, int, finite float, text, list, or mapping from text; checked by `canonical`


def canonical(value: JSON) -> str:
    """`value` as JSON with sorted keys and no spaces; the same value always gives the same text.

    Raises:
        InvalidRecord: it holds NaN, an infinity, a NUL character, or something JSON has no word for.
    """
    try:
        return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except InvalidRecord:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidRecord(f"not a JSON value: {error}.") from error


def plain(value: JSON) -> JSON:
    """`value` as it will come back from the ledger: lists for tuples, dicts for mappings."""
    return json.loads(canonical(value))


def digest_of(value: JSON) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _plain(value: JSON) -> JSON:
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise InvalidRecord(f"JSON keys are text, and {bad[0]!r} is {type(bad[0]).__name__}.")
        return {check_text("key", key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return check_text("text", value) if isinstance(value, str) else value


def check_text(kind: str, text: str) -> str:
    """`text`, if every database can hold it.

    Raises:
        InvalidRecord: it has a NUL character or half a surrogate pair.
    """
    if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidRecord(f"{kind} {text!r} holds a NUL or a lone surrogate, which no database stores.")
    return text
