"""Skeletons as SWC text, and archives of them as the hemibrain's release has.

Source: R. C. Cannon et al., "An on-line archive of reconstructed hippocampal neurons" (1998); the rules of the
parser are those of Neuroglancer's reader (https://github.com/google/neuroglancer), the strictest one in use.
A line is `id type x y z radius parent`; a parent of -1 is none, so a text may hold several trees; lines that begin
with # are comments. Numbers are written without exponents, and every parent before its children, though readers here
take any order.

Coordinates of labelmaps in DVID, and of the hemibrain, count voxels of the finest scale, not nanometres: `scaled`
goes from one to the other. An archive is a tar of `skeletons/<body>.swc` in the order of the bodies and of
`traced-neurons.csv`, with columns bodyId, type and instance.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats import tar
from fascicle.formats.skeleton import RADIUS, Skeleton

UNDEFINED = 0
"""The type of a point of which nothing is known."""
SOMA = 1
DECIMALS = 3
MUTATION = "mutation id"
"""The member of the comment that says of which state of a body a skeleton was made."""
MEMBER = "skeletons/{body}.swc"
TABLE = "traced-neurons.csv"
MODE = 0o644
_NAME = re.compile(r"(?:.*/)?(\d{1,20})\.swc", re.ASCII)


def write(skeleton: Skeleton, comments: Sequence[str] = (), types: NDArray[np.integer] | None = None) -> str:
    """A skeleton as text, after lines of comments. Positions and radii are written as they are.

    Trees come in the order of their first vertices, which are their roots. Raises BadRequest if there is a cycle,
    which SWC cannot hold.
    """
    order, parents = rooted(skeleton)
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(1, len(order) + 1)
    lines = [f"# {line}".rstrip() for comment in comments for line in comment.splitlines()]
    vertices, radii = skeleton.vertices.tolist(), skeleton.radii.tolist()
    kinds = [UNDEFINED] * len(order) if types is None else types.tolist()
    for i, vertex in enumerate(order.tolist(), 1):
        x, y, z = vertices[vertex]
        parent = parents[vertex]
        up = -1 if parent < 0 else number[parent]
        lines.append(f"{i} {kinds[vertex]} {_text(x)} {_text(y)} {_text(z)} {_text(radii[vertex])} {up}")
    return "\n".join(lines) + "\n"


def _text(number: float) -> str:
    text = f"{number:.{DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def rooted(skeleton: Skeleton) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(vertices in an order in which parents come before children, parent of each vertex or -1), both i64[n].

    Raises BadRequest if edges form a cycle.
    """
    count = len(skeleton.vertices)
    edges = skeleton.edges.astype(np.int64)
    both = np.concatenate((edges, edges[:, ::-1])) if len(edges) else np.zeros((0, 2), np.int64)
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    starts = np.searchsorted(both[:, 0], np.arange(count + 1)).tolist()
    others = both[:, 1].tolist()
    parents = [-2] * count
    order: list[int] = []
    for root in range(count):
        if parents[root] != -2:
            continue
        parents[root] = -1
        stack = [root]
        while stack:
            vertex = stack.pop()
            order.append(vertex)
            for other in others[starts[vertex] : starts[vertex + 1]][::-1]:
                if parents[other] == -2:
                    parents[other] = vertex
                    stack.append(other)
    trees = sum(parent == -1 for parent in parents)
    if len(edges) != count - trees:
        raise BadRequest(f"a skeleton of {count} vertices in {trees} pieces has {len(edges)} edges: it is no tree")
    return np.array(order, np.int64), np.array(parents, np.int64)


def read(text: str | bytes) -> tuple[Skeleton, NDArray[np.uint8], list[str]]:
    """The skeleton in a text, the types of its points u8[n], and its comments without their #.

    BadRequest names the line that cannot be read, an id that comes twice, or a parent that is not there.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"SWC is text in UTF-8: {error}") from None
    comments: list[str] = []
    rows: list[tuple[float, float, float, float]] = []
    kinds: list[int] = []
    parents: list[int] = []
    place: dict[int, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if fields[0].startswith("#"):
            comments.append(line.strip().removeprefix("#").strip())
            continue
        try:
            if len(fields) < 7:
                raise ValueError
            point, kind, parent = int(fields[0]), int(fields[1]), int(fields[6])
            x, y, z, radius = (float(value) for value in fields[2:6])
        except ValueError:
            raise BadRequest(f"line {number} of SWC is no `id type x y z radius parent`: {line[:80]!r}") from None
        if not all(np.isfinite((x, y, z, radius))) or not 0 <= kind < 256:
            raise BadRequest(f"line {number} of SWC has numbers that make no sense: {line[:80]!r}")
        if point in place:
            raise BadRequest(f"line {number} of SWC has the id {point} again")
        place[point] = len(rows)
        rows.append((x, y, z, radius))
        kinds.append(kind)
        parents.append(parent)
    edges = []
    for child, parent in enumerate(parents):
        if parent < 0:
            continue
        if parent not in place:
            raise BadRequest(f"SWC has a point whose parent, {parent}, is not there")
        edges.append((child, place[parent]))
    table = np.array(rows, np.float32).reshape(-1, 4)
    skeleton = Skeleton(
        np.ascontiguousarray(table[:, :3]), np.array(edges, np.uint32).reshape(-1, 2), {RADIUS.id: table[:, 3].copy()}
    )
    return skeleton, np.array(kinds, np.uint8), comments


def scaled(skeleton: Skeleton, factors_xyz: Sequence[float]) -> Skeleton:
    """A skeleton with x, y and z multiplied. Radii are multiplied by the first factor, since voxels are counted so."""
    factors = np.asarray(factors_xyz, np.float64)
    attributes = dict(skeleton.attributes)
    if RADIUS.id in attributes:
        attributes[RADIUS.id] = (attributes[RADIUS.id] * factors[0]).astype(np.float32)
    return Skeleton((skeleton.vertices * factors).astype(np.float32), skeleton.edges, attributes)


# -- what a text says of itself


def made_from(mutation_id: int, **members: object) -> str:
    """The comment that says of which state of a body a skeleton was made."""
    return msgspec.json.encode({MUTATION: mutation_id} | members).decode()


def mutation_of(comments: Iterable[str]) -> int | None:
    """The mutation id that a comment in JSON names, or None."""
    for comment in comments:
        if not comment.startswith("{"):
            continue
        try:
            members = msgspec.json.decode(comment)
        except msgspec.DecodeError:
            continue
        found = members.get(MUTATION, members.get("mutation_id")) if isinstance(members, dict) else None
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return None


# -- archives


class Neuron(msgspec.Struct, frozen=True):
    """A row of the archive's table."""

    body: int
    type: str = ""
    instance: str = ""


def write_archive(out: BinaryIO, texts: Iterable[tuple[int, bytes]], neurons: Iterable[Neuron]) -> None:
    """Write a tar: texts by ascending bodies, then the table. Equal input gives equal bytes; nothing is kept."""
    before = -1
    for body, text in texts:
        if body <= before:
            raise ValueError(f"body {body} comes after body {before}")
        before = body
        out.write(tar.entry(MEMBER.format(body=body).encode(), text, MODE))
    out.write(tar.entry(TABLE.encode(), write_table(neurons), MODE))
    out.write(tar.END)


def write_table(neurons: Iterable[Neuron]) -> bytes:
    """`traced-neurons.csv`: one line for each neuron, by body."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("bodyId", "type", "instance"))
    for neuron in sorted(neurons, key=lambda one: one.body):
        writer.writerow((neuron.body, neuron.type, neuron.instance))
    return out.getvalue().encode()


def read_table(data: bytes) -> list[Neuron]:
    """The neurons of such a table; other columns are passed over. BadRequest names the line that cannot be read."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(f"the table of neurons cannot be read: {error}") from None
    if not rows or "bodyId" not in rows[0]:
        raise BadRequest("the table of neurons has no column bodyId")
    columns = {name: i for i, name in enumerate(rows[0])}
    neurons = []
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        values = {name: row[i] if i < len(row) else "" for name, i in columns.items()}
        if not (values["bodyId"].isascii() and values["bodyId"].isdigit()):
            raise BadRequest(f"line {number} of the table of neurons has the bodyId {values['bodyId']!r}")
        neurons.append(Neuron(int(values["bodyId"]), values.get("type", ""), values.get("instance", "")))
    return neurons


def read_archive(pieces: Iterable[bytes | memoryview]) -> Iterator[tuple[int, bytes] | list[Neuron]]:
    """What a tar has: (body, text) for members named `<body>.swc` in any folder, and the table as a list of neurons.

    BadRequest if it is no tar.
    """
    archive = tar.Reader(pieces)
    while (found := archive.next_entry()) is not None:
        name = found.name.decode("utf-8", "replace")
        match = _NAME.fullmatch(name)
        if found.kind == tar.REGULAR and match is not None:
            yield int(match[1]), archive.read(found)
        elif found.kind == tar.REGULAR and name.rpartition("/")[2] == TABLE:
            yield read_table(archive.read(found))
