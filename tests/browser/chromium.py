"""The headless browser of the tests: that which takes pictures of the viewer."""

from fascicle.pipeline.chromium import READY, BrowserError, Chromium, program

__all__ = ["READY", "BrowserError", "Chromium", "program"]
