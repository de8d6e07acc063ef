"""A client of one Trigger service, made as fast as can be."""

from __future__ import annotations

import gc
import os

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from wbvla_core.ros.qos import interface_class
from wbvla_core.ros.qos import service as row_of

ASK_AGAIN_S, ATTEMPTS = 1.5, 6  # an answer is lost where the server has not found this client yet; what is called may be called twice


class Caller:
    """A client of one Trigger service in one domain, and nothing else: what is made here is what a person waits for at an e-stop."""

    def __init__(self, service: str, domain: int) -> None:
        row = row_of(service)
        self.domain = domain
        self._request = interface_class(row.type).Request
        self._context = Context()
        self._context.init(domain_id=domain, initialize_logging=False)
        name = f"wbvla_cli_{os.getpid()}"
        self._node = Node(name, context=self._context, start_parameter_services=False, enable_rosout=False)
        self._client = self._node.create_client(interface_class(row.type), row.name)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def offered(self) -> bool:
        """Whether somebody offers the service."""
        return self._client.service_is_ready()

    def call(self) -> tuple[bool, str]:
        """Call it; (whether it did what was asked, a line for people)."""
        for _ in range(ATTEMPTS):
            future = self._client.call_async(self._request())
            self._executor.spin_until_future_complete(future, timeout_sec=ASK_AGAIN_S)
            if future.done():
                return bool(future.result().success), f"domain {self.domain}: {future.result().message}"
        return False, f"domain {self.domain}: a stack is there, but it did not answer within {ATTEMPTS * ASK_AGAIN_S:g} s"

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_node()
        self._executor.shutdown()
        del self._client, self._node, self._executor
        gc.collect()  # with the last reference goes the participant, and with it its shared memory
        self._context.try_shutdown()
