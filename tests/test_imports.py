"""Imports go one way, and importing the package does no work."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import baselines
import ddsp_la2a

PACKAGE = Path(ddsp_la2a.__file__).parent
BASELINES = Path(baselines.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

ALLOWED = {
    "units": set(),
    "files": set(),
    "controls": set(),
    "html": set(),
    "simulated_unit": {"simulated_unit", "units"},
    "dsp": {"dsp", "units"},
    "data": {"data", "controls", "files", "units"},
    "fetching": {"fetching", "data", "files"},
    "model": {"model", "dsp", "controls", "files", "units"},
    "evaluation": {"evaluation", "data", "controls", "files", "html", "units"},
    "interrupts": set(),
    "fitting": {"fitting", "model", "dsp", "data", "controls", "files", "interrupts", "units"},
    "console": {"fitting", "interrupts"},  # ends what runs well, in every process
    "export": {"export", "model", "dsp", "controls", "files", "html"},
    "compare": {"evaluation", "export", "fitting", "model", "data", "controls", "files", "units"},
    "run_folder": {"compare", "fitting", "data", "controls", "files"},
}
"""What a room may import of the package; the command line, ``__main__`` and ``__init__`` gather them all."""

ALLOWED_BESIDE = {
    "data/demo.py": {"simulated_unit"},  # renders the embedded recordings
    "data/stimulus.py": {"simulated_unit"},  # plays the same kind of programme to real units
    "evaluation/figures.py": {"model", "dsp"},  # draws the model's curves
    "evaluation/style.py": {"model"},  # knows what the columns of the curves are called
}

HEAVY = ("torchaudio", "matplotlib", "auraloss", "dasp_pytorch", "pyloudnorm", "jinja2")


def room(name: str) -> str:
    """Room of a module ``ddsp_la2a.room.module``; ``__init__`` for the package itself."""
    return name.split(".")[1] if "." in name else "__init__"


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, within functions too, names of the package resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            is_room = node.module == "ddsp_la2a"
            found |= {f"ddsp_la2a.{alias.name}" for alias in node.names} if is_room else {node.module or ""}
    return found


def rooms_imported(path: Path) -> set[str]:
    return {room(name) for name in imported(path) if name.split(".")[0] == "ddsp_la2a"}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_the_rule_finds_what_it_looks_for():
    """The rest of this file would pass if nothing were found."""
    assert rooms_imported(PACKAGE / "fitting" / "fit.py") >= {"data", "model", "fitting", "units"}
    assert rooms_imported(PACKAGE / "cli_fit.py") >= {"compare", "data", "fitting", "__init__"}
    assert rooms_imported(PACKAGE / "model" / "grey_box.py") >= {"model", "dsp"}
    assert len(MODULES) > 25


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_rooms_import_one_way(path):
    name = relative(path).removesuffix(".py").split("/")[0]
    if name in ("__init__", "__main__") or name.startswith("cli"):
        assert "__main__" not in rooms_imported(path)
        assert name == "__main__" or "cli" not in rooms_imported(path)
        return
    assert not any(imported.startswith("cli") for imported in rooms_imported(path))
    assert name in ALLOWED, f"{name}: a new room; say in this test what it may import"
    assert rooms_imported(path) <= ALLOWED[name] | ALLOWED_BESIDE.get(relative(path), set())


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_the_package_never_imports_the_baselines(path):
    assert not any(name.split(".")[0] == "baselines" for name in imported(path))


def test_the_reference_shares_nothing_with_what_it_tests():
    assert not any(name.startswith("ddsp_la2a") for name in imported(BASELINES / "numpy_compressor.py"))


@pytest.mark.parametrize("name", ["figures.py", "style.py"])
def test_figures_never_import_the_state_machine_of_matplotlib(name):
    assert "matplotlib.pyplot" not in imported(PACKAGE / "evaluation" / name)


def in_a_fresh_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


LOADED = """
import json, sys, logging, random, warnings
handlers, filters = list(logging.getLogger().handlers), list(warnings.filters)
state = random.getstate()
import ddsp_la2a, ddsp_la2a.compare, ddsp_la2a.cli, baselines.registry
from ddsp_la2a.dsp import feedback_kernels, kernels, smoothing_kernels, tangent_kernels
rooms = [feedback_kernels, kernels, smoothing_kernels, tangent_kernels]
compiled = [n for room in rooms for n in dir(room) if getattr(getattr(room, n), "signatures", None)]
print(json.dumps({
    "modules": sorted({m.split(".")[0] for m in sys.modules}),
    "compiled": compiled,
    "logging": logging.getLogger().handlers == handlers,
    "random": random.getstate() == state,
}))
"""


def test_importing_does_no_heavy_work():
    ran = in_a_fresh_process(LOADED)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    seen = json.loads(ran.stdout)
    assert not set(HEAVY) & set(seen["modules"])
    assert seen["compiled"] == []
    assert seen["logging"]
    assert seen["random"]


WITHOUT_TORCHAUDIO = """
import numpy as np
import ddsp_la2a as la
from baselines.lstm import ConditionedLSTM
audio = np.zeros(480, dtype=np.float32)
at = {"compress_or_limit": 0, "peak_reduction": 65}
la.load("published").process(audio, 48000, **at)
model = ConditionedLSTM(44100)
print(model.process(audio, 44100, **at).shape)
model.process(audio, 48000, **at)
"""


@pytest.mark.parametrize(
    "content",
    ["raise OSError('libcudart.so.13: cannot open shared object file')", "raise ImportError('no torchaudio here')"],
    ids=["does not load", "missing"],
)
def test_a_torchaudio_that_does_not_load_is_missed_only_where_it_is_needed(tmp_path, content):
    (tmp_path / "torchaudio.py").write_text(content, encoding="utf-8")
    ran = in_a_fresh_process(
        WITHOUT_TORCHAUDIO, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    assert ran.stdout == "(480,)\n"
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: torchaudio is needed to resample 48000 Hz to 44100 Hz and doesn't load here")
    assert "install a torchaudio that matches torch" in last


def test_looking_through_recordings_needs_no_torch(tmp_path):
    """Its import takes a second and half a gigabyte; ``check`` itself some MB."""
    program = """
import sys
from ddsp_la2a import cli
sys.argv = ["ddsp-la2a", "index", "nowhere"]
try:
    cli.main()
except SystemExit as end:
    assert end.code == 2
import ddsp_la2a as la
la.check, la.index, la.apply_findings
import ddsp_la2a.cli_data, ddsp_la2a.cli_fetch
assert "torch" not in sys.modules
la.compressor
assert "torch" in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
