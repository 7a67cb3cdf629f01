"""Headless Chromium through its command line: a page is measured by a script of its own."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    *("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
)
PHONE = (390, 844)
DESKTOP = (1280, 900)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
# In a frame, so that any width is possible, and the frame's colour scheme counts.
FRAME = """<!DOCTYPE html><iframe src="{page}"
style="border: 0; width: {width}px; height: {height}px;
color-scheme: {scheme}"></iframe><pre id="measured"></pre><script>
onmessage = event => {{ document.getElementById("measured").textContent = event.data; }};
</script>"""
# Everything is unfolded, so that nothing hides.
SCRIPT = """<script>addEventListener("load", () => {{
document.querySelectorAll("details").forEach(d => {{ d.open = true; }});
parent.postMessage(JSON.stringify({{{expressions}}}), "*"); }});</script>"""


def find_chromium() -> str | None:
    """Path of the browser, if one is installed; the variable CHROMIUM names another one."""
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else NAMES
    return next((path for name in names if (path := shutil.which(name))), None)


def open_page(path: Path, profile: Path) -> tuple[str, list[str]]:
    """The document when it is loaded, and what the console shows."""
    browser = find_chromium()
    assert browser is not None
    command = [browser, *FLAGS, f"--user-data-dir={profile}", path.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def measure(
    page: Path,
    expressions: dict[str, str],
    size: tuple[int, int] = DESKTOP,
    dark: bool = False,
) -> dict[str, Any]:
    """Values of JavaScript expressions, by name, in a window of this size."""
    inside = ", ".join(f"{json.dumps(key)}: ({code})" for key, code in expressions.items())
    text = POLICY.sub("", page.read_text(encoding="utf-8"))  # it forbids scripts
    copy = page.with_name(f"measured-{page.name}")
    copy.write_text(text + SCRIPT.format(expressions=inside), encoding="utf-8")
    frame = page.with_name(f"frame-{page.name}")
    scheme = "dark" if dark else "light"
    frame.write_text(FRAME.format(page=copy.name, width=size[0], height=size[1], scheme=scheme))
    document, _ = open_page(frame, page.with_name("profile"))
    (measured,) = re.findall(r'<pre id="measured">(.*?)</pre>', document, re.DOTALL)
    return json.loads(html.unescape(measured))
