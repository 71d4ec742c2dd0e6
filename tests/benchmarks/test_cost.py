"""The cost model against counts by hand, against what the networks trace, and against what was measured."""

import dataclasses
import json
import math
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from livetalk_jax.benchmarks.cost import convolutions, exchanges, machines, prediction, rates, work
from livetalk_jax.benchmarks.report import STAGES
from livetalk_jax.config import DiTConfig, RunConfig, VAEConfig
from livetalk_jax.configs import soulx_14b
from livetalk_jax.models.dit import DiT
from livetalk_jax.models.vae import VAE
from livetalk_jax.nn import conv
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.parallel.plan import Plan, valid_plans
from livetalk_jax.shapes import Geometry

MEASUREMENTS = Path(__file__).parents[2] / "docs" / "measurements"
GEOMETRY = Geometry(720, 416, 33, 5)
DIT = DiTConfig.wan_14b()
H200 = machines.CHIPS["h200"]
WHOLE = 10_530 * 5120 * 2  # bytes of all tokens in bf16
PADDED = WHOLE * 46 * 28 / (45 * 26)  # on 2 × 4 devices 45 × 26 tokens are padded to 46 × 28


@pytest.fixture(scope="module")
def config():
    return RunConfig.from_config_dict(soulx_14b.get_config())


def flops(work):
    return sum(piece.flops for piece in work)


def test_pieces_by_hand():
    product = work.linear(128, 256, 512)
    assert product.flops == 2 * 128 * 256 * 512
    assert product.bytes == 2 * (128 * 256 + 256 * 512 + 128 * 512)
    assert product.tiles == ((2, 1.0), (3, 0.98), (4, 0.95))
    attended = work.attention(300, 1000, 4, 128, batch=2)
    assert attended.flops == 2 * 4 * (2 * 300 * 1000 * 128) * 2
    assert attended.tiles == ((2 * 4 * 3, 1.0),)
    assert work.passes(10, 20, 3).bytes == 10 * 20 * 3 * 2


def test_a_step_of_14b_by_hand():
    per_token = 8 * 2 * 5120**2 + 2 * 2 * 5120 * 13_824
    attended = 4 * 5120 * (10_530 + 512 + 257 + 32)
    ends = 2 * 5120 * (144 + 64)
    time = 2 * (256 * 5120 + 5120**2 + 5120 * 30_720)
    expected = 10_530 * (40 * (per_token + attended) + ends) + time
    assert flops(work.step_work(DIT, Plan(), GEOMETRY)) == pytest.approx(expected, rel=1e-12)
    assert 10_530 * 40 * per_token == pytest.approx(295.9e12, rel=1e-3)


@pytest.mark.parametrize("plan", [Plan(ulysses=2, columns=2), Plan(ring=2, columns=2), Plan(ulysses=2, columns=2, head_groups=4)])
def test_two_devices_share_a_step_evenly(plan):
    """45 × 26 tokens on two columns need no padding: half the work each, whatever the plan."""
    one, half = (work.step_work(DIT, plan, GEOMETRY) for plan in (Plan(), plan))
    time = flops(one[-3:])  # every device computes these
    assert flops(half) - time == pytest.approx((flops(one) - time) / 2, rel=1e-12)


def count_products(jaxpr) -> int:
    """FLOPs of all matrix products in a jaxpr."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _), left = equation.params["dimension_numbers"], equation.invars[0]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left.aval.shape[i] for i in contracted)
        for parameter in equation.params.values():
            if hasattr(parameter, "jaxpr"):
                total += count_products(parameter.jaxpr)
    return total


def test_a_step_as_it_is_traced():
    """Every matrix product of the transformer is in the model, and nothing else."""
    dit, geometry = DiTConfig.tiny(), Geometry(128, 96, 33, 5)
    grid = geometry.latent_grid

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    network = nnx.eval_shape(lambda: DiT(dit, rngs=nnx.Rngs(0)))
    context = jax.eval_shape(lambda net, *inputs: net.context(*inputs), network, shape(1, 64, 32), shape(1, 257, 64))
    windows = shape(1, 1, 33, 5, dit.audio_blocks, dit.audio_channels)
    audio = jax.eval_shape(lambda net, windows: net.audio(windows), network, windows)
    rope = tuple(jnp.asarray(table) for table in rotary_3d(geometry.token_grid, dit.head_dim))

    def step(net, x, condition, time, context, audio):
        return net(x, condition, time, rope=rope, context=context, audio=audio)

    traced = jax.make_jaxpr(step)(network, shape(1, *grid, 16), shape(1, *grid, 20), shape(1), context, audio)
    assert count_products(traced.jaxpr) == flops(work.step_work(dit, Plan(), geometry))


@pytest.mark.parametrize(("part", "frames", "shape"), [("decode", 33, (1, 9, 90, 52, 16)), ("encode", 5, (1, 5, 720, 416, 3))])
def test_convolutions_as_they_are_traced(monkeypatch, part, frames, shape):
    """FLOPs of every convolution of the VAE at 720×416."""
    config, traced = VAEConfig.wan21(), []
    convolve = conv._Conv._convolve

    def recorded(self, x, strides, unseen=0):
        out = convolve(self, x, strides, unseen)
        if out.size:  # nothing is halved in time of a single frame
            traced.append(2 * math.prod(out.shape) * math.prod(self.kernel[unseen:].shape[:-1]))
        return out

    monkeypatch.setattr(conv._Conv, "_convolve", recorded)
    vae = nnx.eval_shape(lambda: VAE(config, rngs=nnx.Rngs(0)))
    jax.eval_shape(lambda vae, x: getattr(vae, part)(x), vae, jax.ShapeDtypeStruct(shape, jnp.float32))
    convs = convolutions.decoder_convs(config, frames) if part == "decode" else convolutions.encoder_convs(config, frames)
    wide = [c for c in convs if c.time * c.space > 1]  # shortcuts are matrix products
    counted = [2 * c.time * c.space**2 * c.in_dim * c.out_dim * c.frames * 90 * 52 * c.scale**2 for c in wide]
    assert sorted(counted) == sorted(traced)


@pytest.mark.parametrize(
    ("plan", "sent"),
    [
        # Ulysses: of q, k, v and the result all but a device's own share, in 40 layers.
        (Plan(ulysses=2, columns=2), 40 * 4 * (WHOLE / 2) / 2),
        (Plan(ulysses=2, columns=2, head_groups=4), 40 * 4 * (WHOLE / 2) / 2),
        # Ring: keys and values, on to the next device.
        (Plan(ring=2, columns=2), 40 * 2 * (WHOLE / 2)),
        (Plan(ulysses=8, rows=2, columns=4), 40 * 4 * (PADDED / 8) * 7 / 8),
        (Plan(ring=8, rows=2, columns=4), 40 * 2 * 7 * (PADDED / 8)),
        (Plan(ulysses=4, ring=2, rows=2, columns=4), 40 * (4 * 3 / 4 + 2) * (PADDED / 8)),
    ],
)
def test_what_a_step_sends(plan, sent):
    assert sum(e.sent for e in exchanges.sequence_exchanges(DIT, plan, GEOMETRY, 8)) == pytest.approx(sent, rel=1e-12)


def test_halos_by_hand():
    full = convolutions.Conv(96, 96, 3, 3, 35, 33, 8.0, 1, 1)  # at the size of the picture
    down = convolutions.Conv(96, 96, 1, 3, 5, 5, 4.0, 0, 1, stride=2)
    pixel = 35 * 96 * 2

    def sent(conv, plan, local):
        return sum(e.sent for e in exchanges.halo_exchanges([conv], plan, local, 8))

    assert sent(full, Plan(ulysses=2, columns=2), (90, 26)) == 720 * pixel
    assert sent(full, Plan(ulysses=4, columns=4), (90, 14)) == 2 * 720 * pixel  # both ways
    # Two rows of devices: a row, and a column with two corners.
    assert sent(full, Plan(ulysses=4, rows=2, columns=2), (46, 26)) == (208 + 368 + 2) * pixel
    assert sent(down, Plan(ulysses=2, columns=2), (90, 26)) == 720 * 5 * 96 * 2
    assert sent(full._replace(low=0, high=0), Plan(ulysses=2, columns=2), (90, 26)) == 0


def test_partners_in_and_out_of_a_host():
    assert exchanges.partners(8, 8) == (7, 0)
    assert exchanges.partners(16, 8) == (7, 8)
    inside, across = exchanges.sequence_exchanges(DIT, Plan(ulysses=8, ring=2, rows=4, columns=4), GEOMETRY, per_host=8)
    assert (inside.here, inside.away) == (7, 0)
    assert (across.here, across.away) == (0, 1)


def test_seconds_by_hand():
    chip = machines.Chip(name="a", flops=100.0, memory=10.0, capacity=1.0, links=6.0, network=1.0, multiprocessors=4)
    reached = rates.Rates(
        matmul=0.5, attention=0.25, decode=1.0, encode=1.0, memory=0.5, latency=3.0, pair=2.0, links=0.5, network=0.5
    )

    def seconds(*piece):
        return rates.work_seconds([work.Work(*piece)], chip, reached)

    assert seconds("matmul", 100.0, 0.0) == 2.0
    assert seconds("matmul", 100.0, 20.0) == 4.0  # waits for memory
    assert seconds("attention", 100.0, 0.0, ((5, 1.0),)) == 4.0 * 8 / 5  # five tiles on four multiprocessors
    # The better of two ways to cut it: five tiles, or four that are half as fast.
    assert seconds("matmul", 100.0, 0.0, ((5, 1.0), (4, 0.5))) == pytest.approx(2.0 * 8 / 5)

    def exchange(*fields):
        return rates.exchange_seconds(exchanges.Exchange("collective-permute", *fields), chip, reached)

    assert exchange(2, 4.0, 1, 0) == 2 * (3 + 4 / 2)
    assert exchange(1, 4.0, 3, 0) == 3 + 12 / 3  # all links together, not three pairs
    assert exchange(1, 4.0, 1, 1) == 3 + 4 / 0.5  # the network is slower
    assert exchange(2, 4.0, 1, 0, work.Work("matmul", 200.0, 0.0)) == 2 * (5 - 4)
    assert exchange(2, 4.0, 1, 0, work.Work("matmul", 900.0, 0.0)) == 0


def test_the_fit_gives_back_what_it_was_fitted_on(config):
    seconds = prediction.predict(config, Plan(), H200, 1, rates.fitted()).seconds
    for stage in rates.ONE_GPU:
        assert seconds[stage] == pytest.approx(rates.ONE_GPU[stage], rel=1e-6)
    alone = work.attention(rates.ATTENTION_TOKENS, rates.ATTENTION_TOKENS, 40, 128)
    assert rates.work_seconds([alone], H200, rates.fitted()) == pytest.approx(rates.ATTENTION_SECONDS, rel=1e-6)
    assert all(0 < getattr(rates.fitted(), kind) < 1 for kind in ("matmul", "attention", "decode", "encode", "memory"))


def test_two_gpus_within_ten_per_cent(config):
    """Every plan of two devices. Nothing but the rates of exchanges alone was fitted on two."""
    assert set(valid_plans(2, 40, (45, 26))) <= set(prediction.TWO_GPUS)
    for chip, found in ((H200, prediction.TWO_GPUS), (machines.CHIPS["h100"], prediction.H100S)):
        for plan, measured in found.items():
            predicted = prediction.predict(config, plan, chip, 8, rates.fitted()).seconds
            for stage, seconds in zip(STAGES, measured, strict=True):
                assert predicted[stage] == pytest.approx(seconds, rel=0.1), (chip.name, plan.name, stage)


def test_constants_are_what_was_measured():
    def rows(name, key):
        """Of those that say the same, the last: what compiled is then followed by its time."""
        return {row[key]: row for row in json.loads((MEASUREMENTS / f"{name}.json").read_text())["rows"]}

    before, *runs = (rows(f"sharding_2xh200_720x416_2026-11-27{run}", "plan") for run in ("", "e", "f"))
    for stage, seconds in rates.ONE_GPU.items():
        assert statistics.mean(run["u1r1-g1x1"]["seconds"][stage] for run in runs) == pytest.approx(seconds, rel=1e-4)
    plans = runs[0] | runs[1] | rows("sharding_2xh200_720x416_2026-11-27g", "plan")
    others = rows("sharding_2xh100_720x416_2026-11-28", "plan")
    for found, constants in ((plans, prediction.TWO_GPUS), (others, prediction.H100S)):
        for plan, measured in constants.items():
            assert [found[plan.name]["seconds"][stage] for stage in STAGES] == pytest.approx(measured, rel=1e-4)
    tiles = {dataclasses.replace(plan, vae_split="overlap") for plan in valid_plans(2, 40, (45, 26))}
    assert tiles <= set(prediction.TWO_GPUS) | set(prediction.H100S), "each was timed as a whole"
    alone = {name: before[name]["collective_seconds"] for name in ("u2r1-g1x2", "u2r1-g1x2-h2")}
    assert (alone["u2r1-g1x2-h2"] - alone["u2r1-g1x2"]) / 640 == pytest.approx(rates.EXCHANGE_LATENCY, rel=1e-4)
    kernels = rows("kernels_attention_h200_2026-11-27", "what")
    measured = kernels[f"{rates.ATTENTION_TOKENS:,} tokens: ours, 2 stages, 1 pieces"]["ms"]
    assert measured == pytest.approx(1e3 * rates.ATTENTION_SECONDS, rel=1e-4)


@pytest.mark.parametrize("text", ["h800", "b200x8", "h100x", "h100x0", "h100x65", "h100x12", "h100x2x3x4", "h100x-1"])
def test_machines_that_are_not(text):
    with pytest.raises(ValueError, match=f"{text[:4]}"):
        machines.Machine.parse(text)


@pytest.mark.parametrize(
    ("text", "hosts", "per_host"), [("h800x8", 1, 8), ("H100x1", 1, 1), ("a100x64", 8, 8), ("h200x4x2", 4, 2), ("h100x6", 1, 6)]
)
def test_machines(text, hosts, per_host):
    machine = machines.Machine.parse(text)
    assert (machine.hosts, machine.per_host, machine.devices) == (hosts, per_host, hosts * per_host)


def test_a_report_says_that_it_predicts(config, tmp_path):
    plans = list(valid_plans(8, 40, (45, 26), per_host=8))
    report = prediction.report(config, machines.Machine.parse("h800x8"), plans, {"steps": 4})
    assert all(row.predicted for row in report.rows)
    assert len(report.rows) == 1 + len(plans) + 2  # and the published code on one and on eight
    table = [line for line in report.text().splitlines() if line.startswith(("u", "published code, u"))]
    assert len(table) == len(report.rows)
    assert all("predicted" in line for line in table)
    assert "PREDICTED" in report.text()
    report.write(tmp_path, "predicted")
    assert all(row["predicted"] for row in json.loads((tmp_path / "predicted.json").read_text())["rows"])
    assert (tmp_path / "predicted.svg").read_text().count("(predicted)") == len(report.rows)
    chunks = [row.seconds["chunk"] for row in report.rows[1 : 1 + len(plans)]]
    assert chunks == sorted(chunks)


def test_more_gpus_help_and_slow_ones_do_not(config):
    def best(name, devices):
        plans = list(valid_plans(devices, 40, (45, 26)))[:3] if devices > 1 else [Plan()]
        chip = machines.CHIPS[name]
        return min(prediction.predict(config, plan, chip, 8, rates.fitted()).seconds["chunk"] for plan in plans)

    times = [best("h100", devices) for devices in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert best("h800", 8) > best("h100", 8) > best("h200", 8)
    assert best("a100", 8) > 2 * best("h800", 8)


def test_the_published_code(config):
    slowness = prediction.published_slowness(config)

    def seconds(plan):
        return prediction.predict(config, plan, prediction.PUBLISHED_CHIP, 8, rates.fitted(), slowness).seconds

    one, eight = seconds(Plan()), seconds(prediction.PUBLISHED_PLAN)
    assert {stage: one[stage] for stage in prediction.PUBLISHED_ONE} == pytest.approx(prediction.PUBLISHED_ONE, rel=1e-9)
    for stage in ("DiT step", "VAE decode"):
        assert eight[stage] == pytest.approx(prediction.PUBLISHED_EIGHT[stage], rel=0.15)


def test_other_numbers_are_refused(config):
    other = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, dtype="float32"))
    with pytest.raises(ValueError, match="fitted on bfloat16"):
        prediction.report(other, machines.Machine.parse("h100x2"), [], {})
