"""Which stages a model has: their parameters, the compressor they make, and their names on the command line."""

from __future__ import annotations

import itertools

import pytest
import torch

from ddsp_la2a.dsp.compressor import CompressorParams
from ddsp_la2a.dsp.optical_cell import OpticalCellParams
from ddsp_la2a.model.parameters import (
    CARD_PARAMETERS,
    MAKEUP,
    PARAMETERS,
    SHELF_DB,
    SHELF_HZ,
    SLOW_FACTOR,
    SLOW_MIX,
    TAPS,
)
from ddsp_la2a.model.stages import HARDWARE, PLAIN, CellStages, Stages, parse_stages, stages_text

EVERY = [Stages(*on) for on in itertools.product((False, True), repeat=4)]
EVERY_CELL = [CellStages(*on) for on in itertools.product((False, True), repeat=2)]


def test_the_default_is_what_hardware_is_fitted_with() -> None:
    assert Stages() == HARDWARE == Stages(output_filter=True, slow_release=True, shelf=False, feedback=False)
    assert Stages(False, False, False, False) == PLAIN


@pytest.mark.parametrize("stages", EVERY, ids=stages_text)
def test_parameters_come_in_the_order_of_the_table(stages: Stages) -> None:
    names = [p.name for p in stages.parameters]
    expected = {MAKEUP.name}
    expected |= {SLOW_FACTOR.name, SLOW_MIX.name} if stages.slow_release else set()
    expected |= {SHELF_DB.name, SHELF_HZ.name} if stages.shelf else set()
    expected |= {tap.name for tap in TAPS} if stages.output_filter else set()
    assert names == [p.name for p in PARAMETERS if p.name in expected]


@pytest.mark.parametrize("stages", EVERY, ids=stages_text)
@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_compressor_has_what_is_on_and_nothing_else(stages: Stages, shape: tuple[int, ...]) -> None:
    values = {
        p.name: torch.full(shape, p.start + 0.01 * i, dtype=torch.float64)
        for i, p in enumerate((*CARD_PARAMETERS, *stages.parameters))
    }
    params = stages.params(values, 48000.0)
    taps = [tap.name for tap in TAPS]
    assert list(params.numbers()) == [name for name in values if name not in taps]
    assert all(value is values[name] for name, value in params.numbers().items())
    assert params.feedback is stages.feedback
    assert params.is_plain is (stages == PLAIN)
    if not stages.output_filter:
        assert params.output_filter is None
        return
    assert params.output_filter is not None
    assert params.output_filter.sample_rate == 48000.0
    assert params.output_filter.coefficients.shape == (*shape, 5)
    assert all(torch.equal(params.output_filter.coefficients[..., i], values[name]) for i, name in enumerate(taps))


def test_all_are_parameters_of_a_family() -> None:
    fields = CompressorParams.__dataclass_fields__.keys() | OpticalCellParams.__dataclass_fields__.keys()
    assert {p.name for p in PARAMETERS} - {tap.name for tap in TAPS} <= fields
    assert len({p.name for p in PARAMETERS}) == len(PARAMETERS)


@pytest.mark.parametrize("stages", EVERY_CELL, ids=stages_text)
def test_an_optical_cell_has_its_constants_in_the_order_of_its_derivatives(stages: CellStages) -> None:
    of_all = (*stages.card_parameters, *stages.parameters)
    values = {p.name: torch.tensor(p.start, dtype=torch.float64) for p in of_all}
    params = stages.params(values, 48000.0)
    taps = [tap.name for tap in TAPS]
    assert list(params.numbers()) == [name for name in values if name not in taps]
    assert (params.fast_trap_capture_per_s is None) is (params.slow_trap_capture_per_s is None) is not stages.traps
    assert (params.output_filter is not None) is stages.output_filter
    assert parse_stages(stages_text(stages), "optical-cell") == stages


@pytest.mark.parametrize("stages", EVERY, ids=stages_text)
def test_text_and_back(stages: Stages) -> None:
    assert parse_stages(stages_text(stages)) == stages


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("output-filter,slow-release", HARDWARE),
        (" slow-release , output-filter ", HARDWARE),
        ("none", PLAIN),
        ("shelf", Stages(False, False, True, False)),
    ],
)
def test_what_text_means(text: str, stages: Stages) -> None:
    assert parse_stages(text) == stages


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("tube", "'tube'"),
        ("", "''"),
        ("shelf,", "''"),
        ("output_filter", "'output_filter'"),
        ("none,shelf", "'none'"),
        ("shelf,feedback,shelf", "'shelf'"),
        ("Shelf;feedback", "'Shelf;feedback'"),
    ],
)
def test_other_text_is_refused_with_what_there_is(text: str, got: str) -> None:
    expected = f"stages: expected none, or some of output-filter, slow-release, shelf, feedback, each once, got {got}$"
    with pytest.raises(ValueError, match=expected):
        parse_stages(text)
