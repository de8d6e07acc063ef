"""Options of reading data sets as training goes, on their own: parsing a command line needs no video reader."""

from __future__ import annotations

from dataclasses import dataclass

from wbvla_core.errors import require_at_least


@dataclass(frozen=True)
class StreamConfig:
    """How data sets are read.

    Attributes:
        lanes: independent sequences that a batch is made from, at most; as many as divide the batch and have chunks are used. More mix better and
            need more memory (ours).
        chunk_frames: consecutive frames that are decoded together (ours: 3.2 s at 10 Hz; our videos have a key frame every five frames).
        pool_chunks: chunks of a lane in memory at once, from as many places of the data (ours).
        camera: image column; empty: the head camera, or the only one.
    """

    lanes: int = 64
    chunk_frames: int = 32
    pool_chunks: int = 4
    camera: str = ""

    def require(self, where: str) -> None:
        """Raise WbvlaError for the first value with which nothing can be read."""
        require_at_least(self, where, lanes=1, chunk_frames=1, pool_chunks=1)
