"""The public names: frozen, documented, and the version that is installed."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from importlib.resources import files

import pytest

import ddsp_la2a as la

NAMES = [
    "CellStages",
    "CompressorParams",
    "Control",
    "ControlNet",
    "FitResult",
    "GreyBox",
    "OpticalCellParams",
    "SegmentDataset",
    "Stages",
    "Stream",
    "apply_findings",
    "check",
    "compressor",
    "evaluate",
    "fit",
    "index",
    "load",
    "optical_cell",
    "read_frame",
    "render_demo",
    "report",
    "segments",
]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(la, name))]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(la, name))]
METHODS = [
    (name, method)
    for name in CLASSES
    for method, value in vars(getattr(la, name)).items()
    if not method.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
]


def test_public_names_are_frozen():
    """A name that is added or taken away changes what users may rely on: change this list with the changelog."""
    assert sorted(la.__all__) == NAMES
    assert len(FUNCTIONS) + len(CLASSES) == len(NAMES)


def test_star_import_gives_them_all():
    namespace: dict[str, object] = {}
    exec("from ddsp_la2a import *", namespace)
    assert set(NAMES) <= set(namespace)


def test_version_is_the_installed_one():
    assert la.__version__ == version("ddsp-la2a")


def test_package_says_what_most_users_need():
    assert "Most users need only" in la.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented_in_one_line_first(name):
    docstring = inspect.getdoc(getattr(la, name))
    first, *rest = docstring.split("\n")
    assert first.endswith((".", ":"))
    assert len(first) <= 120
    assert not rest or rest[0] == ""


@pytest.mark.parametrize(
    "name",
    [name for name in FUNCTIONS],
)
def test_functions_say_what_goes_in_what_comes_out_and_what_is_refused(name):
    docstring = inspect.getdoc(getattr(la, name))
    for section in ("Args:", "Returns:", "Raises:"):
        assert f"\n{section}" in docstring, section


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_described(name):
    function = getattr(la, name)
    described = inspect.getdoc(function).split("\nArgs:")[1].split("\n\n")[0]
    for argument in inspect.signature(function).parameters:
        assert argument in described, argument


@pytest.mark.parametrize("name", CLASSES)
def test_classes_describe_what_they_are_made_of(name):
    one = getattr(la, name)
    described = inspect.getdoc(one).split("\nArgs:")[1]
    for argument in inspect.signature(one).parameters:
        assert argument in described, argument


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_public_methods_are_documented(name, method):
    value = vars(getattr(la, name))[method]
    assert inspect.getdoc(value.fget if isinstance(value, property) else value)


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_typed(name):
    target = getattr(la, name)
    signature = inspect.signature(target)
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    if inspect.isfunction(target):
        assert signature.return_annotation is not inspect.Signature.empty


def test_types_are_for_users_too():
    assert files("ddsp_la2a").joinpath("py.typed").is_file()


def test_names_of_the_public_face_work_together(frame, tmp_path, programme, quick, one_thread):
    """The lines that the package is known by."""
    findings = la.check(frame)
    clean = la.apply_findings(frame, findings)
    result = la.fit(clean, method="adam", adam=quick(3), segment_s=4.0, warmup_s=0.0)
    model = result.model
    audio = programme(1, 0.5)
    output = model.process(audio, 44100, compress_or_limit=1, peak_reduction=65)
    model.save(tmp_path / "la2a.safetensors")
    again = la.load(tmp_path / "la2a.safetensors")
    assert (again.process(audio, 44100, compress_or_limit=1, peak_reduction=65) == output).all()
    stream = model.stream(44100, compress_or_limit=1, peak_reduction=65)
    late = stream.latency_samples
    assert abs(stream.process(audio)[late:] - output[:-late]).max() < 1e-6
    assert len(la.evaluate({"grey box": model}, clean)) == 2
    assert len(result.curves()) == len(model.curves()) == 202
