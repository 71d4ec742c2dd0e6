"""All metrics, in the order of the report's columns."""

from livetalk_jax.evaluation.metric import Metric

# Those of the paper's tables, which need published weights.
_PUBLISHED: tuple[Metric, ...] = ()
# Those that need no weights.
_PLAIN: tuple[Metric, ...] = ()

METRICS: tuple[Metric, ...] = _PUBLISHED + _PLAIN
