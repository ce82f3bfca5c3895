"""The datatype that CONTRIBUTING.md adds in ten minutes works as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from serving import RunningServer, new_instance, new_repo

DOCUMENT = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"
WITH_COUNTER = """
from fascicle.datatypes import registry
registry._PACKAGES["counter"] = ("counter_example", "Counter")
from fascicle.cli import main
main()
"""


def test_the_example_datatype_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert code is not None
    (tmp_path / "counter_example.py").write_text(re.sub(r"(?m)^ {3}", "", code[1]))
    program = [sys.executable, "-c", WITH_COUNTER]
    server = RunningServer(tmp_path / "data", environment={"PYTHONPATH": str(tmp_path)}, program=program)
    server.start()
    try:
        with server.client() as client:
            uuid = new_repo(client)
            path = new_instance(client, uuid, "counter", "visits")
            for number in (1, 2, 3):
                assert client.post(f"{path}/count").expect().json() == {"count": number}
            client.post(f"/api/node/{uuid}/commit", {}).expect()
            assert client.post(f"{path}/count").status == 400
            child = client.post(f"/api/node/{uuid}/newversion", {}).expect().json()["child"]
            assert client.post(f"/api/node/{child}/visits/count").expect().json() == {"count": 4}
            assert client.get(f"{path}/count").expect().json() == {"count": 3}
            assert "count up" in client.get(f"{path}/help").expect().body.decode()
    finally:
        server.kill9()
