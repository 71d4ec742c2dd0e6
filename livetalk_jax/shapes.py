"""Letters for dimensions, and the stream geometry that follows from its sizes.

Every shape comment and docstring of this project uses these letters:

    B   batch                       F   pixel frames of a chunk (33)
    T   latent frames (9)           Y X pixel rows and columns
    H W latent rows and columns     h w token rows and columns (latent / patch)
    N   video tokens, T·h·w         D   model width
    A   attention heads             K   width of one head
    L   text tokens                 I   image tokens (257)
    S   audio tokens a frame (32)   P   persons
    C   channels                    M   motion latent frames (2, or 1 at the start)

Arrays are channels-last: videos [B, F, Y, X, 3], latents [B, T, H, W, C], tokens [B, N, D], heads [B, N, A, K].
"""

import dataclasses

# Strides of the Wan2.1 VAE (time, rows, columns) and patch of the DiT; the published checkpoints fix both.
VAE_STRIDE = (4, 8, 8)
PATCH = (1, 2, 2)


def latent_frames(frames: int) -> int:
    """Latent frames of `frames` pixel frames: the first alone, then one for each four."""
    if frames < 1 or (frames - 1) % VAE_STRIDE[0]:
        raise ValueError(f"a video of {frames} frames does not fit the VAE: it must have 4n+1 frames (1, 5, …, 33, …, 81)")
    return (frames - 1) // VAE_STRIDE[0] + 1


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes of one streamed chunk.

    Args:
        height, width: pixels; multiples of 16 (VAE stride 8 times patch 2).
        frames: pixel frames of a chunk, 4n+1.
        motion_frames: frames carried over from the chunk before, 4n+1, fewer than `frames`.

    Raises:
        ValueError: a size does not fit; the message says which would.
    """

    height: int
    width: int
    frames: int
    motion_frames: int

    def __post_init__(self):
        for name, size, multiple in (
            ("height", self.height, VAE_STRIDE[1] * PATCH[1]),
            ("width", self.width, VAE_STRIDE[2] * PATCH[2]),
        ):
            if size < multiple or size % multiple:
                near = max(multiple, round(size / multiple) * multiple)
                raise ValueError(f"{name} {size} is not a multiple of {multiple}; the nearest that fits is {near}")
        latent_frames(self.frames)
        latent_frames(self.motion_frames)
        if self.motion_frames >= self.frames:
            raise ValueError(f"motion_frames {self.motion_frames} must be fewer than the chunk's {self.frames} frames")

    @property
    def latent_grid(self) -> tuple[int, int, int]:
        """(T, H, W)."""
        return latent_frames(self.frames), self.height // VAE_STRIDE[1], self.width // VAE_STRIDE[2]

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(T, h, w)."""
        t, h, w = self.latent_grid
        return t // PATCH[0], h // PATCH[1], w // PATCH[2]

    @property
    def tokens(self) -> int:
        t, h, w = self.token_grid
        return t * h * w

    @property
    def motion_latents(self) -> int:
        """Latent frames that the motion frames fill (M)."""
        return latent_frames(self.motion_frames)

    @property
    def first_latents(self) -> int:
        """Latent frames that streaming decodes first, to show their frames while it decodes the others: motion and a third of the
        new ones, at least one. So many frames last longer than decoding the others takes, where a chunk is made in real time."""
        return self.motion_latents + max(1, (latent_frames(self.frames) - self.motion_latents) // 3)

    @property
    def new_frames(self) -> int:
        """Frames that each chunk adds to the video."""
        return self.frames - self.motion_frames
