"""The topic table as rclpy wants it: QoS profiles and message classes."""

from __future__ import annotations

import functools
import importlib

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from wbvla_core.ros.tables import Endpoint, topic_table


@functools.cache
def interface_class(type_name: str) -> type:
    """The class of ``package/msg/Name`` (or srv, action).

    Raises:
        RuntimeError: the interface package is not built; the text says how to build it.
    """
    package, kind, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except (ImportError, AttributeError) as error:  # an unbuilt package folder imports as an empty namespace
        raise RuntimeError(f"{type_name} cannot be imported ({error}); build the messages with `make setup`, or source the workspace") from error


def available(key: str) -> bool:
    """Whether topic ``key`` can be published and heard here: the types of optional topics are not installed everywhere."""
    try:
        interface_class(topic(key).type)
    except RuntimeError:
        if topic(key).optional:
            return False
        raise
    return True


def qos(key: str, depth: int | None = None) -> QoSProfile:
    """QoS of topic ``key`` of config/qos.yaml; ``depth`` for a reader that must not lose messages (the recorder)."""
    profile = topic_table().profile(key)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth or profile.depth,
        reliability={"reliable": ReliabilityPolicy.RELIABLE, "best_effort": ReliabilityPolicy.BEST_EFFORT}[profile.reliability],
        durability={"volatile": DurabilityPolicy.VOLATILE, "transient_local": DurabilityPolicy.TRANSIENT_LOCAL}[profile.durability],
    )


def topic(key: str) -> Endpoint:
    """Row ``key`` of the topics."""
    return topic_table().topics[key]


def service(key: str) -> Endpoint:
    """Row ``key`` of the services."""
    return topic_table().services[key]


def action(key: str) -> Endpoint:
    """Row ``key`` of the actions."""
    return topic_table().actions[key]
