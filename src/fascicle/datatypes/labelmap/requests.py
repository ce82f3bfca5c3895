"""Reading what labelmap requests say: labels in paths, lists of ids in bodies, and the checks they share."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Answer, Call
from fascicle.errors import NOT_JSON, BadRequest
from fascicle.kernels import decimal

U64 = NDArray[np.uint64]
MAX_U64 = (1 << 64) - 1
LONG_LIST_BYTES = 512

_ids = msgspec.json.Decoder(list[int])


def number(text: str, what: str) -> int:
    """An unsigned 64-bit integer in decimal digits. Raises BadRequest naming `what` it should have been."""
    if text.isascii() and text.isdigit():
        value = int(text)
        if value <= MAX_U64:
            return value
    raise BadRequest(f"{what} must be an unsigned 64-bit integer, not {text!r}")


def number_argument(call: Call, position: int, what: str) -> int:
    """The unsigned integer at a position after the keyword."""
    return number(call.argument(position, what), what)


def label_argument(call: Call, position: int = 0, what: str = "a label") -> int:
    """The label at a position after the keyword; 0 is refused."""
    label = number_argument(call, position, what)
    if label == 0:
        raise BadRequest(f"label 0 is the background: {call.keyword!r} needs another one")
    return label


def indexed(call: Call) -> None:
    """Refuse what an instance without label indices cannot do."""
    if not call.instance.properties.get("IndexedLabels", True):
        raise BadRequest(
            f'data "{call.instance.name}" is not label indexed (IndexedLabels=false): '
            f'"{call.keyword}" endpoint is not supported'
        )


def id_list(data: bytes, what: str) -> list[int]:
    """A JSON list of unsigned 64-bit integers. Raises BadRequest naming `what` the list is for."""
    try:
        ids = _ids.decode(data)
    except NOT_JSON as error:
        raise BadRequest(f"{what} must be a JSON list of labels: {error}") from None
    if ids and (min(ids) < 0 or max(ids) > MAX_U64):
        raise BadRequest(f"{what} must be a JSON list of unsigned 64-bit integers")
    return ids


def id_array(data: bytes, what: str) -> U64:
    """A JSON list of unsigned 64-bit integers as u64[n]. Raises BadRequest as `id_list` does."""
    # Few ids are read sooner by the JSON library than by a kernel that has to be called.
    ids = decimal.parsed_list(data) if len(data) >= LONG_LIST_BYTES else None
    # What the fast reader does not take is left to the JSON library, which says what is wrong with it.
    return np.array(id_list(data, what), np.uint64) if ids is None else ids


def id_answer(ids: U64) -> Answer:
    """A JSON list of u64[n]."""
    return Answer(decimal.json_list(ids), "application/json")


def checked_hash(call: Call) -> None:
    """Compare the option `hash`, an MD5 in hex, with the body."""
    expected = call.query.get("hash")
    if expected:
        actual = hashlib.md5(call.body, usedforsecurity=False).hexdigest()
        if actual != expected.lower():
            raise BadRequest(f"the body's MD5 is {actual}, not {expected!r} as the option 'hash' says")
