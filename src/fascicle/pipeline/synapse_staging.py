"""Points and relations of a table, put in order on disk: a table of any length in bounded memory.

Tables come in any order, and their relations may be rows of another table; an annotation instance wants each block's
elements together. A temporary SQLite file sorts and joins them. Nothing is written anywhere else before the whole table
has been read, so a mistake in its last row changes nothing.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from fascicle.pipeline.synapse_rows import Element

BLOCK = 64
"""Edge of the blocks by which points are put in order, in voxels; that of the usual annotation instance."""
_BATCH = 5000
_CACHE_KIB = 65536
_TABLES = """
CREATE TABLE points (seq INTEGER PRIMARY KEY, bz INT, by INT, bx INT, z INT, y INT, x INT, kind TEXT, tags TEXT,
    props TEXT, line INT);
CREATE TABLE relations (seq INTEGER PRIMARY KEY, z INT, y INT, x INT, rel TEXT, tz INT, ty INT, tx INT);
CREATE TABLE names (name TEXT PRIMARY KEY, z INT, y INT, x INT) WITHOUT ROWID;
CREATE TABLE links (pre TEXT, post TEXT, line INT);
"""


class Staging:
    """A set of elements while it is gathered. `with Staging() as staged: ...` removes the file at the end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fascicle-table-")
        self._database = sqlite3.connect(Path(self._folder.name) / "staged", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}", "temp_store=FILE"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute(f"PRAGMA temp_store_directory='{self._folder.name}'")
        self._database.executescript(_TABLES + "BEGIN")
        self._points: list[tuple[Any, ...]] = []
        self._relations: list[tuple[Any, ...]] = []
        self._links: list[tuple[str, str, int]] = []
        self._names: list[tuple[Any, ...]] = []
        self._joined = False
        """Relations come from several rows, which may say the same."""

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._database.close()
        self._folder.cleanup()

    def add(self, element: Element, line: int, name: str | None = None) -> None:
        """An element of a line of the table, which other rows may know by a name."""
        x, y, z = element["Pos"]
        tags = json.dumps(element["Tags"]) if element["Tags"] else ""
        props = json.dumps(element["Prop"])
        self._points.append((z // BLOCK, y // BLOCK, x // BLOCK, z, y, x, element["Kind"], tags, props, line))
        for relation in element["Rels"]:
            tx, ty, tz = relation["To"]
            self._relations.append((z, y, x, relation["Rel"], tz, ty, tx))
        if name is not None:
            self._names.append((name, z, y, x))
        if len(self._points) >= _BATCH:
            self._flush()

    def link(self, pre: str, post: str, line: int) -> None:
        """A connection between points that are known by name."""
        self._joined = True
        self._links.append((pre, post, line))
        if len(self._links) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        run = self._database.executemany
        columns = "bz, by, bx, z, y, x, kind, tags, props, line"
        run(f"INSERT INTO points ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)", self._points)
        run("INSERT INTO relations (z, y, x, rel, tz, ty, tx) VALUES (?,?,?,?,?,?,?)", self._relations)
        run("INSERT OR REPLACE INTO names VALUES (?,?,?,?)", self._names)
        run("INSERT INTO links VALUES (?,?,?)", self._links)
        for waiting in (self._points, self._relations, self._names, self._links):
            waiting.clear()

    def finish(self, *, repeated: bool = False) -> tuple[int, tuple[int, str] | None]:
        """Put everything in order: how many points there are, and the (line, problem) of the first mistake.

        With `repeated` a point may come several times: the first one counts, and all relations.
        """
        self._flush()
        ask = self._database.execute
        ask("CREATE INDEX places ON points (z, y, x)")
        unknown = ask(
            "SELECT line, CASE WHEN a.name IS NULL THEN pre ELSE post END FROM links LEFT JOIN names a ON a.name = pre "
            "LEFT JOIN names b ON b.name = post WHERE a.name IS NULL OR b.name IS NULL ORDER BY line LIMIT 1"
        ).fetchone()
        if unknown:
            return 0, (unknown[0], f"there is no point with the id {unknown[1]}")
        for near, far, relation in (("pre", "post", "PreSynTo"), ("post", "pre", "PostSynTo")):
            ask(
                f"INSERT INTO relations (z, y, x, rel, tz, ty, tx) SELECT a.z, a.y, a.x, '{relation}', b.z, b.y, b.x "
                f"FROM links JOIN names a ON a.name = {near} JOIN names b ON b.name = {far} ORDER BY links.rowid"
            )
        if repeated:
            self._joined = True
            ask(
                "DELETE FROM points WHERE EXISTS (SELECT 1 FROM points o WHERE o.z = points.z AND o.y = points.y "
                "AND o.x = points.x AND o.seq < points.seq)"
            )
        twice = ask(
            "SELECT min(line), max(line), x, y, z FROM points GROUP BY z, y, x HAVING count(*) > 1 ORDER BY 2 LIMIT 1"
        ).fetchone()
        if twice:
            return 0, (twice[1], f"a point at {twice[2]},{twice[3]},{twice[4]} is there already, from {twice[0]}")
        ask("CREATE INDEX related ON relations (z, y, x, seq)")
        return int(ask("SELECT count(*) FROM points").fetchone()[0]), None

    def elements(self) -> Iterator[Element]:
        """All elements, block by block (z, then y, then x), and inside of a block as they came."""
        rows = self._database.execute("SELECT z, y, x, kind, tags, props FROM points ORDER BY bz, by, bx, seq")
        related = self._database.cursor()
        query = "SELECT rel, tx, ty, tz FROM relations WHERE z=? AND y=? AND x=? ORDER BY seq"
        for z, y, x, kind, tags, props in rows:
            found = related.execute(query, (z, y, x)).fetchall()
            if self._joined and len(found) > 1:
                found = list(dict.fromkeys(found))
            yield {
                "Pos": [x, y, z],
                "Kind": kind,
                "Tags": json.loads(tags) if tags else [],
                "Prop": json.loads(props),
                "Rels": [{"Rel": rel, "To": [tx, ty, tz]} for rel, tx, ty, tz in found],
            }
