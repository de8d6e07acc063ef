"""The report of a small invented recording: complete, self-contained and true to its numbers."""

import re
from pathlib import Path

import numpy as np
import pytest

from wbvla_core.safety import SafetyRung
from wbvla_eval.recording import Frames, Recording, SafetySample, Stream
from wbvla_eval.report import Provenance, render_report, write_report
from wbvla_eval.svg import Series, chart, nice_ticks, thin
from wbvla_eval.tasks import judge
from wbvla_eval.timing import timing_rows
from wbvla_eval.trace import Trace
from wbvla_sim.instructions import Task
from wbvla_sim.scene import Box

CHARTS = [
    "Forward velocity", "Velocity to the left", "Yaw rate", "Stance height", "Path from above", "Latent action codes", "Safety state",
    "left elbow", "Image to command age", "LMO tick to tick", "Joint state to joint command", "Real-time factor",
]  # fmt: skip


def invented_recording(seconds: float = 8.0, *, stop_x: float = 1.25, late_tick_s: float = 0.02) -> Recording:
    """A robot that walks straight to x = ``stop_x`` in three quarters of the time and stands; blue box with its face at 1.85 m."""
    rng = np.random.default_rng(0)
    n = int(seconds * 50) + 1
    t = np.arange(n) / 50.0
    progress = np.clip(t / (0.75 * seconds), 0, 1)
    x = stop_x * progress
    walking = progress < 1
    command = np.column_stack((walking, np.zeros(n), (np.sin(t) > 0.9) & walking, np.full(n, 0.64))).astype(float)
    boxes = tuple(
        Box(c, (bx, by, 0.15), (0.15, 0.15, 0.15), yaw, (0.0, 0.0, 0.0))
        for c, bx, by, yaw in (("blue", 2.0, 0.0, 0.0), ("red", 1.7, 1.1, 0.4), ("yellow", 2.2, -1.0, 0.0))
    )
    trace = Trace(
        time_s=t,
        xyz=np.column_stack((x, 0.03 * np.sin(6 * t), np.full(n, 0.64))),
        yaw=0.05 * np.sin(t),
        tilt_rad=0.03 * np.abs(np.sin(6 * t)),
        stance_height_m=0.64 + 0.004 * np.sin(12 * t),
        velocity=np.column_stack((np.gradient(x, t) + 0.05 * np.sin(12 * t), 0.1 * np.cos(6 * t), 0.1 * rng.standard_normal(n))),
        command=command,
        boxes=boxes,
        in_view={"blue": np.full(n, True)},
    )
    k = int(seconds * 10)
    tk = np.arange(k) / 10.0
    ticks = np.full(n - 1, 0.02)
    ticks[n // 2] = late_tick_s
    elbow = -0.5 + 0.1 * np.sin(2 * t)
    return Recording(
        instruction='walk to the "blue" <box>',
        trace=trace,
        qpos=np.zeros((n, 7)),
        joint_names=("left_elbow_joint", "left_hip_pitch_joint"),
        measured=Stream(t, np.column_stack((elbow, t * 0))),
        target=Stream(t, np.column_stack((elbow + 0.02, t * 0))),
        arm_joints=("left_elbow_joint",),
        latent=Stream(tk, rng.integers(0, 16, (k, 8)).repeat(1, axis=0)),
        manipulation_tokens=4,
        command=Stream(t, command),
        safety=(
            SafetySample(0.0, SafetyRung.STAND, 412, "nobody is in control", ""),
            SafetySample(0.4, SafetyRung.FOLLOW, 0, "", "vla"),
            SafetySample(seconds - 0.5, SafetyRung.STAND, 412, "vla released control", ""),
        ),
        driver=(SafetySample(0.0, SafetyRung.FOLLOW, 0, "", ""),),
        image_age_s=Stream(tk, np.full(k, 0.06)),
        tick_interval_s=Stream(t[1:], ticks),
        response_s=Stream(t, np.full(n, 0.004)),
        real_time_factor=Stream(t, np.full(n, 0.99)),
        frames=Frames(k, k - 1, k - 1),
        diagnostics={"lmo": {"compute_p50_ms": "0.5", "compute_p99_ms": "2.9", "compute_max_ms": "4", "rss_mb": "153"}},
    )


def invented_provenance() -> Provenance:
    return Provenance(
        facts=[("seed", "7"), ("robot", "x2 1.3.0")],
        versions=[("mujoco", "3.17.0")],
        checkpoints=[{"role": "policy", "path": "checkpoints/policy/tiny", "kind": "policy", "hash": "abc123", "parents": "vla def456", "commit": "0123"}],
        commands=['wbvla demo "walk to the blue box" --seed 7'],
        cruise=(0.3, 0.3, 0.4),
        stance_range_m=(0.46, 0.66),
        frames=[("0.0 s", np.full((36, 64, 3), 90, np.uint8))],
    )


def page(recording=None) -> str:
    recording = recording or invented_recording()
    task = Task("walk_to", color="blue")
    return render_report(recording, task, judge(task, recording.trace), invented_provenance())


def test_report_holds_every_chart_a_person_wants():
    text = page()
    for title in CHARTS:
        assert title in text, title
    assert text.count("<svg") == len(CHARTS)


def test_report_is_one_file_without_network():
    text = page()
    assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
    assert not re.findall(r"<(?:script|link|iframe|object)\b", text)
    assert set(re.findall(r'(?:src|href)=[\'"]([a-z]+:)', text)) <= {"data:"}


def test_report_escapes_the_instruction_and_tells_the_verdict_in_words():
    text = page()
    assert "walk to the &quot;blue&quot; &lt;box&gt;" in text and "<box>" not in text
    assert "Reached" in text and "0.60 m before the blue box" in text
    failed = page(invented_recording(stop_x=0.3))
    assert "Failed: stop early" in failed and 'header class="bad"' in failed


def test_report_has_no_broken_numbers():
    for recording in (invented_recording(), invented_recording(seconds=1.0)):
        body = re.sub(r"<style>.*?</style>", "", page(recording), flags=re.S)
        assert not re.findall(r'[ "=](?:nan|inf|None)\b', body)


def test_svg_is_well_formed_xml():
    from xml.etree import ElementTree

    svgs = re.findall(r"<svg.*?</svg>", page(), flags=re.S)
    for svg in svgs:
        ElementTree.fromstring(svg)


def test_report_of_a_recording_without_decisions_still_renders():
    recording = invented_recording()
    bare = Recording(
        instruction="turn left", trace=recording.trace, qpos=recording.qpos, joint_names=(), measured=Stream(np.zeros(0), np.zeros((0, 0))),
        target=Stream(np.zeros(0), np.zeros((0, 0))), arm_joints=(), latent=Stream(np.zeros(0), np.zeros((0, 0))), manipulation_tokens=0,
        command=Stream(np.zeros(0), np.zeros((0, 4))),
    )  # fmt: skip
    task = Task("turn", side="left")
    assert "Failed: too little" in render_report(bare, task, judge(task, bare.trace), Provenance())


def test_write_report_makes_a_small_file(tmp_path: Path):
    recording = invented_recording()
    task = Task("walk_to", color="blue")
    path = write_report(tmp_path / "report.html", recording, task, judge(task, recording.trace), invented_provenance())
    assert 20_000 < path.stat().st_size < 400_000


def test_timing_rows_judge_p99_against_the_limit():
    rows = {row["name"]: row for row in timing_rows(invented_recording())}
    age = rows["image to command, p99"]
    assert age["judged"] == pytest.approx(60.0) and age["ok"]
    tick = rows["LMO tick to tick, p99"]
    assert tick["ok"] and tick["max"] == pytest.approx(20.0)
    compute = rows["LMO compute, p99"]
    assert compute["judged"] == 2.9 and not compute["ok"] and compute["where"] == "lmo"
    assert rows["LMO memory"]["ok"] and rows["LMO memory"]["judged"] == 153.0
    lost = rows["camera frames lost"]
    assert lost["judged"] == pytest.approx(100.0 / 80.0) and not lost["ok"]  # one of 80 is more than 1 %


def test_one_late_tick_is_visible_in_the_thinned_chart():
    recording = invented_recording(seconds=40.0, late_tick_s=0.5)
    _, y = thin(recording.tick_interval_s.time_s, recording.tick_interval_s.values)
    assert len(y) < len(recording.tick_interval_s) and y.max() == 0.5


def test_ticks_are_round_numbers_inside_the_range():
    assert nice_ticks(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(-0.3, 0.3, 4) == [-0.2, 0.0, 0.2]
    assert nice_ticks(3.0, 3.0) == [3.0]


def test_a_step_series_holds_its_value_until_the_next():
    svg = chart([Series("a", np.array([0.0, 1.0]), np.array([0.0, 1.0]), style="step")], title="t", unit="1")
    d = re.search(r'<path class="s0" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    x0, y0, x1, y1, x2, y2 = map(float, d.groups())
    assert y1 == y0 and x1 == x2 and y2 < y1


def test_safety_spans_join_neighbours_and_reach_the_end():
    spans = invented_recording().safety_spans()
    assert [(s.name, round(s.start, 3), round(s.end, 3)) for s in spans] == [("stand", 0.0, 0.4), ("follow", 0.4, 7.5), ("stand", 7.5, 8.0)]
