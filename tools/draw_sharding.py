"""Draw the pictures of docs/sharding.md: who holds what, and what moves.

    python tools/draw_sharding.py

Writes docs/images/sharding_*.svg; needs Python alone.
"""

from html import escape
from pathlib import Path

OUT = Path(__file__).parents[1] / "docs" / "images"
COLOURS = ["#88ccee", "#ddcc77", "#cc6677", "#117733", "#aa4499", "#44aa99", "#999933", "#6699cc"]
INK = "#333333"


class Drawing:
    def __init__(self, width: int, height: int):
        self.size = width, height
        self.parts: list[str] = []

    def box(self, x, y, width, height, fill="none", stroke=INK, dash="", opacity=1.0):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" fill-opacity="{opacity:g}" '
            f'stroke="{stroke}"{dashes}/>'
        )

    def text(self, x, y, text, anchor="middle", size=13, weight="normal"):
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{INK}">'
            f"{escape(text)}</text>"
        )

    def arrow(self, x1, y1, x2, y2, bend=0.0, both=False):
        middle = (x1 + x2) / 2 + bend * (y2 - y1), (y1 + y2) / 2 - bend * (x2 - x1)
        ends = 'marker-start="url(#head)" ' if both else ""
        self.parts.append(
            f'<path d="M{x1:g},{y1:g} Q{middle[0]:g},{middle[1]:g} {x2:g},{y2:g}" fill="none" stroke="{INK}" stroke-width="1.6" '
            f'{ends}marker-end="url(#head)"/>'
        )

    def save(self, name: str) -> None:
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>'
            f'<rect width="{width}" height="{height}" fill="white"/>'
        )
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / f"sharding_{name}.svg").write_text("\n".join([head, *self.parts, "</svg>"]) + "\n")


def picture() -> None:
    """One picture on 4 × 2 devices, from noise to pixels."""
    d = Drawing(900, 350)
    for title, x in (("noise", 60), ("latents, 4 steps", 240), ("encode 5 frames", 420), ("decode, colours", 600)):
        d.text(x + 50, 80, title, weight="bold")
        for device in range(8):
            row, column = divmod(device, 2)
            d.box(x + 50 * column, 95 + 45 * row, 50, 45, COLOURS[device], opacity=0.75)
            d.text(x + 50 * column + 25, 95 + 45 * row + 28, str(device))
    d.text(830, 80, "frames", weight="bold")
    d.box(785, 95, 90, 180, "#eeeeee")
    d.text(830, 183, "whole,")
    d.text(830, 201, "uint8")
    for start, end in ((166, 234), (414, 346), (594, 526), (706, 780)):
        d.arrow(start, 185, end, 185)
    d.arrow(290, 62, 650, 62, bend=0.25)
    d.text(743, 300, "all-gather", size=12)
    d.text(380, 300, "the next chunk's motion latents", size=12)
    d.text(380, 317, "stay where they are", size=12)
    for line, text in enumerate(("each device: 12 × 13 of", "45 × 26 tokens (48 × 26 with", "the padding at the bottom)")):
        d.text(20, 300 + 17 * line, text, "start", 12)
    d.save("picture")


def _matrix(d: Drawing, x: float, y: float, by_tokens: bool, size: float = 160) -> None:
    for device in range(4):
        place = (x, y + device * size / 4, size, size / 4) if by_tokens else (x + device * size / 4, y, size / 4, size)
        d.box(*place, COLOURS[device], opacity=0.75)
        d.text(place[0] + place[2] / 2, place[1] + place[3] / 2 + 5, str(device))
    d.text(x + size / 2, y + size + 20, "heads", size=12)
    d.text(x - 8, y + size / 2 + 4, "tokens", "end", 12)


def ulysses() -> None:
    """Four devices exchange tokens for heads, and back."""
    d = Drawing(960, 270)
    for x, by_tokens, title in ((80, True, "q, k, v"), (410, False, "attention"), (740, True, "result")):
        d.text(x + 80, 30, title, weight="bold")
        _matrix(d, x, 50, by_tokens)
    for x, times in ((250, "3 × all-to-all"), (580, "1 × all-to-all")):
        d.arrow(x, 100, x + 150, 100)
        d.text(x + 75, 88, times, size=12)
    d.text(490, 258, "in the middle every device has all tokens, of a quarter of the heads", size=12)
    d.save("ulysses")


def ring() -> None:
    """Keys and values go round while the block before is computed."""
    d = Drawing(860, 290)
    d.text(65, 26, "stays", weight="bold")
    for device in range(4):
        y = 45 + 50 * device
        d.box(30, y, 70, 38, COLOURS[device], opacity=0.75)
        d.text(65, y + 24, f"q {device}")
        d.text(125, y + 24, "×")
    for step in range(4):
        x = 150 + 185 * step
        d.text(x + 35, 26, f"block {step + 1}", weight="bold")
        for device in range(4):
            y = 45 + 50 * device
            holder = (device - step) % 4
            d.box(x, y, 70, 38, COLOURS[holder], opacity=0.75)
            d.text(x + 35, y + 24, f"k, v {holder}")
            if step < 3:
                d.arrow(x + 73, y + 19, x + 181, 64 + 50 * ((device + 1) % 4))
    d.text(430, 262, "queries stay; keys and values move on to the next device while attention to them is computed;", size=12)
    d.text(430, 280, "the four results of a row are merged by their log-sum-exp", size=12)
    d.save("ring")


def both() -> None:
    """Ulysses inside a host, ring across hosts."""
    d = Drawing(860, 250)
    for host in range(2):
        x = 40 + 440 * host
        d.box(x, 40, 340, 150, dash="5 4")
        d.text(x + 170, 30, f"host {host}: tokens of one half, heads exchanged inside", size=12)
        for member in range(4):
            device = 4 * host + member
            d.box(x + 20 + 80 * member, 70, 60, 60, COLOURS[device], opacity=0.75)
            d.text(x + 50 + 80 * member, 106, str(device))
        d.arrow(x + 60, 145, x + 280, 145, both=True)
        d.text(x + 170, 168, "all-to-all", size=12)
    d.arrow(384, 90, 476, 90)
    d.arrow(476, 125, 384, 125)
    d.text(430, 80, "k, v", size=12)
    d.text(430, 225, "4 × 2: each device sends the keys and values of its heads to the same place in the other host", size=12)
    d.save("both")


def halo() -> None:
    """What a convolution needs of the neighbours, exactly, and the published overlap."""
    d = Drawing(920, 330)
    d.text(210, 26, "halo: before every convolution", weight="bold")
    for device in range(9):
        row, column = divmod(device, 3)
        d.box(60 + 100 * column, 45 + 80 * row, 100, 80, COLOURS[device % 8], opacity=0.35)
    d.box(160, 125, 100, 80, COLOURS[4], opacity=0.6)
    d.box(152, 117, 116, 96, dash="4 3", stroke="#cc0000")
    for x1, y1, x2, y2 in ((130, 165, 154, 165), (290, 165, 266, 165), (210, 95, 210, 119), (210, 235, 210, 211)):
        d.arrow(x1, y1, x2, y2)
    d.text(210, 305, "one row and one column from each side, corners with the columns:", size=12)
    d.text(210, 322, "the same numbers as one device computes", size=12)
    d.text(660, 26, "overlap: before the whole network", weight="bold")
    for device in range(4):
        row, column = divmod(device, 2)
        d.box(520 + 140 * column, 45 + 120 * row, 140, 120, COLOURS[device], opacity=0.35)
    d.box(520, 45, 170, 150, COLOURS[0], opacity=0.6, dash="4 3", stroke="#cc0000")
    d.text(590, 110, "computed")
    d.text(675, 225, "a margin of 2 latents in decode,", "start", 11)
    d.text(675, 240, "1 in encode: computed and", "start", 11)
    d.text(675, 255, "thrown away", "start", 11)
    d.arrow(705, 210, 684, 185)
    d.text(660, 305, "devices never talk inside the network; edges and the middle attention", size=12)
    d.text(660, 322, "see less than the whole picture: the pixels depend on the grid", size=12)
    d.save("halo")


if __name__ == "__main__":
    for draw in (picture, ulysses, ring, both, halo):
        draw()
