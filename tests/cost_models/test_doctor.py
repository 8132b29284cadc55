"""What the doctor reads, how it sums up noise, and which advice follows; fake trees stand for other machines."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cost_models import doctor
from cost_models.doctor import Busy, Facts, Noise, advice, examine, measure_noise, noise_of, read_facts, verdict
from cost_models.machine import exclusive
from cost_models.timing import Comparison, calm_pairs, median_ratio
from workloads import InputError

GOOD = Facts(processor="toy", instruction_sets=("avx512_vnni",), cores=8, exact_int8=True, allowed=tuple(range(8)))
CALM = Noise(
    seconds=10, ratio=1.0, low=0.999, high=1.001, stretches=20, ratio_deviation=0.002, plain_deviation=0.004,
    spread=0.03, calm=0.97, found_calm=True, slowdown=1.0, steal=0.0, switches=1.0, pressure=0.0, frequency=3e9,
)  # fmt: skip
UNKNOWN = replace(CALM, slowdown=None, steal=None, switches=None, pressure=None, frequency=None)
SILENT = {"slowdown": None, "steal": None, "switches": None, "pressure": None, "frequency": None}


def write(root, **files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_good_machine_needs_no_advice():
    assert advice(GOOD, CALM) == () and advice(GOOD, UNKNOWN) == () and advice(GOOD, None) == ()


@pytest.mark.parametrize(
    ("change", "seen", "do"),
    [
        ({"governors": ("performance", "powersave")}, "powersave", "scaling_governor"),
        ({"boost": True}, "boost", "no_turbo"),
        ({"siblings": ((0, 4), (1, 5))}, "CPUs 0 and 4 share a core (2 such groups)", "smt/control"),
        ({"siblings": ((0, 4),)}, "CPUs 0 and 4 share a core:", "smt/control"),
        ({"allowed": (3,)}, "of 8 CPUs only CPU 3", "taskset"),
        ({"allowed": None}, "cannot keep a thread", "Linux"),
        ({"cores": 1, "allowed": (0,)}, "one CPU only", "two or more"),
        ({"quota": 1.5}, "1.5 CPUs", "--cpus"),
        ({"swapped": 2**30}, "1024 MiB", "swapoff"),
        ({"on_battery": True}, "battery", "plug"),
        ({"energy_for_root_only": True}, "only root", "chmod"),
        ({"exact_int8": False}, "no VNNI", "Cascade Lake"),
        ({"load": 3.0}, "load 3.0", "container"),
    ],
)
def test_each_fact_has_its_advice(change, seen, do):
    (one,) = advice(replace(GOOD, **change), CALM)
    assert seen in one.seen and do in one.do
    assert "\n" not in one.seen + one.do


@pytest.mark.parametrize(
    ("change", "seen", "do"),
    [
        ({"busy": (Busy(17, "make", 0.98),)}, "make (pid 17) 98%", "end or pause"),
        ({"busy": (Busy(17, "make", 0.98),), "pressure": 0.4}, "make (pid 17) 98%", "end or pause"),
        ({"pressure": 0.4}, "pressure 40%", "outside this container"),
        ({"steal": 0.05}, "hypervisor gave 5%", "of its own"),
        ({"slowdown": 1.4}, "1.40 times", "wait"),
        ({"calm": 0.2}, "only 20%", "CPUs"),
    ],
)
def test_each_kind_of_noise_has_its_advice(change, seen, do):
    (one,) = advice(GOOD, replace(CALM, **change))
    assert seen in one.seen and do in one.do


@pytest.mark.parametrize(
    "change",
    [
        {"governors": ("performance",)},
        {"boost": False},
        {"quota": 8.0},
        {"swapped": 2**20},
        {"on_battery": False},
        {"allowed": (2, 3)},
        {"load": 0.3},
    ],
)
def test_what_is_well_is_not_mentioned(change):
    assert advice(replace(GOOD, **change), CALM) == ()


def test_the_verdict_follows_from_how_far_ratios_repeat():
    assert "good enough" in verdict(CALM) and "within 0.2%" in verdict(CALM) and "expect 0.4%" in verdict(CALM)
    assert "too noisy" in verdict(replace(CALM, ratio_deviation=0.03))
    assert "unstable" in verdict(replace(CALM, found_calm=False, slowdown=1.5))
    assert "busy elsewhere" in verdict(None, "busy elsewhere")


def comparison(candidate, reference):
    calm, found = calm_pairs(candidate, reference)
    return Comparison(candidate, reference, calm, found, *median_ratio(candidate, reference, calm), 1.0, 1)


def test_noise_without_noise():
    even = np.full((60, 10), 1e-3)
    noise = noise_of(comparison(even, even), SILENT)
    assert (noise.ratio, noise.ratio_deviation, noise.plain_deviation, noise.spread, noise.calm) == (1, 0, 0, 0, 1)
    assert noise.stretches == 4  # of 150 pairs each


def test_drift_shows_in_plain_medians_and_not_in_ratios():
    rng = np.random.default_rng(0)
    drift = np.linspace(1.0, 1.05, 1500).reshape(150, 10)
    noise = noise_of(
        comparison(drift * rng.normal(1, 0.003, drift.shape), drift * rng.normal(1, 0.003, drift.shape)), SILENT
    )
    assert noise.stretches == 10
    assert noise.plain_deviation == pytest.approx(0.0225 / 1.025, rel=0.15)  # half a stretch is left at both ends
    assert noise.ratio_deviation < 0.002 and abs(noise.ratio - 1) < 0.001
    assert noise.spread == pytest.approx(0.9 * 0.05 / 1.025, rel=0.15)


def test_a_ratio_that_shifts_for_one_stretch_is_told():
    rng = np.random.default_rng(1)
    candidate, reference = rng.normal(1, 0.002, (2, 90, 10))
    candidate[30:45] *= 1.04  # the third of six stretches, within what passes for calm
    noise = noise_of(comparison(candidate, reference), SILENT)
    assert noise.ratio_deviation == pytest.approx(0.04, abs=0.004) and noise.ratio == pytest.approx(1, abs=0.002)


def test_few_calm_pairs_are_one_stretch():
    rng = np.random.default_rng(2)
    noise = noise_of(comparison(*rng.normal(1, 0.002, (2, 3, 5))), SILENT)
    assert noise.stretches == 1 and noise.ratio_deviation == pytest.approx(abs(noise.ratio - 1))


def test_a_machine_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "getloadavg", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    facts = read_facts(tmp_path)
    told = (facts.allowed, facts.boost, facts.quota, facts.load, facts.swapped, facts.on_battery)
    assert told == (None,) * 6
    assert facts.governors == () and facts.siblings == () and not facts.energy_for_root_only
    assert all(one.seen and one.do for one in advice(facts, None))


def test_the_report_of_a_machine_that_tells_nothing():
    """In a process of its own, where nothing under /proc and /sys can be read and no thread be pinned, as on macOS."""
    hidden = """
import os, pathlib
del os.sched_getaffinity, os.sched_setaffinity
read, glob = pathlib.Path.read_text, pathlib.Path.glob
def is_hidden(path): return str(path).startswith(("/proc", "/sys")) or str(path) == "/"
def read_text(self, *given, **named):
    if is_hidden(self): raise FileNotFoundError(str(self))
    return read(self, *given, **named)
pathlib.Path.read_text = read_text
pathlib.Path.glob = lambda self, pattern: iter(()) if is_hidden(self) else glob(self, pattern)
from cost_models.doctor import measure_noise, advice, read_facts, verdict, noise_rows, fact_rows
noise, facts = measure_noise(1.0), read_facts()
assert noise.steal is noise.pressure is noise.frequency is None and facts.allowed is facts.swapped is None
print(len(noise_rows(noise)), len(fact_rows(facts)), verdict(noise), advice(facts, noise))
"""
    done = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert "cannot keep a thread on one CPU" in done.stdout


def test_facts_of_a_laptop(tmp_path):
    cpus = "sys/devices/system/cpu"
    write(
        tmp_path,
        **{f"{cpus}/cpu{n}/cpufreq/scaling_governor": "powersave\n" if n else "performance\n" for n in range(4)},
        **{f"{cpus}/cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}\n" for n in range(4)},
        **{f"{cpus}/intel_pstate/no_turbo": "0\n"},
        **{"sys/class/power_supply/AC/online": "0\n", "sys/class/power_supply/BAT0/status": "Discharging\n"},
        **{
            "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
            "/dev/dm-1    partition\t8388604\t\t2048\t\t-2\n/swap\\040file  file\t1024\t\t1024\t\t-3\n",
            "proc/loadavg": "1.25 0.90 0.50 2/345 6789\n",
        },
    )
    facts = read_facts(tmp_path)
    assert facts.governors == ("performance", "powersave") and facts.boost is True
    assert facts.siblings == ((0, 2), (1, 3)) and facts.on_battery is True
    assert facts.load == 1.25 and facts.swapped == (2048 + 1024) * 1024


@pytest.mark.parametrize(
    ("files", "boost"),
    [
        ({"intel_pstate/no_turbo": "1\n"}, False),
        ({"cpufreq/boost": "1\n"}, True),
        ({"cpufreq/boost": "0\n"}, False),
        ({}, None),
    ],
)
def test_boost_of_both_makers(tmp_path, files, boost):
    write(tmp_path / "sys/devices/system/cpu", **files)
    assert read_facts(tmp_path).boost is boost


@pytest.mark.parametrize(
    ("supplies", "on_battery"),
    [
        ({}, None),  # a server or a virtual machine
        ({"AC/online": "1\n", "BAT0/status": "Charging\n"}, False),
        ({"AC/online": "1\n", "BAT0/status": "Discharging\n"}, False),  # a weak charger
        ({"AC/online": "0\n", "BAT0/status": "Discharging\n"}, True),
        ({"BAT1/status": "Full\n"}, False),
    ],
)
def test_battery_or_mains(tmp_path, supplies, on_battery):
    write(tmp_path / "sys/class/power_supply", **supplies)
    assert read_facts(tmp_path).on_battery is on_battery


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/user.slice/shell\n",
                "sys/fs/cgroup/user.slice/shell/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/user.slice/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/other/cpu.max": "1000 100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_the_quota_of_the_control_group(tmp_path, files, quota):
    write(tmp_path, **files)
    assert read_facts(tmp_path).quota == quota


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_energy_counters_that_are_for_root(tmp_path):
    write(tmp_path, **{"sys/class/powercap/intel-rapl:0/energy_uj": "1\n"})
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)
    assert read_facts(tmp_path).energy_for_root_only


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system shows no processes under /proc")
def test_a_busy_process_is_named(tmp_path, monkeypatch):
    own_lock(tmp_path, monkeypatch)
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        noise = measure_noise(1.5)
    finally:
        hog.kill()
        hog.wait()
    shares = {other.pid: other.share for other in noise.busy}
    assert shares[hog.pid] > 0.05 and os.getpid() not in shares
    assert f"(pid {hog.pid})" in advice(GOOD, noise)[0].seen


def test_someone_who_measures_is_waited_for_and_then_told(tmp_path, monkeypatch):
    own_lock(tmp_path, monkeypatch)
    monkeypatch.setattr(doctor, "target_names", lambda: ("counts", "cpu-onnxruntime", "no-such-target"))
    told = []
    with exclusive("cpu"):
        with pytest.raises(InputError):
            measure_noise(0.1)
        report = examine(0.1, told.append)
    assert report.noise is None and "another process" in report.no_noise and report.no_noise in report.verdict
    able = {ability.what: ability.possible for ability in report.abilities}
    assert able["cpu-onnxruntime"] and not able["no-such-target"] and "counts" not in able
    assert told[-1].startswith("measuring the noise")


def own_lock(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
