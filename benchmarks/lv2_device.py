"""A compressor that shares nothing with this project: an LV2 plug-in, run by ``lv2apply`` in a process of its own.

On Debian: ``apt-get install --no-install-recommends lilv-utils lsp-plugins-lv2``. The simulated unit shares its physics
with one of the models, so it can't show that this model is right; a foreign device can.

LSP's *Compressor Mono* (1.2.5) is a clean feedback compressor with these controls:

========== ======================================= =================================================================
port       value here                              meaning
========== ======================================= =================================================================
``sct``    1                                       side chain fed back from the output (0: fed forward)
``scm``    0                                       level of the side chain: peak (1 RMS, 2 low-pass, 3 moving average)
``scr``    0                                       reactivity in ms; does nothing for peaks
``sla``    0                                       lookahead in ms; the latency is 0 only without it
``al``     10^(threshold / 20)                     threshold as amplitude, 0.001 to 1
``cr``     ratio                                   of the curve in the loop, 1 to 100
``kn``     1                                       knee as amplitude, 1 hard to 0.0631 (24 dB)
``at``     5                                       attack in ms
``rt``     200                                     release in ms
========== ======================================= =================================================================

Being fed back, the curve of the whole has the slope 1 / (2 − 1/ratio) above the threshold, so at most 2:1.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

LSP_COMPRESSOR = "http://lsp-plug.in/plugins/lv2/compressor_mono"
"""URI of LSP's compressor for one channel."""

_PACKAGES = "on Debian: apt-get install --no-install-recommends lilv-utils lsp-plugins-lv2"


def lsp_feedback(threshold_db: float, ratio: float) -> dict[str, float]:
    """Controls of LSP's compressor for a feedback peak compressor with a hard knee, 5 ms attack and 200 ms release.

    Args:
        threshold_db: −60 to 0 dBFS of peak.
        ratio: 1 to 100, of the curve in the loop.
    """
    fixed = {"sct": 1.0, "scm": 0.0, "scr": 0.0, "sla": 0.0, "kn": 1.0, "at": 5.0, "rt": 200.0}
    return fixed | {"al": 10.0 ** (threshold_db / 20.0), "cr": ratio}


def missing(uri: str = LSP_COMPRESSOR) -> str | None:
    """Why a plug-in can't be used here and what to install, or None where it can."""
    for tool in ("lv2apply", "lv2info"):
        if shutil.which(tool) is None:
            return f"expected the command {tool}, but it isn't installed; {_PACKAGES}"
    if subprocess.run(["lv2info", uri], capture_output=True, timeout=60, check=False).returncode:
        return f"expected the LV2 plug-in {uri}, but it isn't installed; {_PACKAGES}"
    return None


def render(audio: np.ndarray, sample_rate: int, controls: Mapping[str, float], uri: str = LSP_COMPRESSOR) -> np.ndarray:
    """Audio through a plug-in with one input and one output.

    Args:
        audio: samples; both ways go through float32 files.
        sample_rate: Hz.
        controls: positions by port symbol; the rest stays at its default. ``lv2apply`` doesn't check ranges.
        uri: of the plug-in.

    Shape:
        ``(time,)`` to ``(time,)``, float32; a latency isn't taken out.

    Raises:
        RuntimeError: ``lv2apply`` or the plug-in isn't installed, or it failed, with what it said.
    """
    if reason := missing(uri):
        raise RuntimeError(reason)
    positions = [part for name, value in controls.items() for part in ("-c", name, repr(float(value)))]
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "in.wav", Path(scratch) / "out.wav"
        soundfile.write(source, audio, sample_rate, "FLOAT")
        command = ["lv2apply", "-i", str(source), "-o", str(target), *positions, uri]
        ran = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=3600, check=False)
        if ran.returncode:
            raise RuntimeError(f"lv2apply failed: {' '.join(ran.stderr.split()) or ran.returncode}")
        return soundfile.read(target, dtype="float32")[0]
