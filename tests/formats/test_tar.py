"""Archives that Python's own reader understands."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from fascicle.formats import tar


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=300),
            st.binary(max_size=1500),
        ),
        max_size=5,
    )
)
def test_entries_are_read_back(files: list[tuple[str, bytes]]) -> None:
    archive = b"".join(tar.entry(name.encode(), data) for name, data in files) + tar.END
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        members = opened.getmembers()
        assert [member.name for member in members] == [name for name, _ in files]
        for member, (_, data) in zip(members, files, strict=True):
            file = opened.extractfile(member)
            assert file is not None
            assert file.read() == data
            assert (member.mode, member.mtime, member.uid) == (0o755, 0, 0)
