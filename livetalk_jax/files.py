"""Files that are there with all of their content or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yields another name to write to, beside `path`, which takes its place when the block ends well; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """`content`, text as UTF-8."""
    with writing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
