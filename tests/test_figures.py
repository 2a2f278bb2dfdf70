"""Figures: what they show, and that what is saved is text, the same twice, and whole or not there."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

import ddsp_la2a as la
from baselines.numpy_compressor import static_gain_db
from ddsp_la2a.evaluation import figures
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP


@pytest.fixture
def model():
    """A network whose curves aren't flat."""
    import torch

    found = la.GreyBox(la.ControlNet(seed=3))
    with torch.no_grad():
        found.card.layers[-1].weight.copy_(0.5 * torch.sin(torch.arange(40.0, dtype=torch.float64).reshape(5, 8)))
        found.device.fill_(0.1)
    return found


def axes_of(figure):
    return figure.axes


def lines_by_label(axis):
    return {line.get_label(): line for line in axis.lines}


def test_learned_curves(model):
    curves = model.curves()
    figure = figures.learned_curves(curves, settings_seen=[(0, 50), [1, 65], (1, 80)])
    axes = axes_of(figure)
    assert [axis.get_title(loc="left") for axis in axes] == [p.name for p in (*CARD_PARAMETERS, MAKEUP)]
    assert [axis.get_ylabel() for axis in axes] == ["dBFS", "in dB : out dB", "dB", "ms", "ms", "dB"]
    assert [axis.get_xlabel() for axis in axes[3:]] == ["peak reduction"] * 3
    assert [axis.get_yscale() for axis in axes] == [
        *("log" if p.scale == "log" else "linear" for p in CARD_PARAMETERS),
        "linear",
    ]
    for axis, parameter in zip(axes, (*CARD_PARAMETERS, MAKEUP), strict=True):
        drawn = lines_by_label(axis)
        for switch, label in enumerate(("compress", "limit")):
            part = curves[curves["compress_or_limit"] == switch]
            assert np.array_equal(drawn[label].get_ydata(), part[parameter.name]), parameter.name
            assert np.array_equal(drawn[label].get_xdata(), np.arange(101.0))
        dots = [line for line in axis.lines if line.get_marker() == "o"]
        assert [list(line.get_xdata()) for line in dots] == [[50.0], [65.0, 80.0]]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["compress", "limit"]


def test_learned_curves_beside_others(model):
    others = {"published": la.load("published").curves(), "flat": la.GreyBox().curves()}
    figure = figures.learned_curves(model.curves(), others=others)
    for axis in axes_of(figure):
        dotted = [line for line in axis.lines if line.get_linestyle() == ":"]
        assert len(dotted) == 4
        assert all(line.get_linewidth() < lines_by_label(axis)["compress"].get_linewidth() for line in dotted)
    labels = [text.get_text() for text in axes_of(figure)[0].get_legend().get_texts()]
    assert "published, limit" in labels


def test_static_curves(model):
    knobs = (0, 50, 100)
    figure = figures.static_curves(model, knobs)
    axes = axes_of(figure)
    assert [axis.get_title(loc="left") for axis in axes] == ["compress", "limit"]
    assert [axis.get_xlabel() for axis in axes] == ["input, dBFS"] * 2
    assert axes[0].get_ylabel() == "output, dBFS"
    assert axes[1].get_legend().get_title().get_text() == "peak reduction"
    for switch, axis in enumerate(axes):
        drawn = lines_by_label(axis)
        assert len(axis.lines) == len(knobs) + 1
        for knob in knobs:
            line = drawn[f"{knob}"]
            p = {name: value.item() for name, value in model.params(switch, knob).numbers().items()}
            level_db = np.asarray(line.get_xdata())
            expected = level_db + static_gain_db(level_db, p["threshold_db"], p["ratio"], p["knee_db"]) + p["makeup_db"]
            np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-9)
        straight = axis.lines[-1]
        assert np.array_equal(straight.get_xdata(), straight.get_ydata())


def test_static_curves_of_a_fitted_table(frame, quick, one_thread):
    fitted = la.fit(frame, per_setting=True, method="adam", adam=quick(1), segment_s=4.0, warmup_s=0.0).model
    assert len(axes_of(figures.static_curves(fitted))[0].lines) == 10


def test_pictures_of_the_published_settings_need_no_warning():
    published = la.load("published")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.static_curves(published)


def test_step_response(model):
    figure = figures.step_response(model, peak_reduction=70.0, sample_rate=8000.0)
    (axis,) = axes_of(figure)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("time, s", "gain, dB")
    assert "peak reduction 70" in axis.get_title(loc="left")
    drawn = lines_by_label(axis)
    assert set(drawn) == {"compress", "limit"}
    for switch, label in enumerate(("compress", "limit")):
        times, gain = np.asarray(drawn[label].get_xdata()), np.asarray(drawn[label].get_ydata())
        p = {name: value.item() for name, value in model.params(switch, 70.0).numbers().items()}
        soft, loud = (
            float(static_gain_db(level, p["threshold_db"], p["ratio"], p["knee_db"])) for level in (-40.0, -10.0)
        )
        assert times[-1] == pytest.approx(2.0, abs=1e-3)
        assert gain.min() >= loud - 1e-6
        assert gain[(times > 0.1) & (times < 0.6)].min() == pytest.approx(loud, abs=0.2)
        assert gain[0] <= 1e-9
        assert gain[times < 0.09].min() >= soft - 1e-9


def test_gain_reduction(programme):
    raw = programme(5, 2.0)
    raw[8000:12000] = 0.0
    figure = figures.gain_reduction(raw, {"target": 0.5 * raw, "model": 0.25 * raw}, 8000, "a title")
    above, below = axes_of(figure)
    assert figure.get_suptitle() == "a title"
    assert above.get_ylabel() == "input, dBFS"
    assert (below.get_xlabel(), below.get_ylabel()) == ("time, s", "gain, dB")
    assert [line.get_label() for line in below.lines] == ["target", "model"]
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["target", "model"]
    for line, gain in zip(below.lines, (0.5, 0.25), strict=True):
        times, values = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert len(times) == 100
        assert times[0] == pytest.approx(0.01)
        silent = (times > 1.0) & (times < 1.5)
        assert np.isnan(values[silent]).all()  # a gauge says nothing about silence
        np.testing.assert_allclose(values[~silent], 20 * np.log10(gain), atol=1e-4)


def test_gain_reduction_of_more_tracks_than_colours(programme):
    raw = programme(5, 1.0)
    figure = figures.gain_reduction(raw, {str(i): raw for i in range(7)}, 8000)
    assert len(axes_of(figure)[1].lines) == 7


def test_titles_where_one_is_given(model):
    for draw in (figures.static_curves, figures.step_response):
        assert draw(model).get_suptitle() == ""
        assert draw(model, title="simulated").get_suptitle() == "simulated"
    assert figures.learned_curves(model.curves(), title="simulated").get_suptitle() == "simulated"


def test_svg_keeps_its_text(model, tmp_path):
    figures.save(figures.learned_curves(model.curves()), tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert "<text" in text
    for word in ("threshold_db", "release_ms", "peak reduction", "compress"):
        assert re.search(rf"<text[^>]*>[^<]*{word}", text), word
    assert "<dc:date>" not in text


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_same_figure_gives_the_same_bytes(model, tmp_path, suffix):
    for name in ("one", "two"):
        figures.save(figures.step_response(model, sample_rate=2000.0), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_the_style_stays_here(model, tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures.save(figures.step_response(model, sample_rate=2000.0), tmp_path / "step.svg")
    assert dict(mpl.rcParams) == before


def test_figures_need_no_display_and_open_no_window(model):
    import sys

    before = "matplotlib.pyplot" in sys.modules
    figures.step_response(model, sample_rate=2000.0)
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_nothing_is_left_where_saving_fails(model, tmp_path, monkeypatch):
    figure = figures.step_response(model, sample_rate=2000.0)
    (tmp_path / "step.svg").write_text("before", encoding="utf-8")
    whole = figure.savefig

    def failing(path, **options):
        whole(path, **options)
        raise OSError("no space left on device")

    monkeypatch.setattr(figure, "savefig", failing)
    with pytest.raises(OSError, match="no space"):
        figures.save(figure, tmp_path / "step.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["step.svg"]
    assert (tmp_path / "step.svg").read_text(encoding="utf-8") == "before"


@pytest.mark.parametrize("name", ["step.nonsense", "missing/step.svg"])
def test_where_a_figure_cannot_go(model, tmp_path, name):
    with pytest.raises(ValueError, match=r"nonsense|existing folder"):
        figures.save(figures.step_response(model, sample_rate=2000.0), tmp_path / name)
    assert not list(tmp_path.iterdir())


# Other units


@pytest.fixture
def strip_model(strip):
    import torch

    found = la.GreyBox(
        la.ControlNet(seed=3, controls=strip.controls), {"settings_seen": [(1, 5.0, 0.5), (3, 2.0, 0.5)]}
    )
    with torch.no_grad():
        found.card.layers[-1].weight.copy_(0.5 * torch.sin(torch.arange(40.0, dtype=torch.float64).reshape(5, 8)))
    return found


def test_several_knobs_have_a_column_of_panels_each(strip, strip_model):
    curves = strip_model.curves()
    seen = strip_model.info["settings_seen"]
    axes = np.array(axes_of(figures.learned_curves(curves, seen, controls=strip.controls))).reshape(6, 2)
    assert [axis.get_title(loc="left") for axis in axes[:, 0]] == [p.name for p in (*CARD_PARAMETERS, MAKEUP)]
    assert [axis.get_xlabel() for axis in axes[-1]] == ["drive", "ratio"]
    for row, parameter in zip(axes, (*CARD_PARAMETERS, MAKEUP), strict=True):
        assert row[0].get_ylim() == row[1].get_ylim()
        assert row[0].get_yscale() == row[1].get_yscale() == ("log" if parameter.scale == "log" else "linear")
        for axis, knob, column in zip(row, ("drive", "ratio"), ("drive", "ratio_position"), strict=True):
            drawn = lines_by_label(axis)
            for speed in (1, 2, 3):
                part = curves[(curves["swept"] == knob) & (curves["speed"] == speed)]
                assert np.array_equal(drawn[f"speed {speed}"].get_xdata(), part[column])
                assert np.array_equal(drawn[f"speed {speed}"].get_ydata(), part[parameter.name])
        dots = [[list(line.get_xdata()) for line in axis.lines if line.get_marker() == "o"] for axis in row]
        assert dots == [[[5.0], [], [2.0]], [[0.5], [], []]]  # along drive at ratio 0.5, along ratio at drive 5


def test_one_knob_of_several(strip, strip_model):
    axes = axes_of(figures.learned_curves(strip_model.curves(drive=5.0), controls=strip.controls))
    assert len(axes) == 6
    assert axes[-1].get_xlabel() == "ratio"
    for curves in (strip_model.curves(drive=5.0, ratio=0.5), strip_model.curves(drive=[0, 1], ratio=[0, 1])):
        with pytest.raises(
            ValueError, match=r"^curves: expected one knob that moves, .* got (none|drive, ratio); hold"
        ):
            figures.learned_curves(curves, controls=strip.controls)


def test_bands_of_several_knobs_share_their_axis(strip, strip_model):
    import torch

    size = sum(p.numel() for p in strip_model.parameters())
    strip_model.covariance = 1e-4 * torch.eye(size, dtype=torch.float64)
    curves = strip_model.curves()
    axes = np.array(axes_of(figures.learned_curves(curves, controls=strip.controls))).reshape(6, 2)
    for row, parameter in zip(axes, (*CARD_PARAMETERS, MAKEUP), strict=True):
        low, high = row[0].get_ylim()
        assert (low, high) == row[1].get_ylim()
        sure = curves[curves[f"{parameter.name}_identifiable"]]
        assert low <= min(sure[f"{parameter.name}_low"].min(), curves[parameter.name].min())
        assert high >= max(sure[f"{parameter.name}_high"].max(), curves[parameter.name].max())


def test_several_knobs_beside_others(strip, strip_model):
    flat = la.GreyBox(la.ControlNet(controls=strip.controls)).curves()
    figure = figures.learned_curves(strip_model.curves(), others={"flat": flat}, controls=strip.controls)
    for axis in axes_of(figure):
        dotted = [line for line in axis.lines if line.get_linestyle() == ":"]
        assert [len(line.get_xdata()) for line in dotted] == [21, 21, 21]


def test_no_more_switch_positions_than_can_be_told_apart():
    """Those that were fitted are among them."""
    controls = [la.Control(name, 1, 4, "switch") for name in ("attack", "release")] + [la.Control("threshold")]
    model = la.GreyBox(la.ControlNet(controls=controls), {"settings_seen": [(3, 4, 0.0), (3, 4, 1.0)]})
    axes = axes_of(figures.learned_curves(model.curves(), controls=controls))
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert len(labels) == 6
    assert labels[0] == "attack 3, release 4"
    assert len(axes_of(figures.static_curves(model))) == 6


def test_static_curves_and_step_response_of_several_knobs(strip_model):
    axes = np.array(axes_of(figures.static_curves(strip_model))).reshape(3, 2)
    assert [axis.get_title(loc="left") for axis in axes[:, 1]] == ["speed 1", "speed 2", "speed 3"]
    assert [axis.get_legend().get_title().get_text() for axis in axes[-1]] == ["drive", "ratio"]
    assert all(len(axis.lines) == 7 for axis in axes.flat)
    (axis,) = axes_of(figures.step_response(strip_model, sample_rate=8000.0, drive=2.0))
    assert set(lines_by_label(axis)) == {"speed 1", "speed 2", "speed 3"}
    assert "drive 2, ratio 0.5" in axis.get_title(loc="left")


def test_a_unit_without_knobs_or_without_switches():
    knobless = la.GreyBox(la.ControlNet(controls=[la.Control("mode", 1.0, 3.0, "switch")]))
    assert len(axes_of(figures.static_curves(knobless))) == 3
    assert len(axes_of(figures.step_response(knobless, sample_rate=8000.0))[0].lines) == 3
    knob = la.GreyBox(la.ControlNet(controls=[la.Control("amount")]))
    axes = axes_of(figures.learned_curves(knob.curves(), controls=knob.controls))
    assert axes[0].get_legend() is None
    assert axes[-1].get_xlabel() == "amount"
    assert len(axes_of(figures.static_curves(knob))) == 1
