"""Machine code on disk belongs to all the sources that it is made of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ddsp_la2a

SCRIPT = """
import numpy as np
from ddsp_la2a.dsp.kernels import compress_forward
row, output = np.full((1, 8), 0.5), np.empty((1, 8))
numbers = np.array([[-20.0, 0.75, 6.0, 0.1, 0.1, 0.1, 0.1, 0.0, 1.0, 0.0, 0.0, 1.0]])
state = np.array([[1.0, 1.0, 0.0, 0.0]])
compress_forward(0, 1, row, numbers, False, False, state, output, np.empty((1, 0, 4)), np.empty((1, 3, 0)))
print(float(output[0, -1]), sum(compress_forward.stats.cache_hits.values()))
"""


def _run(root: Path) -> tuple[float, int]:
    environment = {**os.environ, "PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(root / "cache")}
    command = [sys.executable, "-c", SCRIPT]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=True, timeout=120)
    output, hits = ran.stdout.split()
    return float(output), int(hits)


@pytest.mark.slow
def test_a_change_of_what_a_loop_is_made_of_is_compiled_anew(tmp_path: Path) -> None:
    package = tmp_path / "ddsp_la2a"
    shutil.copytree(Path(ddsp_la2a.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    first, hits = _run(tmp_path)
    assert hits == 0
    assert _run(tmp_path) == (first, 1)
    units = package / "units.py"
    text = units.read_text(encoding="utf-8")
    assert "LEVEL_FLOOR = 1e-8" in text
    units.write_text(text.replace("LEVEL_FLOOR = 1e-8", "LEVEL_FLOOR = 0.9"), encoding="utf-8")
    changed, hits = _run(tmp_path)
    assert hits == 0
    assert changed != first
