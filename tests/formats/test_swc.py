"""SWC text and archives of it."""

from __future__ import annotations

import io
import re
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import swc
from fascicle.formats.skeleton import Skeleton
from fascicle.formats.swc import Neuron

_VIEWER_LINE = re.compile(r"[ \t]*(\d+)[ \t]+(\d+)([ \t]+-?\d+(\.\d+)?){4}[ \t]+(-1|\d+)[ \t]*")
"""What Neuroglancer takes for a node."""


def _forest() -> Skeleton:
    vertices = np.array([[0, 0, 0], [1, 0, 0.5], [2, 0, 1e-7], [9, 9, 9]], np.float32)
    return Skeleton(vertices, np.array([[2, 1], [0, 1]], np.uint32), {"radius": np.array([1, 2, 3.25, 4], np.float32)})


def test_golden_text() -> None:
    text = swc.write(_forest(), ["two trees", swc.made_from(77)])
    assert text == (
        '# two trees\n# {"mutation id":77}\n1 0 0 0 0 1 -1\n2 0 1 0 0.5 2 1\n3 0 2 0 0 3.25 2\n4 0 9 9 9 4 -1\n'
    )
    skeleton, kinds, comments = swc.read(text)
    assert kinds.tolist() == [0, 0, 0, 0]
    assert comments[0] == "two trees"
    assert swc.mutation_of(comments) == 77
    assert skeleton.edges.tolist() == [[1, 0], [2, 1]]


@st.composite
def forest(draw: st.DrawFn) -> Skeleton:
    count = draw(st.integers(1, 20))
    numbers = st.integers(-(10**6), 10**6).map(lambda n: n / 8)
    vertices = draw(st.lists(st.tuples(numbers, numbers, numbers), min_size=count, max_size=count))
    names = draw(st.permutations(range(count)))
    edges = []
    for i in range(1, count):
        parent = draw(st.integers(-1, i - 1))
        if parent >= 0:
            edges.append((names[i], names[parent]))
    radii = draw(st.lists(numbers.map(abs), min_size=count, max_size=count))
    return Skeleton(
        np.array(vertices, np.float32),
        np.array(edges, np.uint32).reshape(-1, 2),
        {"radius": np.array(radii, np.float32)},
    )


def _edges(skeleton: Skeleton) -> set[frozenset[tuple[float, ...]]]:
    ends = [(*vertex, radius) for vertex, radius in zip(skeleton.vertices.tolist(), skeleton.radii, strict=True)]
    return {frozenset((ends[a], ends[b])) for a, b in skeleton.edges.tolist()}


@given(forest())
def test_there_and_back(skeleton: Skeleton) -> None:
    text = swc.write(skeleton)
    assert all(_VIEWER_LINE.fullmatch(line) for line in text.splitlines())
    for line in text.splitlines():
        point, *_, parent = line.split()
        assert int(parent) < int(point)
    back, _, _ = swc.read(text)
    assert len(back.vertices) == len(skeleton.vertices)
    assert _edges(back) == _edges(skeleton)
    assert swc.write(back) == text


def test_children_may_come_first() -> None:
    skeleton, kinds, _ = swc.read("7\t3 1 1 1 5 9\n\n#\n9 1 0 0 0 5 -1 more\n")
    assert skeleton.edges.tolist() == [[0, 1]]
    assert kinds.tolist() == [3, swc.SOMA]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 0 0 0 1", "line 1"),
        ("1 0 a 0 0 1 -1", "line 1"),
        ("1 0 nan 0 0 1 -1", "line 1"),
        ("1 0 0 0 0 1 -1\n1 0 0 0 0 1 -1", "id 1 again"),
        ("1 0 0 0 0 1 5", "parent, 5"),
        (b"\xff", "UTF-8"),
    ],
)
def test_texts_that_are_none(text: str | bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        swc.read(text)


def test_cycles_cannot_be_written() -> None:
    ring = Skeleton(np.eye(3, dtype=np.float32), np.array([[0, 1], [1, 2], [2, 0]], np.uint32))
    with pytest.raises(BadRequest, match="no tree"):
        swc.write(ring)


def test_units() -> None:
    nm = swc.scaled(_forest(), (8, 8, 40))
    assert nm.vertices[3].tolist() == [72, 72, 360]
    assert nm.radii.tolist() == [8, 16, 26, 32]
    assert swc.write(swc.scaled(nm, (1 / 8, 1 / 8, 1 / 40))) == swc.write(_forest())


def test_mutations_in_comments() -> None:
    assert swc.mutation_of(["", "{", "[1]", '{"mutation id": true}']) is None
    assert swc.mutation_of(['{"scale": 1, "mutation_id": 5}']) == 5


def test_archive() -> None:
    neurons = [Neuron(20, "KC", 'KC, "left"'), Neuron(3)]
    texts = [(3, b"1 0 0 0 0 1 -1\n"), (20, b"1 0 5 0 0 1 -1\n")]
    out = io.BytesIO()
    swc.write_archive(out, texts, neurons)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert archive.getnames() == ["skeletons/3.swc", "skeletons/20.swc", "traced-neurons.csv"]
        assert {member.mtime for member in archive} == {0}
        table = archive.extractfile("traced-neurons.csv")
        assert table is not None
        assert table.read() == b'bodyId,type,instance\n3,,\n20,KC,"KC, ""left"""\n'
    assert list(swc.read_archive([out.getvalue()])) == [*texts, neurons[::-1]]
    with pytest.raises(ValueError, match="comes after"):
        swc.write_archive(io.BytesIO(), texts[::-1], [])
    with pytest.raises(BadRequest):
        list(swc.read_archive([b"x" * 600]))


def test_tables_of_neurons() -> None:
    assert swc.read_table("\ufeffinstance,bodyId,more\na,7,1\n".encode()) == [Neuron(7, "", "a")]
    for data in (b"", b"id,type\n", b"bodyId\nx\n", b"\xff"):
        with pytest.raises(BadRequest):
            swc.read_table(data)
