"""The metrics, a small module each; `livetalk_jax.evaluation.metric` says what a metric is, `registry` lists them."""
