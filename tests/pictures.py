"""Picture files that are broken in known ways."""

import io

from PIL import Image

# Bytes of an EXIF block and what they become: types and counts of tags that Pillow reads and then cannot write (struct.error,
# AttributeError).
BROKEN_EXIF = ({11: 0}, {11: 1}, {11: 7}, {13: 5, 18: 0})


def with_broken_exif(kind: str, changes: dict[int, int]) -> bytes:
    """A picture of `kind` ("JPEG" or "WEBP") that lies on its side, with other bytes in its EXIF block."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, "x", {0x9003: "a"}  # orientation, description, a date in a block of its own
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind, exif=exif)
    data = bytearray(file.getvalue())
    begin = data.index(b"MM\0*")
    for at, value in changes.items():
        data[begin + at] = value
    return bytes(data)
