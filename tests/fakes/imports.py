"""The modules that a program loads, in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys


def loaded(program: str, *arguments: str, **environment: str) -> set[str]:
    """Modules with content after a program has run."""
    program += """
from oneagent.common import lazy_modules
print(*(name for name in sys.modules if not lazy_modules.is_postponed(name)))
"""
    command = [sys.executable, "-c", "import sys\n" + program, *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return set(ran.stdout.split())
