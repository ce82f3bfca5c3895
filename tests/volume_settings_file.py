"""Settings of servers that show volumes which live elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving import Client


def settings_file(path: Path, volumes: Mapping[str, str]) -> str:
    """A file that names volumes; each has instances of its own name."""
    path.write_text(
        "".join(
            f'[store.{name}]\nengine = "ngprecomputed"\nref = "{address}"\ninstance = "{name}"\n'
            for name, address in volumes.items()
        )
    )
    return str(path)


def instances_of(client: Client, uuid: str, *names: str) -> dict[str, Any]:
    """The info of a repo's instances, once those that are named are there."""
    deadline = time.monotonic() + 20
    while True:
        found: dict[str, Any] = client.get(f"/api/repo/{uuid}/info").expect().json()["DataInstances"]
        if set(names) <= set(found) or time.monotonic() > deadline:
            assert set(names) <= set(found)
            return found
        time.sleep(0.05)
