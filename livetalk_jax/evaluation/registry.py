"""All metrics, in the order of the report's columns."""

from livetalk_jax.evaluation.metric import Column, Metric

_HERE = "livetalk_jax.evaluation.metrics"

# Those of the paper's tables, which need published weights.
_PUBLISHED: tuple[Metric, ...] = (
    Metric(
        name="sync",
        module=f"{_HERE}.sync",
        columns=(
            Column("Sync-C", "higher", "confidence of SyncNet: median less least of the distances at 31 offsets"),
            Column("Sync-D", "lower", "least distance of lips and sound"),
            Column("Sync offset", "zero", "frames by which the lips are behind the sound there"),
        ),
        source="SyncNet, Chung and Zisserman, ACCV Workshops 2016; joonson/syncnet_python",
        weights=("syncnet_v2.model", "sfd_face.pth"),
        fps=25,
    ),
    Metric(
        name="quality",
        module=f"{_HERE}.quality",
        columns=(
            Column("IQA", "higher", "quality by Q-Align, 1 to 5"),
            Column("ASE", "higher", "aesthetics by Q-Align, 1 to 5"),
        ),
        source="Q-Align, Wu et al., ICML 2024, arXiv 2312.17090; a frame a second",
        weights=("one-align",),
        fps=1,
    ),
    Metric(
        name="subject",
        module=f"{_HERE}.subject",
        columns=(Column("Subject-C", "higher", "likeness of frames to the first and to the one before, by DINO (VBench)"),),
        source="VBench, Huang et al., CVPR 2024, arXiv 2311.17982",
        weights=("dino_vitbase16_pretrain.pth",),
    ),
    Metric(
        name="background",
        module=f"{_HERE}.background",
        columns=(Column("Background-C", "higher", "the same by CLIP (VBench)"),),
        source="VBench, Huang et al., CVPR 2024, arXiv 2311.17982",
        weights=("ViT-B-32.pt",),
    ),
    Metric(
        name="motion",
        module=f"{_HERE}.motion",
        columns=(
            Column("Motion-S", "higher", "1 less the error of every second frame interpolated by AMT-S, of 255 levels (VBench)"),
        ),
        source="VBench, Huang et al., CVPR 2024, arXiv 2311.17982",
        weights=("amt-s.pth",),
    ),
    Metric(
        name="fid",
        module=f"{_HERE}.fid",
        columns=(Column("FID", "lower", "Fréchet distance of Inception features of frames, five a second, from the references'"),),
        source="Heusel et al., NeurIPS 2017, arXiv 1706.08500; pytorch-fid",
        weights=("pt_inception-2015-12-05-6726825d.pth",),
        sets=True,
        fps=5,
    ),
    Metric(
        name="fvd",
        module=f"{_HERE}.fvd",
        columns=(Column("FVD", "lower", "Fréchet distance of I3D features of clips of 16 frames from the references'"),),
        source="Unterthiner et al., arXiv 1812.01717; StyleGAN-V's port",
        weights=("i3d_torchscript.pt",),
        sets=True,
        fps=25,
    ),
)

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
            Column("Sharpness", "neither", "variance of the Laplacian over that of the brightness, as a share of the portrait's"),
            Column("Sharpness drift", "zero", "last ten seconds less the first ten"),
        ),
        source="ours; Laplacian: Pech-Pacheco et al., ICPR 2000",
    ),
    Metric(
        name="joins",
        module=f"{_HERE}.joins",
        columns=(Column("Join jump", "lower", "jump where chunks join over the median of those inside of chunks; 1 is seamless"),),
        version=2,
        source="ours; ratio to the frames around: PySceneDetect's AdaptiveDetector",
    ),
    Metric(
        name="mouth",
        module=f"{_HERE}.mouth",
        columns=(
            Column("A/V offset", "zero", "frames by which the picture is late", "an A/V match of 2, its peak inside half a second"),
            Column("A/V match", "higher", "peak of the correlation of sound and picture over all lags' median, cuts left out"),
            Column("Silent mouth", "lower", "motion of the mouth in silence as a share of that in speech", "silence of 0.7 s"),
        ),
        version=2,
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
            Column("m b p closed", "higher", "frames of m, b and p whose lips touch, %", "an m, b or p"),
            Column("Rest in silence", "higher", "silent frames whose lips touch, %", "silence"),
            Column("Identity", "lower", "distance of the face from the portrait's, % of that of two persons"),
            Column("Identity drift", "lower", "between the first and the last ten seconds, % of two persons"),
            Column("Identity sway", "lower", "between neighbouring ten seconds, % of two persons: what is no drift", "two seconds"),
            Column("Background drift", "lower", "the same of the wall, % of two scenes"),
            Column("Head motion", "neither", "how far the head moves about, % of the real video's"),
        ),
        version=3,
        source="ours: docs/procedural.md",
    ),
)

METRICS: tuple[Metric, ...] = _PUBLISHED + _PLAIN
