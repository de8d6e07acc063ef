"""``wbvla view``: look at a recording or a data set, in rerun or as an HTML summary."""

from __future__ import annotations

import importlib.util
import sys

from wbvla_cli import view_html
from wbvla_cli.view_command import ViewOptions
from wbvla_cli.view_data import load_bag, load_dataset
from wbvla_core.console import program
from wbvla_core.robot import RobotSpecError
from wbvla_train.data.lerobot.bag import TopicMap
from wbvla_train.data.lerobot.episode import DataError, shown
from wbvla_train.data.lerobot.find import find
from wbvla_train.data.lerobot.reader import is_dataset


def view(options: ViewOptions) -> int:
    """Write or show it; refusals are one sentence on stderr."""
    try:
        return _view(options)
    except (DataError, RobotSpecError) as error:
        print(f"wbvla view: {shown(options.file)}: {shown(error)}", file=sys.stderr)
        return 2


def _view(options: ViewOptions) -> int:
    if options.to != "html" and importlib.util.find_spec("rerun") is None:
        raise DataError("rerun is not installed: pip install 'wbvla[view]' -c requirements/pins.txt, or --to html")
    source = options.file
    if is_dataset(source):
        view = load_dataset(source, options.episode)
        default = source.with_name(f"{source.name}-episode-{options.episode}")
    else:
        found = find([source])
        bags = found.bags + found.discarded  # what was thrown away can be looked at
        if len(bags) != 1:
            strays = "".join(f"; {shown(path)}: {reason}" for path, reason in found.strays[:3])
            raise DataError(f"one recording expected, {shown(source)} holds {len(bags)}; name one of them{strays}")
        view = load_bag(bags[0], options.robot, TopicMap.load(options.topics) if options.topics else TopicMap.ours())
        default = bags[0] / "view" if bags[0].is_dir() else bags[0].with_name(f"{bags[0].stem}-view")
    if options.to == "html":
        print(shown(view_html.write(view, options.output or default.with_name(default.name + ".html"))))
        return 0
    from wbvla_cli import view_rerun

    save = options.output or default.with_name(default.name + ".rrd") if options.to == "rrd" else None
    view_rerun.show(view, save)
    if save:
        print(shown(save))
    return 0


if __name__ == "__main__":
    from wbvla_cli.view_command import main

    program(main)
