"""Make the pictures in docs/images: `python docs/make_screenshots.py`.

Needs Chromium, and for the pictures of real data the folder named by FASCICLE_SHARED (others are made without it).
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES = REPOSITORY / "docs" / "images"
LIMIT_BYTES = 390_000
sys.path.insert(0, str(REPOSITORY / "tests" / "browser"))

from chromium import Chromium  # noqa: E402


@contextmanager
def demo(*options: str) -> Iterator[str]:
    """Run `fascicle demo`; gives the link that it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(Path(sys.executable).with_name("fascicle")), "demo", "--no-browser", "--http", f"127.0.0.1:{port}"]
    running = subprocess.Popen([*words, *options], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert running.stdout is not None
        yield next(line for line in running.stdout if line.startswith("http")).strip()
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait()


def save(browser: Chromium, name: str) -> None:
    """Keep what the browser shows, with fewer colours if it would be too large."""
    picture = Image.open(io.BytesIO(browser.screenshot_png())).convert("RGB")
    for colours in (None, 256, 128, 64):
        out = io.BytesIO()
        (picture if colours is None else picture.quantize(colours)).save(out, "PNG", optimize=True)
        if out.tell() <= LIMIT_BYTES:
            break
    (IMAGES / name).write_bytes(out.getvalue())
    print(f"{name}: {out.tell()} bytes, {colours or 'all'} colours")


def in_3d(link: str) -> str:
    """A link to the largest bodies of another one in 3-D: surfaces that skeletons and synapses shine through."""
    address = link.partition("#!")[2]
    with urllib.request.urlopen(address) as answer:
        state = json.load(answer)
    state["layers"] = [layer for layer in state["layers"] if layer["name"] in ("segmentation", "synapses")]
    bodies = state["layers"][0]
    bodies["segments"] = bodies["segments"][:9]
    bodies["objectAlpha"] = 0.32
    bodies["skeletonRendering"] = {"mode3d": "lines_and_points", "lineWidth3d": 3}
    state |= {"layout": "3d", "showSlices": False, "showAxisLines": False, "projectionScale": 300}
    asked = urllib.request.Request(f"{address}-3d", json.dumps(state).encode(), method="POST")
    urllib.request.urlopen(asked).close()
    return f"{link}-3d"


def main() -> None:
    shared = Path(os.environ.get("FASCICLE_SHARED", REPOSITORY.parent / "shared")) / "data"
    volumes = {"demo.png": (), "medulla.png": ("--volume", str(shared / "fib25-medulla-250"))}
    IMAGES.mkdir(exist_ok=True)
    with Chromium(1180, 740) as browser:
        for name, options in volumes.items():
            if options and not Path(options[1]).is_dir():
                print(f"{name}: left out, there is no {options[1]}")
                continue
            with demo(*options) as link:
                browser.open(link)
                browser.wait_for_viewer()
                save(browser, name)
                if not options:
                    browser.open(in_3d(link))
                    browser.wait_for_viewer()
                    save(browser, "demo-3d.png")
                    browser.open(link.partition("/neuroglancer/")[0] + "/")
                    browser.wait_for("document.querySelector('section a.button') !== null")
                    save(browser, "console.png")


if __name__ == "__main__":
    main()
