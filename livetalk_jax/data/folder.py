"""A plain folder of videos with sound, one person each.

    ROOT/…/NAME.mp4      or .mov, .mkv, .webm, .avi, .m4v
    ROOT/…/NAME.txt      its caption, if there is one

A file's person is the folder it lies in; files that lie in ROOT itself are taken for different persons.
"""

from collections.abc import Iterator
from pathlib import Path

from livetalk_jax.data.record import FALLBACK_CAPTION, LeftOut, Record

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


def scan(root: Path) -> Iterator[Record | LeftOut]:
    """Every video below `root`; hidden files and folders are passed over.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if not paths:
        raise FileNotFoundError(f"{root} holds no videos ({', '.join(SUFFIXES)})")
    for path in paths:
        name = path.relative_to(root)
        caption = path.with_suffix(".txt")
        try:
            text = caption.read_text(encoding="utf-8").strip() if caption.is_file() else ""
        except (OSError, ValueError) as error:
            yield LeftOut(f"folder/{name}", "annotation unreadable", f"{caption}: {error}")
            continue
        yield Record(
            key=f"folder/{name}",
            video=str(path),
            sound=(str(path),),
            start=0.0,
            end=None,
            person=str(name.parent if name.parent != Path(".") else name),
            caption=text or FALLBACK_CAPTION,
            source="folder",
        )
