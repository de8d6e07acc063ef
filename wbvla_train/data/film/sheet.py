"""The contact sheet: one HTML file with every stretch of every film, to look through and to overrule in a browser.

Self-contained (pictures inside, no network). Decisions are kept in the page and saved as ``overrides.json``, which the next
``wbvla video ingest`` honours.
"""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

from wbvla_train.data.film.record import DECISIONS, printable, segment_key

FILE = "sheet.html"
_STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:0;background:#f4f4f2;color:#222}
header{position:sticky;top:0;background:#fff;border-bottom:1px solid #ccc;padding:8px 16px;display:flex;gap:12px;flex-wrap:wrap;align-items:center;z-index:1}
header b{font-size:16px} h2{font-size:14px;margin:18px 16px 4px} h2 small{font-weight:normal;color:#666}
.grid{display:flex;flex-wrap:wrap;gap:8px;padding:0 16px}
.s{background:#fff;border:1px solid #ddd;border-left:6px solid #999;width:386px;padding:4px}
.s.loco{border-left-color:#2266bb}.s.mani{border-left-color:#228855}.s.bad{border-left-color:#bb3322}.s.bad img{opacity:.75}
.s.changed{background:#fff6d0} img{width:384px;height:96px;display:block;background:#ccc}
.e{color:#bb3322;padding:2px 16px}.l{color:#bb3322;padding:0 16px;font-weight:bold} select{float:right} .hidden{display:none}
"""
_SCRIPT = """
const saved = JSON.parse(localStorage.getItem(PAGE) || 'null') || START, count = document.getElementById('count');
function show() { count.textContent = Object.keys(saved).length + ' decisions'; }
document.querySelectorAll('select[data-key]').forEach(box => {
  const key = box.dataset.key;
  const mark = () => box.closest('.s').classList.toggle('changed', box.value !== '');
  if (saved[key]) box.value = saved[key];
  mark();
  box.onchange = () => {
    if (box.value) saved[key] = box.value; else delete saved[key];
    localStorage.setItem(PAGE, JSON.stringify(saved)); mark(); show();
  };
});
document.getElementById('filter').onchange = event => document.querySelectorAll('.s').forEach(card =>
  card.classList.toggle('hidden', event.target.value !== '' && card.dataset.label !== event.target.value));
document.getElementById('save').onclick = () => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([JSON.stringify({schema: 1, segments: saved}, null, 2)], {type: 'application/json'}));
  link.download = 'overrides.json'; link.click();
};
show();
"""


def _card(output: Path, record: dict, entry: dict) -> str:
    label = entry["reason"] or entry["domain"]
    strip = output / "films" / record["id"] / entry["strip"]
    data = base64.b64encode(strip.read_bytes()).decode() if strip.exists() else ""
    if entry["reason"]:
        why = f"<b>{entry['reason']}</b> at frame {entry['frame']}"
        why += f" ({entry['value']:g}, limit {entry['limit']:g})" if entry["limit"] else ""
        why += f" of {html.escape(printable(entry['of']))}" if "of" in entry else ""
    else:
        why = f"<b>{entry['domain']}</b> camera motion {entry['loco_score']:.2f}"
    if "judged" in entry:
        why += f" (decided; was {entry['judged'] or 'a clip'})"
    choices = "".join(f"<option value={choice}>{choice}</option>" for choice in ("", *DECISIONS))
    key = html.escape(json.dumps(segment_key(record["film"], entry["start_s"])), quote=True)
    return (
        f'<div class="s {"bad" if entry["reason"] else entry["domain"]}" data-label="{label}">'
        f'<img loading="lazy" src="data:image/jpeg;base64,{data}" alt="{label}">'
        f'<select data-json="{key}">{choices}</select>{entry["start_s"]:.1f}&ndash;{entry["end_s"]:.1f} s &middot; {why}</div>'
    )


def write(output: Path, records: list[dict]) -> Path:
    """Write ``sheet.html`` into the output folder, by rename."""
    overrides = output / "overrides.json"
    start = overrides.read_text() if overrides.exists() else '{"segments": {}}'
    labels = sorted({entry["reason"] or entry["domain"] for record in records for entry in record["segments"] if "strip" in entry})
    parts = [
        f"<!doctype html><meta charset=utf-8><title>Contact sheet</title><style>{_STYLE}</style><header><b>Contact sheet</b> {len(records)} films"
        f"<label>show <select id=filter><option value=''>all</option>{''.join(f'<option>{label}</option>' for label in labels)}</select></label>"
        "<span id=count></span><button id=save>save overrides.json</button><span>put it into the output folder and run "
        "<code>wbvla video ingest</code> again</span></header>"
    ]
    for record in records:
        report = record["report"]
        about = f"{report['duration_s']:.1f} s, {report['width']}x{report['height']}, {report['fps']:.1f} fps{' (variable)' if report['variable_rate'] else ''}"
        parts.append(f"<h2>{html.escape(printable(record['film']))} <small>{about}</small></h2>")
        for problem in filter(None, (record["error"], *report["problems"])):
            parts.append(f"<div class=l>{html.escape(problem)}</div>")
        parts.extend(
            f"<div class=e>{entry['reason']} at {entry['start_s']:.1f} s, frame {entry['frame']} ({entry['value']:g}, limit {entry['limit']:g})</div>"
            for entry in record["segments"]
            if "strip" not in entry
        )
        parts.append('<div class="grid">' + "".join(_card(output, record, entry) for entry in record["segments"] if "strip" in entry) + "</div>")
    # keys travel as JSON, so that names that are not UTF-8 survive the page
    decode = "document.querySelectorAll('select[data-json]').forEach(box => { box.dataset.key = JSON.parse(box.dataset.json); });"
    decisions = json.dumps(json.loads(start).get("segments", {})).replace("<", "\\u003c")
    parts.append(f"<script>const PAGE = {json.dumps(f'wbvla {output.name}')}, START = {decisions};{decode}{_SCRIPT}</script>")
    path = output / FILE
    temporary = path.with_name(f".{FILE}.tmp")
    temporary.write_text("\n".join(parts), encoding="utf-8")
    temporary.replace(path)
    return path
