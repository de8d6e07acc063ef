"""The contact sheet: every stretch of every film in HTML, to look through and to overrule in a browser.

Self-contained (pictures inside, no network), in pages where there are many films. Decisions are kept by the browser and saved as
``overrides.json``, which ``wbvla video review --apply`` takes over and the next ``wbvla video ingest`` carries out.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path

from wbvla_train.data.film.gates import UNSURE
from wbvla_train.data.film.record import DECISIONS, printable, segment_key

FILE = "sheet.html"
CARDS_PER_PAGE = 600  # about 6 MB of HTML
_STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:0;background:#f4f4f2;color:#222}
header{position:sticky;top:0;background:#fff;border-bottom:1px solid #ccc;padding:8px 16px;display:flex;gap:12px;flex-wrap:wrap;align-items:center;z-index:1}
header b{font-size:16px} h2{font-size:14px;margin:18px 16px 4px} h2 small{font-weight:normal;color:#666}
.grid{display:flex;flex-wrap:wrap;gap:8px;padding:0 16px}
.s{background:#fff;border:1px solid #ddd;border-left:6px solid #999;width:386px;padding:4px}
.s.loco{border-left-color:#2266bb}.s.mani{border-left-color:#228855}.s.bad{border-left-color:#bb3322}.s.bad img{opacity:.75}
.s.unsure{border-left-color:#cc9911} .n{padding:0 16px;color:#666}
.s.changed{background:#fff6d0} img{width:384px;height:96px;display:block;background:#ccc}
nav a{margin-right:6px} .e{color:#bb3322;padding:2px 16px}.l{color:#bb3322;padding:0 16px;font-weight:bold}
select{float:right;min-width:64px} .hidden{display:none}
"""
_SCRIPT = """
const saved = JSON.parse(localStorage.getItem(PAGE) || 'null') || {...START}, count = document.getElementById('count');
function show() { count.textContent = Object.values(saved).filter(Boolean).length + ' decisions'; }
document.querySelectorAll('select[data-key]').forEach(box => {
  const key = box.dataset.key;
  const mark = () => box.closest('.s').classList.toggle('changed', box.value !== '');
  if (saved[key]) box.value = saved[key];
  mark();
  box.onchange = () => {
    if (box.value || key in START) saved[key] = box.value; else delete saved[key];  // '' takes back a decision that is in force
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
        why += f" ({entry['value']:.3g}, limit {entry['limit']:g})" if entry["limit"] else ""
        why += f" of {html.escape(printable(entry['of']))}" if "of" in entry else ""
        why += f": {html.escape(entry['doubt'])}" if entry.get("doubt") else ""
    else:
        why = f"<b>{entry['domain']}</b> camera motion {entry['loco_score']:.2f}"
    if "seen" in entry:
        why += " &middot; hands in {hands}, faces in {faces} of {looked} pictures".format(**entry["seen"])
    if "judged" in entry:
        why += f" (decided; was {entry['judged'] or 'a clip'})"
    choices = "<option value=''>decide</option>" + "".join(f"<option>{choice}</option>" for choice in DECISIONS)
    key = html.escape(json.dumps(segment_key(record["film"], entry["start_s"])), quote=True)
    return (
        f'<div class="s {entry["domain"] if not entry["reason"] else UNSURE if entry["reason"] == UNSURE else "bad"}" data-label="{label}">'
        f'<img loading="lazy" src="data:image/jpeg;base64,{data}" alt="{label}">'
        f'<select data-json="{key}">{choices}</select>{entry["start_s"]:.1f}&ndash;{entry["end_s"]:.1f} s &middot; {why}</div>'
    )


def _pages(records: list[dict]) -> list[list[dict]]:
    """Records in pages of about CARDS_PER_PAGE stretches; a film is never divided."""
    pages: list[list[dict]] = [[]]
    cards = 0
    for record in records:
        if cards >= CARDS_PER_PAGE:
            pages.append([])
            cards = 0
        pages[-1].append(record)
        cards += sum("strip" in entry for entry in record["segments"])
    return pages


def _film(output: Path, record: dict) -> str:
    report = record["report"]
    about = f"{report['duration_s']:.1f} s, {report['width']}x{report['height']}, {report['fps']:.1f} fps{' (variable)' if report['variable_rate'] else ''}"
    parts = [f"<h2>{html.escape(printable(record['film']))} <small>{about if report['frames'] else 'left out'}</small></h2>"]
    parts.extend(f"<div class=l>{html.escape(problem)}</div>" for problem in filter(None, (record["error"], *report["problems"])))
    parts.extend(f"<div class=n>{html.escape(note)}</div>" for note in report.get("notes", ()))
    parts.extend(
        f"<div class=e>{entry['reason']} at {entry['start_s']:.1f} s, frame {entry['frame']} ({entry['value']:.3g}, limit {entry['limit']:g})</div>"
        for entry in record["segments"]
        if "strip" not in entry
    )
    cards = [_card(output, record, entry) for entry in record["segments"] if "strip" in entry]
    return "\n".join(parts) + (f'<div class="grid">{"".join(cards)}</div>' if cards else "")


def page_name(number: int) -> str:
    """The first page is ``sheet.html``."""
    return FILE if number == 0 else f"sheet_{number + 1:04d}.html"


def write(output: Path, records: list[dict]) -> Path:
    """Write ``sheet.html`` and, for many films, its further pages into the output folder, each by rename; returns the first."""
    overrides = output / "overrides.json"
    start = json.loads(overrides.read_text()).get("segments", {}) if overrides.exists() else {}
    labels = sorted({entry["reason"] or entry["domain"] for record in records for entry in record["segments"] if "strip" in entry})
    pages = _pages(records)
    # what a browser remembers belongs to these films and to the decisions in force: other films, or decisions taken over, begin anew
    memory = hashlib.sha256(json.dumps([[record["film"] for record in records], start], sort_keys=True).encode()).hexdigest()[:16]
    links = "".join(f'<a href="{page_name(i)}">{i + 1}</a>' if len(pages) > 1 else "" for i in range(len(pages)))
    options = "".join(f"<option>{label}</option>" for label in labels)
    head = (
        f"<!doctype html><meta charset=utf-8><title>Contact sheet</title><style>{_STYLE}</style><header><b>Contact sheet</b> {len(records)} films"
        f"<nav>{links}</nav><label>show <select id=filter><option value=''>all</option>{options}</select></label>"
        "<span id=count></span><button id=save>save overrides.json</button><span>then <code>wbvla video review OUTPUT --apply overrides.json</code>"
        " and <code>wbvla video ingest</code> again</span></header>"
    )
    # keys travel as JSON, so that names that are not UTF-8 survive the page
    decode = "document.querySelectorAll('select[data-json]').forEach(box => { box.dataset.key = JSON.parse(box.dataset.json); });"
    decisions = json.dumps(start).replace("<", "\\u003c")
    script = f"<script>const PAGE = {json.dumps(f'wbvla {memory}')}, START = {decisions};{decode}{_SCRIPT}</script>"
    for number, page in enumerate(pages):
        temporary = output / f".{FILE}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(head)
            for record in page:
                file.write("\n" + _film(output, record))
            file.write("\n" + script)
        temporary.replace(output / page_name(number))
    for stale in output.glob("sheet_[0-9]*.html"):
        if stale.name not in {page_name(number) for number in range(len(pages))}:
            stale.unlink()
    return output / FILE
