"""Pictures against rows, for ``wbvla dataset check``: by the stamps of both, file by file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbvla_train.data.lerobot.episode import DataError, shown
from wbvla_train.data.lerobot.pictures import Video, allowed, nearest, scan
from wbvla_train.data.lerobot.reader import Dataset, View


@dataclass(frozen=True)
class Finding:
    """One fault: an error makes the episode unfit for training, a warning wants a look. Episode -1: the whole data set."""

    episode: int
    kind: str
    severity: str
    frame: int
    text: str


def pictures(dataset: Dataset, camera: str) -> dict[int, list[Finding]]:
    """Findings of one camera, by episode. Rows out of order are left to the check of numbers."""
    by_file: dict[Path, list[View]] = {}
    found: dict[int, list[Finding]] = {view.index: [] for view in dataset.views}
    for view in dataset.views:
        if camera not in view.videos:
            found[view.index].append(_say(view, "picture", 0, f"no video of {camera}; a data set has every camera in every episode"))
        elif view.length:
            by_file.setdefault(view.videos[camera][0], []).append(view)
    for path, views in by_file.items():
        try:
            video = scan(path)
        except DataError as error:
            for view in views:
                found[view.index].append(_say(view, "unreadable", 0, str(error)))
            continue
        for finding in _file(dataset, camera, video, sorted(views, key=lambda view: view.videos[camera][1])):
            found[finding.episode].append(finding)
    return found


def _say(view: View, kind: str, frame: int, text: str, severity: str = "error") -> Finding:
    return Finding(view.index, kind, severity, int(frame), text)


def _file(dataset: Dataset, camera: str, video: Video, views: Sequence[View]) -> Iterator[Finding]:
    """The episodes of one video file, in its order."""
    edges: list[View] = []  # episodes at an end of the file whose rows and pictures do not fit there
    named: set[int] = set()  # episodes with an error of their own
    odd = list(_size(dataset, camera, video))
    for place, view in enumerate(views):
        yield from (_say(view, "size", 0, text, "warning") for text in odd)
        following = views[place + 1].videos[camera][1] if place + 1 < len(views) else np.inf
        try:
            faults = list(_episode(dataset, camera, video, view, first=place == 0, following_s=following))
        except DataError:  # its rows are out of order: said by the check of numbers
            continue
        yield from (finding for finding, _ in faults)
        named |= {finding.episode for finding, _ in faults if finding.severity == "error"}
        at_edge = {edge for _, edge in faults}
        if (place == 0 and "begin" in at_edge) or (place == len(views) - 1 and "end" in at_edge):
            edges.append(view)
    if edges and len(views) > 1:
        text = (
            f"{camera}: shares {shown(video.path.name)} with episode {edges[0].index}, whose rows and pictures do not fit at the file's end: "
            "pictures may be shifted here, too; where some were lost or added cannot be told"
        )
        yield from (_say(view, "picture", 0, text) for view in views if view.index not in named)


def _episode(dataset: Dataset, camera: str, video: Video, view: View, *, first: bool, following_s: float) -> Iterator[tuple[Finding, str]]:
    """(finding, "begin" or "end" where it touches that end of the episode, else "")."""
    period, count, rows_hz = 1.0 / dataset.fps, view.length, f"{dataset.fps:g} rows/s"
    from_s, to_s = view.videos[camera][1], view.ends.get(camera, np.inf)
    wanted = from_s + view.times_s
    exact, most = allowed(wanted, period, video.step_s, video.tick_s)
    slack, rounding = float(most.max()), float(exact.max())
    until_s = following_s if np.isinf(following_s) else min(following_s, to_s)  # behind the file's last episode there must be nothing
    mine = video.stamps_s[(video.stamps_s >= (-np.inf if first else from_s - slack)) & (video.stamps_s < until_s - slack)]
    rates = f"({rows_hz}, {1 / video.step_s:.4g} pictures/s)"
    if len(mine) == 0:
        yield _say(view, "picture", 0, f"{camera}: no picture at {from_s:.3f} s of {shown(video.path.name)}, {count} expected {rates}"), "end"
        return
    place = nearest(mine, wanted)
    off = np.abs(mine[place] - wanted)
    if (bad := off > most).any():
        row = int(bad.argmax())
        text = f"{camera}: {bad.sum()} of {count} rows have no picture: the nearest to row {row} is {mine[place[row]] - wanted[row]:+.4f} s off {rates}"
        yield _say(view, "picture", row, text), "end" if bad[-1] else "begin" if bad[0] else ""
    elif (off > exact).any():
        text = f"{camera}: pictures lie up to {off.max() * 1e3:.0f} ms from their rows {rates}"
        yield _say(view, "picture", off.argmax(), text, "warning"), ""
    if (late := wanted >= to_s - exact).any():
        row = int(late.argmax())
        text = f"{camera}: row {row} lies behind the episode's end in {shown(video.path.name)} ({to_s:.3f} s): its picture is another episode's"
        yield _say(view, "picture", row, text), ""
    if behind := int((mine >= wanted[-1] + period - rounding).sum()):
        yield _say(view, "picture", count, f"{camera}: {behind} more pictures than rows: they go on {mine[-1] - wanted[-1]:.2f} s after the last row"), "end"
    if before := int((mine <= wanted[0] - period + rounding).sum()):
        yield _say(view, "picture", 0, f"{camera}: {before} pictures before the first row: they begin {wanted[0] - mine[0]:.2f} s before it"), "begin"
    if nobody := int(((video.stamps_s >= until_s - slack) & (video.stamps_s < following_s - slack)).sum()):
        text = f"{camera}: {nobody} pictures between this episode and the next in {shown(video.path.name)} belong to no listed episode"
        yield _say(view, "picture", count, text, "warning"), ""
    within = len(mine) - behind - before
    if within > count and slack < period / 4:  # not finer than the rows, and yet more of them
        extra = int(np.setdiff1d(np.arange(len(mine)), place)[0])
        row = int(np.searchsorted(wanted, mine[extra]))
        yield _say(view, "picture", row, f"{camera}: {within} pictures for {count} rows; the one at {mine[extra]:.3f} s has none"), ""


def _size(dataset: Dataset, camera: str, video: Video) -> Iterator[str]:
    """Pictures of another size than announced, or that ask to be turned."""
    announced = sorted(int(n) for n in dataset.features[camera]["shape"])
    if announced != sorted((video.height, video.width, 3)):
        yield f"{camera}: pictures are {video.width}x{video.height} px, meta/info.json says {dataset.features[camera]['shape']}"
    if video.rotation_deg:
        yield f"{camera}: the file asks to be turned by {video.rotation_deg} degrees, which no reader of data sets does: pictures are read as stored"
