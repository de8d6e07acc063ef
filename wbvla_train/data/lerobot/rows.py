"""Rows of one episode out of a parquet file that may hold many: where they lie is found once a file, and a row group is read once for its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbvla_train.data.lerobot.episode import DataError, shown

SMALL = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # columns that are kept for whole files: 40 bytes a row
FILES, GROUPS = 16, 2  # kept in memory: small columns of files; row groups


@dataclass(frozen=True)
class _File:
    """What is kept of a file: its footer, its columns' names, the small ones, where row groups begin [G + 1], and of each episode its rows."""

    metadata: pq.FileMetaData
    names: list[str]
    small: pa.Table
    starts: np.ndarray
    rows: dict[int, np.ndarray]


def episode_rows(path: Path, episode: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of an episode, in the file's order.

    Args:
        columns: those to read, all that there are by default; those that the file lacks are left out.

    Raises:
        DataError: the file is missing or not readable.
    """
    try:
        state = path.stat()
        key = (str(path), state.st_size, state.st_mtime_ns)
        file = _file(*key)
        rows = file.rows.get(episode, np.zeros(0, np.int64))
        wanted = tuple(name for name in file.names if columns is None or name in columns)
        if set(wanted) <= set(file.small.column_names):
            return file.small.select(list(wanted)).take(rows)
        first, last = (np.searchsorted(file.starts, row, side="right") - 1 for row in (rows.min(initial=0), rows.max(initial=0)))
        groups = [_group(*key, group, wanted) for group in range(first, last + 1)]
        table = pa.concat_tables(groups) if len(groups) > 1 else groups[0]
        return table.take(rows - file.starts[first])
    except FileNotFoundError:
        raise DataError(f"{shown(path)} is missing: the rows of episode {episode}") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{shown(path)} is not readable: {str(error).splitlines()[0]}") from error


@lru_cache(maxsize=FILES)
def _file(path: str, _size: int, _mtime_ns: int) -> _File:
    metadata = pq.read_metadata(path)
    names = metadata.schema.to_arrow_schema().names
    with pq.ParquetFile(path, metadata=metadata) as file:
        small = file.read(columns=[name for name in SMALL if name in names])
    starts = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
    episodes = small["episode_index"].to_numpy() if "episode_index" in names else np.zeros(0, np.int64)
    order = np.argsort(episodes, kind="stable")
    numbers, begins = np.unique(episodes[order], return_index=True)
    return _File(metadata, names, small, starts, dict(zip(numbers.tolist(), np.split(order, begins[1:]))))


@lru_cache(maxsize=GROUPS)
def _group(path: str, _size: int, _mtime_ns: int, group: int, columns: tuple[str, ...]) -> pa.Table:
    with pq.ParquetFile(path, metadata=_file(path, _size, _mtime_ns).metadata) as file:
        return file.read_row_group(group, columns=list(columns)) if file.num_row_groups else file.read(columns=list(columns))
