"""Regular expressions as tables for a compiled loop: what most queries use of the syntax of RE2, for all texts at once.

Supported are characters, `.`, classes of ASCII characters, groups, `|`, repetition, `^` and `$`. For anything else
there is no automaton, and texts are looked at one by one (`patterns.py`). The construction is the usual one: a
nondeterministic automaton of single bytes (Thompson 1968), then sets of its states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_MOST_STATES = 2000
_MOST_NODES = 4000
_MOST_WORK = 1_000_000

_ASCII = frozenset(range(128))
_DIGITS = frozenset(b"0123456789")
_WORD = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_SPACE = frozenset(b"\t\n\f\r ")
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": 9, "n": 10, "r": 13, "f": 12, "v": 11, "a": 7}
_CONTINUED = frozenset(range(0x80, 0xC0))
_SEQUENCES = (
    (frozenset(range(0xC0, 0xE0)), 1),
    (frozenset(range(0xE0, 0xF0)), 2),
    (frozenset(range(0xF0, 0xF8)), 3),
)
"""First bytes of characters that are not ASCII, and how many bytes follow."""

_BEGIN, _END, _MATCH, _SPLIT, _BYTE = range(5)


@dataclass(frozen=True, slots=True)
class Automaton:
    """`steps[state * classes + class_of[byte]]` is the next state; state 0 is the first one.

    In a state that is `accepting` 1 the pattern has been found; with 2 it has if the text ends here.
    """

    steps: NDArray[np.int32]
    class_of: NDArray[np.uint8]
    classes: int
    accepting: NDArray[np.uint8]


class _Unsupported(Exception):
    """The pattern uses more of the syntax than this module knows."""


class _Nodes:
    """The nondeterministic automaton: nodes that read a byte of a set, branch, test for an end, or match."""

    def __init__(self) -> None:
        self.kinds: list[int] = []
        self.sets: list[frozenset[int]] = []
        self.next: list[list[int]] = []

    def add(self, kind: int, bytes_: frozenset[int] = frozenset(), following: tuple[int, ...] = ()) -> int:
        if len(self.kinds) >= _MOST_NODES:
            raise _Unsupported
        self.kinds.append(kind)
        self.sets.append(bytes_)
        self.next.append(list(following))
        return len(self.kinds) - 1


Fragment = tuple[int, int]
"""First node, and a branching node without successor at the end."""


class _Parser:
    """Recursive descent from a pattern to nodes."""

    def __init__(self, pattern: str) -> None:
        self.text = pattern
        self.at = 0
        self.nodes = _Nodes()
        self.any_case = False
        if pattern.startswith("(?i)"):
            self.any_case = True
            self.at = 4

    def whole(self) -> int:
        """The first node."""
        first, last = self.alternatives()
        if self.at < len(self.text):
            raise _Unsupported
        self.nodes.next[last].append(self.nodes.add(_MATCH))
        return first

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def joint(self) -> int:
        return self.nodes.add(_SPLIT)

    def alternatives(self) -> Fragment:
        branches = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.sequence())
        if len(branches) == 1:
            return branches[0]
        last = self.joint()
        for _, end in branches:
            self.nodes.next[end].append(last)
        return self.nodes.add(_SPLIT, following=tuple(first for first, _ in branches)), last

    def sequence(self) -> Fragment:
        first = last = self.joint()
        while self.peek() not in ("", "|", ")"):
            begin, end = self.repeated()
            self.nodes.next[last].append(begin)
            last = end
        return first, last

    def repeated(self) -> Fragment:
        start = self.at
        fragment = self.atom()
        sign = self.peek()
        if sign == "{":
            raise _Unsupported
        if sign in ("*", "+", "?") and sign:
            self.at += 1
            if self.peek() == "?":
                self.at += 1
            if self.peek() in ("*", "+", "?", "{") and self.peek():
                raise _Unsupported
            if self.text[start] in "^$":
                raise _Unsupported
            first, last = fragment
            end = self.joint()
            begin = self.nodes.add(_SPLIT, following=(first,))
            self.nodes.next[last].append(end)
            if sign in "*+":
                self.nodes.next[last].append(begin)
            if sign in "*?":
                self.nodes.next[begin].append(end)
            return begin, end
        return fragment

    def atom(self) -> Fragment:
        sign = self.text[self.at]
        self.at += 1
        if sign == "(":
            if self.peek() == "?":
                if not self.text.startswith("?:", self.at):
                    raise _Unsupported
                self.at += 2
            found = self.alternatives()
            if self.peek() != ")":
                raise _Unsupported
            self.at += 1
            return found
        if sign in "^$":
            last = self.joint()
            return self.nodes.add(_BEGIN if sign == "^" else _END, following=(last,)), last
        if sign == ".":
            return self.one_of(_ASCII - {10}, True)
        if sign == "[":
            return self.one_of(*self.listed())
        if sign == "\\":
            return self.one_of(*self.escaped())
        if sign in "*+?{})]":
            raise _Unsupported
        return self.character(sign)

    def character(self, sign: str) -> Fragment:
        if self.any_case and (ord(sign) > 127 or sign in "kKsS"):
            raise _Unsupported  # K and the long s fold to characters that are not ASCII
        if self.any_case:
            return self.one_of(frozenset((ord(sign.lower()), ord(sign.upper()))), False)
        first = last = self.joint()
        for byte in sign.encode():
            end = self.joint()
            self.nodes.next[last].append(self.nodes.add(_BYTE, frozenset((byte,)), (end,)))
            last = end
        return first, last

    def one_of(self, ascii_: frozenset[int], others: bool) -> Fragment:
        """One ASCII character of a set, or also any other character."""
        last = self.joint()
        branches = [self.nodes.add(_BYTE, ascii_, (last,))]
        if others:
            for begin, more in _SEQUENCES:
                following = last
                for _ in range(more):
                    following = self.nodes.add(_BYTE, _CONTINUED, (following,))
                branches.append(self.nodes.add(_BYTE, begin, (following,)))
        return self.nodes.add(_SPLIT, following=tuple(branches)), last

    def escaped(self) -> tuple[frozenset[int], bool]:
        sign = self.peek()
        self.at += 1
        if sign in _CLASSES and sign:
            return _CLASSES[sign], False
        if sign and sign.lower() in _CLASSES:
            return _ASCII - _CLASSES[sign.lower()], True
        if sign in _CONTROLS and sign:
            return frozenset((_CONTROLS[sign],)), False
        if sign and ord(sign) < 128 and not sign.isalnum() and sign != "_":
            return frozenset((ord(sign),)), False
        raise _Unsupported

    def listed(self) -> tuple[frozenset[int], bool]:
        """A class in brackets."""
        if self.any_case:
            raise _Unsupported
        negated = self.peek() == "^"
        self.at += negated
        found: set[int] = set()
        others = False
        begin = self.at
        while self.peek() != "]" or self.at == begin:
            low, more = self.member()
            others |= more
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high, more_high = self.member()
                if len(low) != 1 or len(high) != 1 or more or more_high or min(low) > min(high):
                    raise _Unsupported
                low = frozenset(range(min(low), min(high) + 1))
            found |= low
        self.at += 1
        return (_ASCII - found, not others) if negated else (frozenset(found), others)

    def member(self) -> tuple[frozenset[int], bool]:
        sign = self.peek()
        self.at += 1
        if sign == "\\":
            return self.escaped()
        if not sign or ord(sign) > 127 or (sign == "[" and self.peek() == ":"):
            raise _Unsupported
        return frozenset((ord(sign),)), False


@lru_cache(maxsize=32)
def automaton(pattern: str) -> Automaton | None:
    """The automaton that looks for a pattern anywhere in a text; None if there is none of moderate size."""
    parser = _Parser(pattern)
    try:
        first = parser.whole()
        return _determined(parser.nodes, first)
    except (_Unsupported, RecursionError):
        return None


def _closure(nodes: _Nodes, begin: list[int], at_begin: bool, at_end: bool) -> frozenset[int]:
    """All nodes that are reached without reading a byte."""
    found = set(begin)
    waiting = list(begin)
    while waiting:
        node = waiting.pop()
        kind = nodes.kinds[node]
        if kind == _SPLIT or (kind == _BEGIN and at_begin) or (kind == _END and at_end):
            for following in nodes.next[node]:
                if following not in found:
                    found.add(following)
                    waiting.append(following)
    return frozenset(node for node in found if nodes.kinds[node] != _SPLIT)


def _determined(nodes: _Nodes, first: int) -> Automaton:
    matching = frozenset(node for node, kind in enumerate(nodes.kinds) if kind == _MATCH)
    sets = {set_ for set_ in nodes.sets if set_}
    signatures: dict[tuple[bool, ...], int] = {}
    class_of = np.zeros(256, np.uint8)
    examples: list[int] = []
    for byte in range(256):
        signature = tuple(byte in set_ for set_ in sets)
        if signature not in signatures:
            signatures[signature] = len(examples)
            examples.append(byte)
        class_of[byte] = signatures[signature]

    start = _closure(nodes, [first], True, False)
    again = _closure(nodes, [first], False, False)
    states: dict[frozenset[int], int] = {}  # without the first one, in which `^` holds
    waiting = [start]
    rows: list[list[int]] = []
    accepting: list[int] = []
    at = work = 0
    while at < len(waiting):
        state = waiting[at]
        found = bool(state & matching)
        ends = bool(_closure(nodes, list(state), at == 0, True) & matching)
        accepting.append(1 if found else 2 if ends else 0)
        row = []
        for byte in examples:
            work += len(state)
            if work > _MOST_WORK:
                raise _Unsupported
            reached = [following for node in state if byte in nodes.sets[node] for following in nodes.next[node]]
            following = state if found else _closure(nodes, reached, False, False) | again
            if following not in states:
                if len(waiting) >= _MOST_STATES:
                    raise _Unsupported
                states[following] = len(waiting)
                waiting.append(following)
            row.append(states[following])
        rows.append(row)
        at += 1
    return Automaton(np.array(rows, np.int32).reshape(-1), class_of, len(examples), np.array(accepting, np.uint8))
