"""Automata find what RE2 finds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.datatypes.neuronjson import patterns
from fascicle.datatypes.neuronjson.automata import Automaton, automaton

PIECES = r"a b é . [ab] [^a] [a-c] \d \w \W \s ^ $ (a|b) (?:ab)* \. 1 [^\d] []a] [a-] \n x+ a*? .* (a+)+ | \b { a{2} K"
pieces = st.sampled_from([*PIECES.split(), "\\\\", " ", "\n", '"'])
written = st.tuples(st.sampled_from(["", "", "", "(?i)"]), st.lists(pieces, max_size=6)).map(
    lambda parts: parts[0] + "".join(parts[1])
)
texts = st.text(alphabet="abcxABkKéſ1. \n_\"\\K", max_size=9)


def accepts(found: Automaton, text: str) -> bool:
    state = 0
    for byte in text.encode():
        if found.accepting[state] == 1:
            return True
        state = found.steps[state * found.classes + found.class_of[byte]]
    return bool(found.accepting[state])


@settings(max_examples=400)
@given(written, st.lists(texts, min_size=1, max_size=8))
def test_an_automaton_finds_what_re2_finds(pattern: str, given_texts: list[str]) -> None:
    finds, found = patterns.finder(pattern), automaton(pattern)
    if finds is not None and found is not None:
        for text in given_texts:
            assert accepts(found, text) == finds(text)


@pytest.mark.parametrize("pattern", ["^MBON", "KC.*_L$", "(?i)kc|mb", "^[A-Z]{1}", r"foo\.bar", "a|b|^$"])
def test_usual_patterns_have_automata(pattern: str) -> None:
    assert (automaton(pattern) is None) == ("{" in pattern or "(?i)k" in pattern)


def test_large_automata_are_given_up_soon() -> None:
    begin = time.perf_counter()
    for pattern in ("[ab]*a" + "[ab]" * 40, "(.*a){30}", ".*x" * 300, "(" * 2000 + ")" * 2000, "a" * 100_000):
        automaton(pattern)
    assert time.perf_counter() - begin < 30
