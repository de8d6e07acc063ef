"""Which parameters a node starts with: the launch group's defaults, then the parameter files, then what was given at the start. Later ones win.

ROS itself ranks by section, not by file: a section ``/**`` of the last file can lose against a section ``lmo`` of the first one, and what ROS launch passes
as a dictionary is such a ``/**``. So the starter works out each node's parameters here and hands it one file with one section.

Values keep the text that the operator wrote: ROS reads YAML differently from PyYAML (``1e-3`` is a number there), so nothing here interprets them.
No rclpy and no launch: this also runs where neither is installed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import load_robot
from wbvla_core.ros.tables import node_table

SECTION, NULL = "ros__parameters", "tag:yaml.org,2002:null"
ALL_NODES = "/**"
MANAGER = "lifecycle_manager"
SECTION_CUTOFF = 0.75  # of difflib's ratio: "lmoo" is meant for lmo, "render_node" may be another package's
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}  # as ROS launch's own conditions read them
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


@dataclass(frozen=True)
class Given:
    """The value of one parameter, as it stands in a file; ``shared`` where it was said to several nodes at once (``/**``)."""

    node: yaml.Node
    shared: bool = False


Values = dict[str, Given]


class ParameterFileError(WbvlaError):
    """A parameter file or a launch argument that cannot be used; the text says what was expected."""


def given(value: Any) -> Given:
    """A Python value as YAML that ROS reads as the same type. Strings are quoted: ``7`` and ``on`` stay words."""
    text = yaml.safe_dump(value, default_style='"' if isinstance(value, str) else None, default_flow_style=True, width=1_000_000, allow_unicode=True)
    return Given(yaml.compose(text, Loader=yaml.SafeLoader))


def text_of(values: Values, name: str) -> str:
    """The text of a scalar parameter; empty where it is not given."""
    node = values[name].node if name in values else None
    return node.value if isinstance(node, yaml.ScalarNode) else ""


def read_sections(path: Path | str) -> list[tuple[str, Values]]:
    """The sections of a ROS parameter file, in the order in which ROS ranks them: a later one wins.

    Raises:
        ParameterFileError: no such file, no YAML, or entries outside a ``ros__parameters`` section.
    """
    path = Path(path)
    try:
        root = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ParameterFileError(f"{path}: a ROS parameter file was expected, but it cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterFileError(f"{path}: a ROS parameter file was expected, but this is no YAML: {' '.join(str(error).split())}") from error
    sections: dict[str, Values] = {}
    if root is not None:
        _walk(path, root, "", sections)
    return list(sections.items())


def _walk(path: Path, node: yaml.Node, name: str, sections: dict[str, Values]) -> None:
    if node.tag == NULL:
        return
    if not isinstance(node, yaml.MappingNode):
        where = f"line {node.start_mark.line + 1}, {name or 'the top'}"
        raise ParameterFileError(f"{path}: {where} must hold `<node>: {{{SECTION}: {{<parameter>: <value>}}}}`; is {SECTION} missing?")
    for key, value in node.value:
        if key.value == SECTION:
            if not name:
                raise ParameterFileError(f"{path}: line {key.start_mark.line + 1}: {SECTION} must stand below the name of a node, or below '{ALL_NODES}'")
            section = sections.setdefault(name, {})
            if value.tag != NULL:
                _flatten(path, value, "", section)
        else:
            _walk(path, value, f"{name}/{key.value}" if name else key.value, sections)


def _flatten(path: Path, node: yaml.Node, prefix: str, out: Values) -> None:
    """Nested parameters have dotted names in ROS."""
    if not isinstance(node, yaml.MappingNode):
        raise ParameterFileError(f"{path}: line {node.start_mark.line + 1}: {SECTION} must hold `<parameter>: <value>` lines")
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode):
            _flatten(path, value, f"{prefix}{key.value}.", out)
        else:
            out[prefix + key.value] = Given(value)


def is_for(section: str, node: str) -> bool:
    """Whether a section of a parameter file speaks of the node of that fully qualified name (``/lmo``): ``*`` is one word, ``**`` any number of words."""
    words = {"*": r"/\w+", "**": r"(/\w+)*"}
    pattern = "".join(words.get(part, "/" + re.escape(part)) for part in section.strip("/").split("/"))
    return re.fullmatch(pattern, node) is not None


def in_file(path: Path | str, node: str) -> Values:
    """What one parameter file says to a node."""
    values: Values = {}
    for section, said in read_sections(path):
        if is_for(section, f"/{node}"):
            values |= {name: Given(value.node, shared="*" in section) for name, value in said.items()}
    return values


def strangers(path: Path | str) -> list[str]:
    """One sentence for each section of a parameter file that speaks of no node of the stack, but of another program's.

    Raises:
        ParameterFileError: a section whose name resembles a node's.
    """
    names = [row.name for row in node_table().nodes] + [MANAGER]
    out = []
    for section, _ in read_sections(path):
        if any(is_for(section, f"/{name}") for name in names):
            continue
        near = difflib.get_close_matches(section.rpartition("/")[2], names, n=1, cutoff=SECTION_CUTOFF)
        if near:
            raise ParameterFileError(f"{path}: there is no node {section!r}; is {near[0]!r} meant?")
        out.append(f"{path}: section {section!r} speaks of no node of this stack ({', '.join(names)}); it changes nothing here")
    return out


def file_text(name: str, values: Values) -> str:
    """The parameter file of one node. No parameter stands in both of its sections, so that their order means nothing."""
    sections = []
    for section, shared in ((ALL_NODES, True), (name, False)):
        pairs = [(parameter, value.node) for parameter, value in values.items() if value.shared is shared]
        if pairs or not shared:
            sections.append((section, _mapping([(SECTION, _mapping(pairs))])))
    return yaml.serialize(_mapping(sections), Dumper=yaml.SafeDumper, allow_unicode=True, width=1_000_000)


def _mapping(pairs: Sequence[tuple[str, yaml.Node]]) -> yaml.MappingNode:
    keys = [(yaml.ScalarNode("tag:yaml.org,2002:str", name), value) for name, value in pairs]
    return yaml.MappingNode("tag:yaml.org,2002:map", keys, flow_style=False)


def final_parameters(groups: Sequence[str], files: Iterable[Path | str], over: Mapping[str, Mapping[str, Any]]) -> dict[str, Values]:
    """The parameters of every node of these launch groups.

    Args:
        groups: launch groups of config/nodes.yaml.
        files: parameter files; a later one goes over an earlier one.
        over: node -> {parameter: value}, over the files. Nodes that these groups do not start are left out.

    Returns:
        node -> {parameter: value}, in start order.
    """
    files = list(files)
    out: dict[str, Values] = {}
    for row in node_table().launch(*groups):
        values = {name: given(value) for name, value in row.defaults_in(groups).items()}
        for file in files:
            values |= in_file(file, row.name)
        out[row.name] = values | {name: given(value) for name, value in over.get(row.name, {}).items()}
    return out


# -- launch arguments ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """A launch argument that sets parameters. Without it the parameter files decide.

    Attributes:
        kind: bool, int, float or str.
        description: what it means, with its unit.
        sets: value -> {node: {parameter: value}}.
        choices: the only values that are accepted; empty = any.
    """

    name: str
    kind: type
    description: str
    sets: Callable[[Any], Mapping[str, Mapping[str, Any]]]
    choices: tuple[str, ...] = ()

    def read(self, text: str) -> Any:
        """The value of ``name:=text``, or :class:`ParameterFileError`."""
        if self.choices and text not in self.choices:
            raise ParameterFileError(f"{self.name}:={text}: must be one of {', '.join(self.choices)}")
        try:
            return BOOLEANS[text.strip().lower()] if self.kind is bool else self.kind(text)
        except (KeyError, ValueError) as error:
            wanted = {bool: "true or false", int: "a whole number", float: "a number"}[self.kind]
            raise ParameterFileError(f"{self.name}:={text}: must be {wanted}") from error


def _every_robot(robot: str) -> dict[str, dict[str, str]]:
    return {row.name: {"robot": robot} for row in node_table().nodes if row.name != "record"}


def _sim_time(wanted: bool) -> dict[str, dict[str, bool]]:
    return {name: {"use_sim_time": wanted} for name in (*(row.name for row in node_table().nodes), MANAGER)}


ROBOT = Argument("robot", str, "robot spec: a name of config/robots or the path of a YAML file", _every_robot)
SIM_TIME = Argument("use_sim_time", bool, "true: nodes take the time from /clock, and the simulator, where it is started, publishes it", _sim_time)


BAG = Argument(
    "bag",
    str,
    "folder of one bag, which must not exist yet; default: what the parameter files say, or else runs/<time>",
    lambda bag: {"record": {"output": str(Path(bag).absolute()), "session": ""}},
)
SESSION = Argument(
    "session",
    str,
    "folder of episodes, begun and ended by services or by the gamepad",
    lambda session: {"record": {"session": str(Path(session).absolute()), "output": ""}},
)


def dated_bag(name: str) -> Callable[[dict[str, Values]], None]:
    """Completes the recorder's parameters: where nobody says where to, into runs/<time>/<name>."""

    def complete(parameters: dict[str, Values]) -> None:
        own = parameters["record"]
        if not text_of(own, "output") and not text_of(own, "session"):
            own["output"] = given(str(Path(f"runs/{datetime.now():%Y%m%d-%H%M%S}/{name}").absolute()))

    return complete


def given_parameters(arguments: Iterable[Argument], texts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What launch arguments set: node -> {parameter: value}. An empty text is an argument that was not given.

    Raises:
        ParameterFileError: a value that is none of its kind.
    """
    out: dict[str, dict[str, Any]] = {}
    if texts.get(BAG.name) and texts.get(SESSION.name):
        raise ParameterFileError(f"{BAG.name}:= is one bag and {SESSION.name}:= a folder of episodes: give one of them")
    for argument in arguments:
        text = texts.get(argument.name, "")
        if text:
            for node, values in argument.sets(argument.read(text)).items():
                out.setdefault(node, {}).update(values)
    return out


def check_robots(parameters: Mapping[str, Values]) -> str:
    """The robot of these nodes (the first one's); every name or path that is given must be a robot.

    Raises:
        RobotSpecError: a robot that does not exist; the text names those that do.
    """
    names = [text_of(values, "robot") for values in parameters.values() if "robot" in values]
    for name in names:
        load_robot(name)
    return names[0] if names else "x2"
