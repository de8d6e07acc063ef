"""``wbvla video review``: write the contact sheet of an ingested folder, or take over the decisions that were saved from it."""

from __future__ import annotations

from wbvla_core.checkpoint import write_json
from wbvla_core.console import program
from wbvla_core.errors import WbvlaError
from wbvla_train.data.film import sheet
from wbvla_train.data.film.duplicates import mark_duplicates
from wbvla_train.data.film.ingest import LISTS_LOCK, OVERRIDES, load_records, locked, read_overrides, summarise, summary_lines
from wbvla_train.data.film.review_command import ReviewConfig


def review(config: ReviewConfig, log=print) -> int:
    """Write ``sheet.html``; returns the exit status."""
    records = load_records(config.output)
    if not records:
        raise WbvlaError(f"{config.output} holds no ingested film; run wbvla video ingest FOLDER --output {config.output} first")
    if config.apply is not None:
        if not config.apply.exists():
            raise WbvlaError(f"{config.apply} does not exist; save it from the contact sheet")
        both = {**read_overrides(config.output / OVERRIDES), **read_overrides(config.apply)}
        merged = {key: decision for key, decision in both.items() if decision}
        write_json(config.output / OVERRIDES, {"schema": 1, "segments": merged})
        log(f"{len(merged)} decisions in {config.output / OVERRIDES}; run wbvla video ingest again to carry them out")
    with locked(config.output / LISTS_LOCK, True):
        mark_duplicates(config.output, records)
        page = sheet.write(config.output, records)
    for line in summary_lines(summarise(records)):
        log(line)
    log(f"open in a browser: {page}")
    return 0


if __name__ == "__main__":
    from wbvla_train.data.film.review_command import main

    program(main)
