"""Loops over JSON objects in normal form (compact; names in order): taking them apart into numbered texts, and back.

A set of texts gives each of its texts a number from 1, in the order in which they came:

    blob u8[]       the texts one after the other
    starts i64[]    text c is blob[starts[c] : starts[c + 1]]; the first one starts at 0
    kinds u8[]      what kind of JSON value text c is
    table i32[]     hash table of numbers, 0 where it is free; its length is a power of two

Callers see to it that the arrays have room; see `datatypes/neuronjson/texts.py`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TEXT, ESCAPED_TEXT, INTEGER, FLOAT, LITERAL, INTEGERS, TEXTS, OTHER = range(1, 9)
"""Kinds: a string without and with backslashes, numbers, true/false/null, arrays of one kind, all else."""

_BASIS = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_SPREAD = np.uint64(32)

_QUOTE, _BACKSLASH, _COMMA, _COLON = 34, 92, 44, 58
_OPEN_LIST, _CLOSE_LIST, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125
_N = 110


@njit(cache=True, nogil=True)
def _hash(data, start, stop):  # type: ignore[no-untyped-def]
    value = _BASIS
    for at in range(start, stop):
        value = (value ^ np.uint64(data[at])) * _PRIME
    return value ^ (value >> _SPREAD)


@njit(cache=True, nogil=True)
def _place(blob, starts, table, data, start, stop):  # type: ignore[no-untyped-def]
    """The place in the table of a text, or the free place where it would go."""
    last = np.uint64(len(table) - 1)
    place = np.int64(_hash(data, start, stop) & last)
    size = stop - start
    while table[place] != 0:
        known = starts[table[place]]
        if starts[table[place] + 1] - known == size:
            same = True
            for k in range(size):
                if blob[known + k] != data[start + k]:
                    same = False
                    break
            if same:
                return place
        place += 1
        if place == len(table):
            place = np.int64(0)
    return place


@njit(cache=True, nogil=True)
def _string_end(data, at):  # type: ignore[no-untyped-def]
    """Behind the string that starts at `at`."""
    at += 1
    while data[at] != _QUOTE:
        if data[at] == _BACKSLASH:
            at += 1
        at += 1
    return at + 1


@njit(cache=True, nogil=True)
def _value_end(data, at):  # type: ignore[no-untyped-def]
    """Behind the value that starts at `at`."""
    depth = 0
    while True:
        byte = data[at]
        if byte == _QUOTE:
            at = _string_end(data, at)
            continue
        if byte in (_OPEN_LIST, _OPEN_OBJECT):
            depth += 1
        elif byte in (_CLOSE_LIST, _CLOSE_OBJECT):
            if depth == 0:
                return at
            depth -= 1
        elif byte == _COMMA and depth == 0:
            return at
        at += 1


@njit(cache=True, nogil=True)
def _kind(data, start, stop):  # type: ignore[no-untyped-def]
    first = data[start]
    if first == _QUOTE:
        for at in range(start, stop):
            if data[at] == _BACKSLASH:
                return ESCAPED_TEXT
        return TEXT
    if first == 45 or 48 <= first <= 57:
        for at in range(start, stop):
            if data[at] == 46 or data[at] == 101 or data[at] == 69:
                return FLOAT
        return INTEGER
    if first != _OPEN_LIST:
        return OTHER if first == _OPEN_OBJECT else LITERAL
    numbers = texts = False
    at = start + 1
    while at < stop - 1:
        byte = data[at]
        if byte == _QUOTE:
            texts = True
            at = _string_end(data, at)
        elif byte == 45 or 48 <= byte <= 57:
            numbers = True
            while data[at] != _COMMA and data[at] != _CLOSE_LIST:
                if data[at] == 46 or data[at] == 101 or data[at] == 69:
                    return OTHER
                at += 1
        elif byte == _N:
            at += 4
        else:
            return OTHER
        at += 1
    if numbers == texts:
        return OTHER
    return INTEGERS if numbers else TEXTS


@njit(cache=True, nogil=True)
def add_text(blob, starts, kinds, table, count, data, start, stop):  # type: ignore[no-untyped-def]
    """The number of a text, which is `count + 1` if it is new; then it has been added."""
    place = _place(blob, starts, table, data, start, stop)
    if table[place] != 0:
        return np.int64(table[place])
    number = count + 1
    table[place] = number
    at = starts[number]
    for k in range(start, stop):
        blob[at] = data[k]
        at += 1
    starts[number + 1] = at
    kinds[number] = _kind(data, start, stop)
    return np.int64(number)


@njit(cache=True, nogil=True)
def find_texts(blob, starts, table, data, ends, out):  # type: ignore[no-untyped-def]
    """The numbers of texts data[ends[i-1] : ends[i]] into out[i], 0 for those that are not in the set."""
    start = 0
    for i in range(len(ends)):
        stop = ends[i]
        out[i] = table[_place(blob, starts, table, data, start, stop)]
        start = stop


@njit(cache=True, nogil=True)
def rehash(blob, starts, count, table):  # type: ignore[no-untyped-def]
    """Fill an empty table."""
    for number in range(1, count + 1):
        table[_place(blob, starts, table, blob, starts[number], starts[number + 1])] = number


@njit(cache=True, nogil=True)
def _is_text(blob, starts, number, data, start, stop):  # type: ignore[no-untyped-def]
    known = starts[number]
    if starts[number + 1] - known != stop - start:
        return False
    for k in range(stop - start):  # noqa: SIM110 (a kernel has no generators)
        if blob[known + k] != data[start + k]:
            return False
    return True


@njit(cache=True, nogil=True)
def take_apart(  # type: ignore[no-untyped-def]
    data, offsets, lengths, first, out,
    name_blob, name_starts, name_kinds, name_table, name_count,
    blob, starts, kinds, table, count,
):  # fmt: skip
    """Enter the members of documents into out[name number, document] as numbers of their values.

    A missing document has a negative length. Returns (how far it got, names, values): a document with more names than
    `out` has rows for is begun again by the next call, when there is room.
    """
    # Documents resemble the one before: a name often has the same successor, and the same value, as last time.
    successor = np.zeros(out.shape[0] + 1, np.int64)
    latest = np.zeros(out.shape[0] + 1, np.int64)
    for i in range(first, len(offsets)):
        if lengths[i] < 2:
            continue
        at = offsets[i] + 1
        if data[at] == _CLOSE_OBJECT:
            continue
        before = np.int64(0)
        while True:
            end = _string_end(data, at)
            name = successor[before]
            if name == 0 or not _is_text(name_blob, name_starts, name, data, at, end):
                name = add_text(name_blob, name_starts, name_kinds, name_table, name_count, data, at, end)
                if name > name_count:
                    name_count = name
                if name >= out.shape[0]:
                    return i, name_count, count
                successor[before] = name
            before = name
            at = end + 1
            end = _value_end(data, at)
            value = latest[name]
            if value == 0 or not _is_text(blob, starts, value, data, at, end):
                value = add_text(blob, starts, kinds, table, count, data, at, end)
                if value > count:
                    count = value
                latest[name] = value
            out[name, i] = value
            if data[end] == _CLOSE_OBJECT:
                break
            at = end + 1
    return len(offsets), name_count, count


@njit(cache=True, nogil=True)
def put_together(matrix, names, name_starts, blob, starts, separated, sizes, out):  # type: ignore[no-untyped-def]
    """Documents i of members matrix[k, i] under names[k], which end in a colon.

    First with an empty `out`: sizes[i] becomes the end of document i. Then with an `out` of that size. Each document
    follows a comma if they are `separated`.
    """
    members, n = matrix.shape
    write = len(out) > 0
    at = np.int64(0)
    for i in range(n):
        if separated:
            if write:
                out[at] = _COMMA
            at += 1
        if write:
            out[at] = _OPEN_OBJECT
        at += 1
        empty = True
        for k in range(members):
            value = matrix[k, i]
            if value == 0:
                continue
            if not empty:
                if write:
                    out[at] = _COMMA
                at += 1
            empty = False
            if write:
                for source in range(name_starts[k], name_starts[k + 1]):
                    out[at] = names[source]
                    at += 1
                for source in range(starts[value], starts[value + 1]):
                    out[at] = blob[source]
                    at += 1
            else:
                at += name_starts[k + 1] - name_starts[k] + starts[value + 1] - starts[value]
        if write:
            out[at] = _CLOSE_OBJECT
        at += 1
        sizes[i] = at


@njit(cache=True, nogil=True)
def contain(blob, starts, numbers, wanted_blob, wanted_starts, wanted_table, out):  # type: ignore[no-untyped-def]
    """Which of some arrays of integers or strings have an element that is in another set."""
    for i in range(len(numbers)):
        at = starts[numbers[i]] + 1
        stop = starts[numbers[i] + 1]
        found = False
        while at < stop - 1 and not found:
            if blob[at] == _QUOTE:
                end = _string_end(blob, at)
            else:
                end = at
                while blob[end] != _COMMA and blob[end] != _CLOSE_LIST:
                    end += 1
            found = wanted_table[_place(wanted_blob, wanted_starts, wanted_table, blob, at, end)] != 0
            at = end + 1
        out[i] = found


@njit(cache=True, nogil=True)
def greatest(blob, starts, numbers):  # type: ignore[no-untyped-def]
    """The number of the text that comes last bytewise; 0 if there are none."""
    best = np.int64(0)
    for number in numbers:
        if best == 0:
            best = np.int64(number)
            continue
        a, b = starts[number], starts[best]
        size_a, size_b = starts[number + 1] - a, starts[best + 1] - b
        k = 0
        while k < size_a and k < size_b and blob[a + k] == blob[b + k]:
            k += 1
        if k < size_a and (k == size_b or blob[a + k] > blob[b + k]):
            best = np.int64(number)
    return best


@njit(cache=True, nogil=True)
def _runs(data, at, steps, class_of, classes, accepting):  # type: ignore[no-untyped-def]
    """Whether an automaton accepts the string whose opening quote is before `at`: 1 no, 2 yes, 0 if it has escapes."""
    state = 0
    while True:
        if accepting[state] == 1:
            return 2
        byte = data[at]
        if byte == _QUOTE:
            return 2 if accepting[state] else 1
        if byte == _BACKSLASH:
            return 0
        state = steps[state * classes + class_of[byte]]
        at += 1


@njit(cache=True, nogil=True)
def run_automaton(blob, starts, kinds, numbers, steps, class_of, classes, accepting, out):  # type: ignore[no-untyped-def]
    """Whether strings, or any of arrays of strings, are accepted: out[i] 1 no, 2 yes, 0 not told (with escapes)."""
    for i in range(len(numbers)):
        number = numbers[i]
        at = starts[number]
        if kinds[number] != TEXTS:
            out[i] = _runs(blob, at + 1, steps, class_of, classes, accepting)
            continue
        stop = starts[number + 1] - 1
        at += 1
        told = 1
        while at < stop:
            if blob[at] == _QUOTE:
                found = _runs(blob, at + 1, steps, class_of, classes, accepting)
                if found == 2:
                    told = 2
                    break
                if found == 0:
                    told = 0
                at = _string_end(blob, at) + 1
            else:
                at += 5
        out[i] = told
