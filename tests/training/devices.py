"""Run by test_devices.py with eight devices: one iteration of both stages on one of them and on all, as JSON.

It takes a folder of networks (`write_teacher`) to start from.
"""

import json
import sys

import jax
import numpy as np

from livetalk_jax.parallel.plan import Plan
from livetalk_jax.training.config import TrainConfig
from livetalk_jax.training.loop import Feed
from livetalk_jax.training.stages import Adaptation, Distillation, Frozen, Stage, State
from livetalk_jax.training.state import Placement
from tests.training import sizes
from tests.training.conftest import synthetic

SIZE = (48, 48)  # 3×3 tokens, which two rows or columns do not divide
FSDP, COPIES, SEQUENCE = (
    Plan(fsdp=8),
    Plan(data=2, fsdp=2, ulysses=2, columns=2),
    Plan(fsdp=2, ulysses=2, ring=2, rows=2, columns=2),
)
RUNS = {"stage1": (FSDP, COPIES), "stage2": (SEQUENCE,)}


def make(name: str, plan: Plan, teacher: str) -> Stage:
    config = sizes.get_config(name)
    config.checkpoint = teacher
    config.data.batch = 8
    config.stream.buckets = (SIZE,)
    config.execution.update(scan=True, remat="full")
    for optimizer in {"student", "fake_score"} & set(config):
        config[optimizer].b1 = 0.9
    if name == "stage2":
        config.distribution_matching.update(rollout="fixed", text_guidance=4.0, audio_guidance=4.0)
        config.data.chunks = 2
    config = TrainConfig.from_config_dict(config)
    placement = Placement(plan, tuple(jax.devices()[: plan.devices]))
    return {"stage1": Adaptation, "stage2": Distillation}[name](config, placement, synthetic(config, *SIZE).negative_text)


def one_iteration(stage: Stage, state: State, frozen: Frozen) -> dict[str, np.ndarray]:
    """Losses, gradient norms, and clipped gradients (a tenth of them is the first moment after one update)."""

    def place(tree, abstract):
        return jax.tree.map(lambda x, at: jax.device_put(x, at.sharding), tree, abstract)

    state, frozen = place(state, stage.abstract_state()), place(frozen, stage.abstract_frozen())
    state, metrics, _ = stage.step(state, frozen, 0, Feed(synthetic(stage.config, *SIZE), stage.placement))
    results = {f"metric {key}": np.asarray(value) for key, value in metrics.items()}
    held = total = 0
    for network, learner in state.items():
        moments = learner.optimizer[1].mu
        results |= {f"gradient {network} {key}": np.asarray(value) for key, value in moments.items()}
        held += sum(x.addressable_shards[0].data.size for x in learner.weights.values())
        total += sum(x.size for x in learner.weights.values())
    results["share"] = np.asarray(held / total)
    return results


def main(teacher: str) -> None:
    report = {}
    for name, plans in RUNS.items():
        alone = make(name, Plan(), teacher)
        state, frozen = jax.tree.map(np.asarray, (alone.start(), alone.frozen()))
        expected = one_iteration(alone, state, frozen)
        for plan in plans:
            found = one_iteration(make(name, plan, teacher), state, frozen)
            differences = {
                key: float(np.linalg.norm(found[key] - value) / max(np.linalg.norm(value), 1e-30))
                for key, value in expected.items()
                if key != "share" and np.linalg.norm(value) > 0
            }
            report[f"{name} {plan.name}"] = {"share": float(found["share"]), "differences": differences}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
