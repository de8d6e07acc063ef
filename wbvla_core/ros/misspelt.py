"""Misspelt names in parameter files and on the command line. rclpy passes them over in silence. No rclpy: plain values."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Collection, Iterable, Sequence

import yaml

from wbvla_core.ros.parameters import SECTION_CUTOFF, ParameterFileError, read_sections


def parameter_files(arguments: Sequence[str]) -> list[str]:
    """The files of ``--params-file`` in a process's arguments."""
    return [after for before, after in zip(arguments, arguments[1:], strict=False) if before == "--params-file"]


def sections(files: Iterable[str]) -> list[tuple[str, str, list[str]]]:
    """(file, node name or pattern, parameter names) of every section of these files. A file that cannot be read is left to rcl, which refuses it."""
    out = []
    for file in files:
        with contextlib.suppress(ParameterFileError):
            out += [(file, name, list(values)) for name, values in read_sections(file)]
    return out


def misspelt(
    node: str, unknown: Iterable[str], known: Sequence[str], files: Sequence[str], nodes: Sequence[str], elsewhere: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """What to refuse and what to say about names that no parameter has.

    A section ``/**`` speaks to several nodes. A name in it that another node of the stack has, or that resembles none of this node's,
    is said. Everything else is refused.

    Args:
        node: this node's name.
        unknown: names that were given to it and that it does not declare.
        known: names that it declares.
        files: parameter files of the process.
        nodes: names of all nodes of the stack. A section whose name resembles this node's and is none of them is refused.
        elsewhere: parameters of the other nodes.

    Returns:
        (refusals, remarks), each a sentence.
    """
    found = sections(files)
    mine = {name: file for file, section, names in found if section.rpartition("/")[2] == node for name in names}
    everybody = {name: (file, section) for file, section, names in found if "*" in section for name in names}
    refusals, remarks = [], []
    for name in sorted(unknown):
        near = difflib.get_close_matches(name, known, n=1)
        if name in everybody and name not in mine and (name in elsewhere or not near):
            file, section = everybody[name]
            remarks.append(f"{file}, section {section}: {name!r} is no parameter of {node}; it is passed over here")
            continue
        file = mine.get(name) or everybody.get(name, ("",))[0]
        hint = f"is {near[0]!r} meant?" if near else f"it has {', '.join(sorted(known))}"
        refusals.append(f"{f'{file}: ' if file else ''}{node} has no parameter {name!r}; {hint}")
    for file, section, _ in found:
        last = section.rpartition("/")[2]
        if "*" not in section and last not in nodes and difflib.get_close_matches(last, nodes, n=1, cutoff=SECTION_CUTOFF) == [node]:
            refusals.append(f"{file}: there is no node {last!r}; is {node!r} meant?")
    return refusals, remarks


def explain_broken_file(files: Sequence[str], error: Exception) -> str:
    """One sentence about arguments that rcl refuses."""
    for file in files:
        if not os.path.isfile(file):
            return f"parameter file {file} does not exist"
        try:
            with open(file, encoding="utf-8") as text:
                yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError) as reason:
            return f"parameter file {file} cannot be read: {' '.join(str(reason).split())}"
    reason = str(error).split(", at ")[0].splitlines()[0]
    if files and "param" in str(error):
        return f"parameter file {', '.join(files)}: {reason}; expected is `node: ros__parameters: name: value`"
    return f"ROS refuses the arguments of this process: {reason}"
