"""Run by test_devices.py with eight devices: one iteration of both stages on one of them and on all, as JSON."""

import json

import jax
import numpy as np

from livetalk_jax.config import TrainConfig
from livetalk_jax.parallel.mesh import make_mesh
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.training.loop import Feed
from livetalk_jax.training.stages import Adaptation, Distillation
from livetalk_jax.training.state import Placement
from tests.training import sizes
from tests.training.conftest import synthetic


def one_iteration(name: str, plan: Plan) -> dict[str, np.ndarray]:
    """Losses, gradient norms, and clipped gradients (a tenth of them is the first moment after one update)."""
    config = sizes.get_config(name)
    config.data.batch = 8
    for optimizer in {"student", "fake_score"} & set(config):
        config[optimizer].b1 = 0.9
    config = TrainConfig.from_config_dict(config)
    data = synthetic(config)
    stage = {"stage1": Adaptation, "stage2": Distillation}[name](
        config, Placement(make_mesh(plan, jax.devices()[: plan.devices])), data.negative_text
    )
    state, metrics, _ = stage.step(stage.start(), stage.frozen(), 0, Feed(data, stage.placement))
    results = {f"metric {key}": np.asarray(value) for key, value in metrics.items()}
    shared = 0
    for network, learner in state.items():
        moments = learner.optimizer[1].mu
        results |= {f"gradient {network} {key}": np.asarray(value) for key, value in moments.items()}
        shared += sum(not x.sharding.is_fully_replicated for x in learner.weights.values())
    results["shared"] = np.asarray(shared)
    return results


def main() -> None:
    report = {}
    for name, plans in {"stage1": (Plan(fsdp=8), Plan(data=2, fsdp=4)), "stage2": (Plan(fsdp=8),)}.items():
        expected = one_iteration(name, Plan())
        for plan in plans:
            found = one_iteration(name, plan)
            differences = {
                key: float(np.linalg.norm(found[key] - value) / max(np.linalg.norm(value), 1e-30))
                for key, value in expected.items()
                if key != "shared" and np.linalg.norm(value) > 0
            }
            report[f"{name} {plan.name}"] = {"shared": int(found["shared"]), "differences": differences}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
