"""All metrics, in the order of the report's columns."""

from livetalk_jax.evaluation.metric import Column, Metric

_HERE = "livetalk_jax.evaluation.metrics"

# Those of the paper's tables, which need published weights.
_PUBLISHED: tuple[Metric, ...] = ()

# Those that need no weights.
_PLAIN: tuple[Metric, ...] = (
    Metric(
        name="flicker",
        module=f"{_HERE}.flicker",
        columns=(
            Column("Temporal-F", "higher", "1 less the mean change from frame to frame, of 255 levels (VBench)"),
            Column("Frozen", "lower", "frames equal to the one before, %"),
            Column("Longest freeze", "lower", "seconds"),
        ),
        source="VBench, Huang et al., CVPR 2024, arXiv 2311.17982 (temporal flickering); frozen frames: ours",
    ),
    Metric(
        name="appearance",
        module=f"{_HERE}.appearance",
        columns=(
            Column("Colour", "lower", "distance of mean and deviation of the channels from the portrait's, levels"),
            Column("Colour drift", "lower", "the same between the first and the last ten seconds, levels"),
            Column("Sharpness", "neither", "variance of the Laplacian as a share of the portrait's"),
            Column("Sharpness drift", "zero", "last ten seconds less the first ten"),
        ),
        source="ours; Laplacian: Pech-Pacheco et al., ICPR 2000",
    ),
    Metric(
        name="joins",
        module=f"{_HERE}.joins",
        columns=(Column("Join jump", "lower", "jump where chunks join, 1 is as inside of chunks"),),
        source="ours",
    ),
    Metric(
        name="mouth",
        module=f"{_HERE}.mouth",
        columns=(
            Column("A/V offset", "zero", "frames by which the picture is late, where the match is 2 at least"),
            Column("A/V match", "higher", "peak of the correlation of sound and picture, in medians"),
            Column("Silent mouth", "lower", "motion of the mouth in silence as a share of that in speech"),
        ),
        source="ours",
    ),
    Metric(
        name="drawn",
        module=f"{_HERE}.drawn",
        columns=(
            Column("Lip r", "higher", "correlation of the lips' gap with the truth, at lag 0"),
            Column("Lip r best", "higher", "the same at the best lag"),
            Column("Lip lag", "zero", "frames by which lips are late there"),
            Column("Lip error", "lower", "mean error of the gap, distances between the eyes"),
            Column("Width r", "higher", "correlation of the mouth's width with the truth"),
            Column("Width error", "lower", "mean error of the width, distances between the eyes"),
            Column("m b p closed", "higher", "frames of m, b and p whose lips touch, %"),
            Column("Rest in silence", "higher", "silent frames whose lips touch, %"),
            Column("Identity", "lower", "distance of the face from the portrait's, % of that of two persons"),
            Column("Identity drift", "lower", "between the first and the last ten seconds, % of two persons"),
            Column("Background drift", "lower", "the same of the wall, % of two scenes"),
        ),
        source="ours: docs/procedural.md",
    ),
)

METRICS: tuple[Metric, ...] = _PUBLISHED + _PLAIN
