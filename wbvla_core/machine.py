"""What a number was measured on: one line for metrics.json, evaluation tables and reports."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe_machine(*details: str) -> str:
    """Processor, cores and Python of this machine, then ``details`` (library versions, device)."""
    return ", ".join((_processor(), f"{os.cpu_count()} cores", f"Python {platform.python_version()}", *details))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
