"""Fréchet distance of two sets of features, taken as normal distributions: what FID and FVD are."""

from collections.abc import Sequence

import numpy as np

from livetalk_jax.evaluation.metric import Absent


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and a root R [≤ D, D] of the covariance, RᵀR, from samples [N, D]."""
    mean = features.mean(0)
    _, root = np.linalg.qr((features - mean) / np.sqrt(len(features) - 1))
    return mean, root


def distance(ours: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> float:
    """‖μ₁ − μ₂‖² + Tr(C₁ + C₂ − 2 √(C₁C₂)), in float64, of all samples [N, D] in both lists.

    The last trace is the sum of the singular values of R₁R₂ᵀ, for any roots C = RᵀR: no covariance is formed, so none is singular.

    Raises:
        Absent: a set has less than two samples.
    """
    first, second = (np.concatenate([np.asarray(part, np.float64) for part in parts]) for parts in (ours, references))
    if min(len(first), len(second)) < 2:
        raise Absent("needs two samples of each set")
    (mean1, root1), (mean2, root2) = _moments(first), _moments(second)
    shared = np.linalg.svd(root1 @ root2.T, compute_uv=False).sum()
    return float(np.sum((mean1 - mean2) ** 2) + np.sum(root1**2) + np.sum(root2**2) - 2 * shared)
