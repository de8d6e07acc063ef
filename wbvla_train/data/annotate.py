"""``wbvla annotate``: sentences for clips that have none, one after the other in a terminal; or all at once from templates or a table.

The clip in hand is a contact strip, ``annotate.png`` in the folder; ``annotate.html`` beside it shows it in a browser and follows along.
Every answer is written at once: leave when you like, the next run goes on with what is missing.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wbvla_core.console import program
from wbvla_core.errors import WbvlaError
from wbvla_train.data import primitives, sentences
from wbvla_train.data.annotate_command import AnnotateConfig
from wbvla_train.data.clips import SIDECAR
from wbvla_train.data.mp4 import read_mp4

STRIP, PAGE = "annotate.png", "annotate.html"
STRIP_FRAMES, STRIP_COLUMNS, STRIP_PX = 8, 4, 240
HELP = "Enter accepts the suggestion; a sentence (several: separated by ;) replaces it; s skips, u undoes the last answer, q ends, ? this help"


@dataclass(frozen=True)
class Clip:
    """A clip to describe: its folder and file, and its primitive where that is known."""

    folder: Path
    file: str
    primitive: str | None

    @property
    def path(self) -> Path:
        return self.folder / self.file

    def put(self, source: str, texts: tuple[str, ...]) -> None:
        """Write its entry; whatever was said of a file of this name or content before is replaced."""
        entry = sentences.Described(self.file, sentences.content_hash(self.path), source, texts)
        others = [old for old in sentences.read(self.folder) if old.file != self.file and old.sha256 != entry.sha256]
        sentences.write(self.folder, [*others, entry])


def find(root: Path, everything: bool, log: Callable[[str], None]) -> list[Clip]:
    """Clips without a sentence (or all), by name; says what is there already and which entries are stale."""
    folders = sorted(path.parent for path in root.rglob(SIDECAR))
    if not folders:
        raise WbvlaError(f"no {SIDECAR} under {root}; render video (wbvla data video) or ingest films (wbvla video ingest)")
    clips, described, total = [], 0, 0
    for folder in folders:
        files, (known, stale) = sentences.listed_clips(folder), sentences.match(folder)
        told = primitives.of_folder(folder, files)
        clips.extend(Clip(folder, file, told.get(file)) for file in files if everything or file not in known)
        described, total = described + len(known), total + len(files)
        for entry in stale:
            log(f"stale: {folder / entry.file} is gone or holds something else than what {entry.sentences[0]!r} was said of ({entry.source})")
    log(f"annotate: {described} of {total} clips have a sentence")
    return clips


def from_templates(clips: list[Clip], log: Callable[[str], None]) -> int:
    """Give every clip of a known primitive its phrasings; returns how many."""
    known = [clip for clip in clips if clip.primitive]
    for clip in known:
        clip.put("template", primitives.phrasings(clip.primitive))
    log(f"annotate: {len(known)} clips from templates, {len(clips) - len(known)} left (no primitive is known of them)")
    return len(known)


def from_table(path: Path, root: Path, clips: list[Clip], source: str, log: Callable[[str], None]) -> int:
    """Take over a table; nothing is written where a row is wrong. Returns how many clips got sentences."""
    by_name = {clip.path.relative_to(root).as_posix(): clip for clip in clips}
    listed = {(path.parent / file).relative_to(root).as_posix() for path in root.rglob(SIDECAR) for file in sentences.listed_clips(path.parent)}
    texts: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"clip", "sentence"} <= set(rows.fieldnames or ()):
                raise WbvlaError(f"{path} must begin with a line that names the columns clip and sentence; got {rows.fieldnames}")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if row["clip"] not in listed:
                    raise WbvlaError(f"{where}: {row['clip']!r} is no clip under {root}; name its path below that folder, such as {min(listed)}")
                try:
                    texts.setdefault(row["clip"], []).append(sentences.checked_sentence(row["sentence"] or ""))
                except WbvlaError as error:
                    raise WbvlaError(f"{where}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WbvlaError(f"{path} cannot be read as a table in UTF-8: {error}") from None
    fresh = [name for name in texts if name in by_name]
    for name in fresh:
        by_name[name].put(source, tuple(dict.fromkeys(texts[name])))
    log(f"annotate: {len(fresh)} clips from {path}, {len(texts) - len(fresh)} had a sentence already (--all replaces them)")
    return len(fresh)


def strip(path: Path) -> Image.Image:
    """Frames of a clip in rows, in order of time."""
    frames, _ = read_mp4(path)
    chosen = frames[np.linspace(0, len(frames) - 1, STRIP_FRAMES).round().astype(int)]
    sheet = Image.new("RGB", (STRIP_COLUMNS * (STRIP_PX + 4), -(-STRIP_FRAMES // STRIP_COLUMNS) * (STRIP_PX + 4)), "white")
    for i, frame in enumerate(chosen):
        place = (i % STRIP_COLUMNS * (STRIP_PX + 4), i // STRIP_COLUMNS * (STRIP_PX + 4))
        sheet.paste(Image.fromarray(frame).resize((STRIP_PX, STRIP_PX), Image.Resampling.BICUBIC), place)
    return sheet


def ask(root: Path, clips: list[Clip], read: Callable[[str], str], log: Callable[[str], None]) -> int:
    """Go through clips; returns how many have an answer that stands.

    Args:
        read: shows a prompt and gives the line that was typed; EOFError ends.
    """
    (root / PAGE).write_text(f"<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=1><title>wbvla annotate</title><img src={STRIP}>\n")
    log(f"look at {root / STRIP}, or open {root / PAGE} in a browser: it follows along\n{HELP}")
    at, done = 0, []  # done: (number of the clip, entries of its folder before the answer)
    while at < len(clips):
        clip = clips[at]
        suggestion = primitives.phrasings(clip.primitive) if clip.primitive else ()
        picture = root / f".{STRIP}"
        strip(clip.path).save(picture, format="PNG")
        picture.replace(root / STRIP)
        try:
            typed = read(f"[{at + 1}/{len(clips)}] {clip.path.relative_to(root)} {f'({suggestion[0]})' if suggestion else '(no suggestion)'}: ").strip()
        except EOFError:
            break
        if typed == "q":
            break
        if typed == "?":
            log(HELP)
        elif typed == "s":
            at += 1
        elif typed == "u":
            if not done:
                log("nothing to undo")
                continue
            at, before = done.pop()
            sentences.write(clips[at].folder, before)
        elif not typed and not suggestion:
            log("no primitive is known of this clip: type a sentence, or s to skip it")
        else:
            try:
                texts = tuple(sentences.checked_sentence(text) for text in typed.split(";")) if typed else suggestion
            except WbvlaError as error:
                log(str(error))
                continue
            done.append((at, sentences.read(clip.folder)))
            clip.put("annotator" if typed else "template", texts)
            at += 1
    log(f"annotate: {len(done)} clips answered, {len(clips) - len(done)} left")
    return len(done)


def annotate(config: AnnotateConfig, read: Callable[[str], str] = input, log: Callable[[str], None] = print) -> int:
    """Carry out the verb; returns how many clips got sentences.

    Raises:
        WbvlaError: no clips, a damaged sidecar, a table with a wrong row, --templates together with --from.
    """
    if config.templates and config.table:
        raise WbvlaError("--templates and --from exclude each other; run the table first, then --templates for the rest")
    clips = find(config.folder, config.all, log)
    if config.templates:
        return from_templates(clips, log)
    if config.table:
        return from_table(config.table, config.folder, clips, config.source, log)
    return ask(config.folder, clips, read, log)


if __name__ == "__main__":
    from wbvla_train.data.annotate_command import main

    program(main)
