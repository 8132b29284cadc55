"""Power: the fit against known coefficients, its intervals against simulation, and what must hold of any design."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.fpga import Design, LayerFolding, estimate, fpga_names, load_fpga, named_fpga
from cost_models.fpga.calibration import CALIBRATED, cnv, modelled_design, power_measurements
from cost_models.fpga.device import DEVICES
from cost_models.fpga.power import activity, design_power, fit_energies, measured_activity, power_model
from workloads import InputError

BUSY = np.array([[17.0e12, 0.10e12], [25.0e12, 0.03e12], [12.0e12, 0.006e12], [3.2e12, 0.002e12]])
"""Resource-cycles a second of four designs, of LUTs and of BRAM18."""


@given(st.floats(0, 1e-12), st.floats(0, 1e-10))
@settings(max_examples=50, deadline=None)
def test_fit_recovers_coefficients(lut: float, bram18: float) -> None:
    truth = np.array([lut, bram18])
    fit = fit_energies(BUSY, BUSY @ truth)
    assert fit.joules == pytest.approx(truth, abs=1e-17)
    assert fit.scatter == pytest.approx(0, abs=1e-9)


@given(st.lists(st.floats(-5, 20), min_size=4, max_size=4))
@settings(max_examples=100, deadline=None)
def test_coefficients_and_intervals_are_never_negative(watts: list[float]) -> None:
    fit = fit_energies(BUSY, np.array(watts))
    assert (fit.low >= 0).all() and (fit.low <= fit.joules).all() and (fit.joules <= fit.high).all()
    low, value, high = fit.predict(BUSY[1])
    assert low <= value <= high and value >= 0


def test_too_few_rows() -> None:
    with pytest.raises(ValueError, match="2 measurements do not determine 2 energies"):
        fit_energies(BUSY[:2], np.ones(2))


@pytest.mark.parametrize("bram18", [0.0, 40e-12])
def test_intervals_hold_the_truth_as_often_as_they_say(bram18: float) -> None:
    random = np.random.default_rng(0)
    truth, noise, another = np.array([0.2e-12, bram18]), 0.01, np.array([20.0e12, 0.05e12])
    held, foretold = np.zeros(2), 0
    draws = 500
    for _ in range(draws):
        fit = fit_energies(BUSY, BUSY @ truth + noise * random.normal(size=4))
        held += (fit.low <= truth) & (truth <= fit.high)
        low, _, high = fit.predict(another)
        foretold += low <= another @ truth + noise * random.normal() <= high
    # 95 % of 500 draws, with three standard errors of 1 %. Intervals only grow where a coefficient is held at 0.
    assert 0.92 <= held[0] / draws <= 0.98
    assert 0.92 <= held[1] / draws <= (1.0 if bram18 == 0 else 0.98)
    assert 0.92 <= foretold / draws <= (1.0 if bram18 == 0 else 0.98)


def small_design(device: str = CALIBRATED, **folding: object) -> Design:
    network = cnv(bits=4, channels_kept=0.125)
    chosen = {layer.name: LayerFolding(**{"filters": 2, "nonzeros": 4, **folding}) for layer in network.compute_layers}
    return estimate(network, named_fpga(device), chosen)


def test_cnv_is_the_network_that_was_measured() -> None:
    # Operations that the source states for all channels, half and a quarter.
    for kept, operations in ((1.0, 469_449_728), (0.5, 118_922_752), (0.25, 30_510_848)):
        assert 2 * sum(layer.macs for layer in cnv(2, kept).layers) == operations


def test_modelled_designs_keep_up_and_are_small() -> None:
    device = named_fpga(CALIBRATED)
    for row in power_measurements():
        design = modelled_design(row, device)
        assert design.throughput >= 1 / row.interval
        used = design.resources.sum(0)
        assert used[2] == 0  # no DSPs
        assert (used <= device.capacity).all()
        # What is busy is the work of one image at the measured rate, however fast the design could be.
        busy = measured_activity(row)
        work = np.array([found.work[0] for found in design.costs])
        assert busy.lut == pytest.approx(work @ design.resources[:, 0] / row.interval)


def test_the_fit_is_that_of_the_fitted_rows() -> None:
    rows = [row for row in power_measurements() if row.fitted]
    model = power_model()
    residuals = [model.watts(measured_activity(row))[1] - row.watts for row in rows]
    assert len(rows) == 4 and model.fit.freedom == 2
    assert np.abs(residuals).max() < 1.5
    for row in rows:  # the interval of the prediction holds what it was fitted to
        low, _, high = model.watts(measured_activity(row))
        assert low <= row.watts <= high


@pytest.mark.parametrize("multiplier", ["dsp", "lut"])
def test_calibrated_board(multiplier: str) -> None:
    design = small_design(multiplier=multiplier)
    found = design_power(design)
    power, energy = found.power, found.energy
    assert power.low is not None and power.value is not None and power.high is not None
    assert 9.2 <= power.low < power.value < power.high
    assert energy.value == pytest.approx(power.value / design.throughput)
    assert energy.low == pytest.approx(power.low / design.throughput)
    assert energy.high == pytest.approx(power.high / design.throughput)


def test_a_dsp_draws_at_most_what_the_luts_in_its_place_draw() -> None:
    dsp, lut = activity(small_design(multiplier="dsp")), activity(small_design(multiplier="lut"))
    assert dsp.dsp > 0 and dsp.lut < lut.lut
    assert dsp.most == pytest.approx(lut.least)
    many = {"filters": 10, "nonzeros": 27}
    one, other = (design_power(small_design(multiplier=kind, **many)).power for kind in ("dsp", "lut"))
    assert one.value == pytest.approx(other.value) and one.high == pytest.approx(other.high)
    assert one.low is not None and other.low is not None and one.low < other.low


def test_a_uram_draws_at_most_what_16_bram18_draw() -> None:
    network = cnv(bits=8, channels_kept=1.0)
    chosen = {layer.name: LayerFolding(weights="uram") for layer in network.compute_layers}
    busy = activity(estimate(network, named_fpga(CALIBRATED), chosen))
    assert busy.uram > 0
    assert busy.most[1] - busy.least[1] == pytest.approx(16 * busy.uram)


def test_idle_lanes_cost_nothing() -> None:
    """The same lanes, held up by an external memory that is ever slower, draw less, and the same for an image."""
    fast = small_design()
    dram = fast.device.dram
    per_image = []
    watts = []
    for bandwidth in (dram.bandwidth.value, 1e6, 1e5):
        slower = dram.model_copy(update={"bandwidth": dram.bandwidth.model_copy(update={"value": bandwidth})})
        design = replace(fast, device=fast.device.model_copy(update={"dram": slower}))
        assert (design.resources == fast.resources).all()
        value = design_power(design).power.value
        assert value is not None
        watts.append(value)
        per_image.append((value - power_model().idle) / design.throughput)
    assert watts[0] > watts[1] > watts[2] > power_model().idle
    assert per_image == pytest.approx([per_image[0]] * 3)


def test_throughput_scales_what_is_busy() -> None:
    design = small_design()
    whole, half = activity(design), activity(design, design.throughput / 2)
    assert half.most == pytest.approx(whole.most / 2)


@pytest.mark.parametrize("name", [name for name in fpga_names() if name != CALIBRATED])
def test_no_power_without_measurements(name: str) -> None:
    found = design_power(small_design(name))
    for figure in (found.power, found.energy):
        assert figure.value is None
        assert figure.reason is not None
        assert f"no published measurement calibrates the power of {name}" in figure.reason


OWN = """
joules_per_lut_cycle = { value = 2e-13, low = 1e-13, high = 4e-13, source = "measured" }
joules_per_bram18_cycle = { value = 1e-11, source = "measured" }
"""


def own(tmp_path: Path, lines: str) -> Path:
    """The file of a board that a user has measured."""
    text = (DEVICES / f"{CALIBRATED}.toml").read_text().replace(f'name = "{CALIBRATED}"', 'name = "mine"')
    path = tmp_path / "mine.toml"
    path.write_text(text + lines)
    return path


def test_own_coefficients(tmp_path: Path) -> None:
    device = load_fpga(own(tmp_path, OWN))
    design = replace(small_design(multiplier="dsp"), device=device)
    busy = activity(design)
    power = design_power(design).power
    bram18 = 1e-11 * busy.bram18
    assert power.low == pytest.approx(9.2 + 1e-13 * busy.lut + bram18)
    assert power.value == pytest.approx(9.2 + 2e-13 * (busy.lut + busy.dsp_luts) + bram18)
    assert power.high == pytest.approx(9.2 + 4e-13 * (busy.lut + busy.dsp_luts) + bram18)
    told = OWN + 'joules_per_dsp_cycle = { value = 3e-12, source = "measured" }\n'
    power = design_power(replace(design, device=load_fpga(own(tmp_path, told)))).power
    assert power.value == pytest.approx(9.2 + 2e-13 * busy.lut + bram18 + 3e-12 * busy.dsp)
    assert power.low == pytest.approx(9.2 + 1e-13 * busy.lut + bram18 + 3e-12 * busy.dsp)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('joules_per_lut_cycle = { value = 2e-13, source = "me" }\n', "all three"),
        ('joules_per_dsp_cycle = { value = 2e-13, source = "me" }\n', "all three"),
        (OWN.replace("low = 1e-13", "low = 3e-13"), "low must not be above value"),
        (OWN.replace("low = 1e-13, ", ""), "both ends"),
        (OWN.replace("value = 2e-13", "value = -2e-13"), "greater than or equal to 0"),
    ],
)
def test_damaged_coefficients(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_fpga(own(tmp_path, lines))
    assert "\n" not in str(error.value) and "power" in str(error.value)
