"""`livetalk bench kernels`: our kernels checked against references, and timed beside other libraries' at the model's sizes.

Every section is a process of its own: one that hangs or fails ends at its limit, and the others go on. Calls are chained inside one
program, each on an input that hangs on the one before; the first run is left out and medians are reported.
"""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags as absl_flags
from flax import nnx
from jax import lax

from livetalk_jax import flags
from livetalk_jax.benchmarks.latency import driver
from livetalk_jax.config import DiTConfig
from livetalk_jax.kernels.attention import cudnn, eight_bit, mosaic_fp8, mosaic_gpu, reference, select
from livetalk_jax.kernels.attention import specs as attention_specs
from livetalk_jax.kernels.linear import cublaslt, quantize, scale_of, to_e4m3
from livetalk_jax.kernels.linear import specs as linear_specs
from livetalk_jax.kernels.norm_rope import norm_rope, without_triton
from livetalk_jax.models.dit import DiT
from livetalk_jax.nn.quantization import DIT_FP8, largest_inputs
from livetalk_jax.nn.quantization import quantize as quantize_network
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.parallel.layout import ROW_MULTIPLE
from livetalk_jax.parallel.seams import Parallel
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.networks import GPU_OPTIONS, compiled, random_network

USAGE = """usage: livetalk bench kernels [--config soulx_14b] [--budget 400] [--sections check,dit,…] [--out DIR]

Needs an NVIDIA GPU, but for the section "accuracy". PyTorch, tokamax and jax-triton are timed too where they are installed, and
where they are not, a row says why. On a CPU: livetalk bench kernels --config soulx_14b --config.model.dit.num_layers=2
--config.stream.buckets='((128, 128),)' --sections accuracy
"""
# name: share of the time left that a section may take; what it leaves goes to the next.
SECTIONS = {"check": 0.25, "dit": 0.6, "attention": 0.5, "linear": 0.5, "norm_rope": 0.3, "accuracy": 1.0}
Report = Callable[..., None]


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_float("budget", 400.0, "Seconds for all sections together.", lower_bound=10.0, flag_values=values)
    absl_flags.DEFINE_list("sections", list(SECTIONS), "Which sections, most important first.", flag_values=values)
    absl_flags.DEFINE_integer("repeats", 5, "Timed runs of each program.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_string("out", None, "Folder for one JSON file a section.", flag_values=values)


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE)
    if unknown := set(values.sections) - set(SECTIONS):
        raise flags.UsageError(f"unknown section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    out = None if values.out is None else Path(values.out)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    about = flags.invocation(argv)
    end = time.monotonic() + values.budget
    start = multiprocessing.get_context("spawn")
    for name in values.sections:
        share = 1.0 if name == values.sections[-1] else SECTIONS[name]
        limit = (end - time.monotonic()) * share
        print(f"== {name} (at most {limit:.0f} s)", flush=True)
        # Without --config this is `tiny`, which is for trying the command out.
        process = start.Process(target=_section, args=(name, config, limit, values.repeats, out, about))
        process.start()
        process.join(limit + 5.0)
        if process.exitcode is None:
            print(f"   {name} was stopped at its limit", flush=True)
            process.kill()
            process.join(10.0)


def _section(name: str, config: Any, limit: float, repeats: int, out: Path | None, about: dict[str, Any]) -> None:
    began = time.monotonic()
    device = jax.devices()[0]
    if device.platform != "gpu" and name != "accuracy":
        raise SystemExit(f"   {name} needs an NVIDIA GPU, not {device.platform}")
    rows: list[dict] = []
    about = {**about, "device": device.device_kind, "driver": driver(device), "jax": jax.__version__, "section": name, "rows": rows}

    def report(what: str, **numbers: float | str) -> None:
        rows.append({"what": what, **numbers})
        shown = "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items())
        print(f"   {what:58} {shown}", flush=True)
        if out is not None:
            (out / f"kernels_{name}.json").write_text(json.dumps(about, indent=2) + "\n")

    with _told(report, name):
        _RUN[name](config, Clock(began + limit, repeats), report)


@contextlib.contextmanager
def _told(report: Report, what: str) -> Iterator[None]:
    """A failure, or a library that is not here, becomes a line of the report: it must not take the measurements after it along."""
    try:
        yield
    except ImportError as error:
        report(what, absent=str(error))
    except Exception as error:
        report(what, failed=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


class Clock:
    """Times chains of calls until its end."""

    def __init__(self, end: float, repeats: int):
        self._end, self._repeats = end, repeats

    def left(self) -> float:
        return self._end - time.monotonic()

    def milliseconds(self, fn: Callable, *args: jax.Array, length: int = 10, **options: Any) -> float:
        """Median time of a call of `fn(*args)`, an array; each call's first input has one number of the last call's result."""

        def chain(x, *rest):
            for _ in range(length):
                # All of it: XLA would not compute what nobody reads.
                out = lax.optimization_barrier(fn(x, *rest))
                number = out[(0,) * out.ndim].astype(x.dtype).reshape((1,) * x.ndim)
                x = lax.dynamic_update_slice(x, number, (0,) * x.ndim)
            return x

        program = jax.jit(chain, donate_argnums=0, compiler_options={**GPU_OPTIONS, **options})
        x = jax.block_until_ready(program(jnp.copy(args[0]), *args[1:]))
        times = []
        for _ in range(self._repeats):
            begin = time.perf_counter()
            x = jax.block_until_ready(program(x, *args[1:]))
            times.append((time.perf_counter() - begin) / length)
        return 1000 * statistics.median(times)


def normal(seed: int, shape: tuple[int, ...], dtype: Any = jnp.bfloat16, spread: float = 1.0) -> jax.Array:
    return (spread * jax.random.normal(jax.random.key(seed, impl="unsafe_rbg"), shape, jnp.float32)).astype(dtype)


def relative_error(ours: jax.Array, expected: jax.Array) -> float:
    ours, expected = ours.astype(jnp.float32), expected.astype(jnp.float32)
    return float(jnp.linalg.norm(ours - expected) / jnp.linalg.norm(expected))


def poison() -> None:
    """Leave NaN in the memory that the next results will be written to."""
    jax.block_until_ready([jnp.full((1 << 26,), jnp.nan, jnp.float32) for _ in range(4)])


def check(config: Any, clock: Clock, report: Report) -> None:
    """The attention kernel at odd lengths, with dynamic lengths, extreme logits and poisoned outputs, three times bit by bit."""
    cases = [
        (1, 128, 128, 2, None, 1.0), (1, 1, 1, 1, None, 1.0), (2, 130, 150, 3, None, 3.0), (1, 64, 257, 2, None, 3.0),
        (1, 1000, 1001, 5, None, 3.0), (2, 130, 300, 2, 0, 3.0), (2, 130, 300, 2, 129, 3.0), (1, 500, 512, 4, None, 300.0),
        (1, 1170, 32, 40, None, 3.0), (1, 5265, 10_530, 4, None, 3.0), (1, 10_530, 10_530, 4, 10_001, 3.0),
    ]  # fmt: skip
    worst = 0.0
    for batch, queries, keys, heads, length, spread in cases:
        q, k, v = (normal(i, (batch, n, heads, 128)) for i, n in enumerate((queries, keys, keys)))
        q = (q * spread).astype(q.dtype)
        dynamic = None if length is None else jnp.int32(length)
        name = f"{batch}×{queries}×{keys}×{heads}, length {length}, spread {spread}"
        with _told(report, name):
            attend = jax.jit(functools.partial(mosaic_gpu.attention, return_lse=True))
            results = []
            for _ in range(3):
                poison()
                results.append(jax.block_until_ready(attend(q, k, v, key_length=dynamic)))
            out, lse = results[0]
            same = all(bool(jnp.array_equal(a, b)) for other in results[1:] for a, b in zip(results[0], other, strict=True))
            with jax.default_matmul_precision("highest"):
                wide = (x.astype(jnp.float32) for x in (q, k, v))
                expected, expected_lse = jax.jit(functools.partial(reference.attention, return_lse=True))(*wide, key_length=dynamic)
            if length == 0:
                error = float(jnp.max(jnp.abs(out.astype(jnp.float32)))) + float(jnp.sum(lse != -jnp.inf))
            else:
                error = relative_error(out, expected)
            lse_error = float(jnp.max(jnp.where(jnp.isneginf(expected_lse), 0.0, jnp.abs(lse - expected_lse))))
            right = same and error < 6e-3 and lse_error < 1e-3 * max(1.0, spread)
            worst = max(worst, error)
            report(
                name,
                error=error,
                lse_error=lse_error,
                verdict="ok" if right else "WRONG" if same else "WRONG, differs between runs",
            )
    report("largest error", error=worst)


class Inputs(NamedTuple):
    """Of one prediction: latents [B, T, H, W, 16], what is concatenated to them, and what text, image and speech encoders gave."""

    latents: jax.Array
    condition: jax.Array
    text: jax.Array
    image: jax.Array
    windows: jax.Array


class Step:
    """One prediction of the DiT's velocity."""

    def __init__(self, config: Any):
        stream, self.config = config.stream, config.model.dit
        height, width = stream.buckets[0]
        self.geometry = Geometry(height, width, stream.frames, stream.motion_frames)
        self.time = jnp.full((1,), 750.0, jnp.float32)
        self.rope = tuple(map(jnp.asarray, rotary_3d(self.geometry.token_grid, self.config.head_dim)))

    def random(self) -> Inputs:
        """Independent normal numbers everywhere."""
        config, grid = self.config, (1, *self.geometry.latent_grid)
        windows = (1, 1, self.geometry.frames, config.audio_window, config.audio_blocks, config.audio_channels)
        return Inputs(
            latents=normal(0, (*grid, config.out_channels), jnp.float32),
            condition=normal(1, (*grid, config.in_channels - config.out_channels)),
            text=normal(2, (1, config.text_len // 8, config.text_dim)),
            image=normal(3, (1, 257, config.clip_dim)),
            windows=normal(4, windows),
        )

    def structured(self) -> Inputs:
        """What real inputs have: a still, smooth picture below the noise, and as the reference's first frame, behind which are zeros; a
        text that ends in zeros; features with an offset that all tokens share, large in a few channels; slow speech."""
        config, frames, plain = self.config, self.geometry.frames, self.random()
        picture = jax.image.resize(normal(5, (1, 1, 6, 4, config.out_channels), jnp.float32), plain.latents.shape, "cubic")
        noisy = self.time[0] / 1000
        condition = jnp.zeros_like(plain.condition).at[:, 0].set(1)  # in the mask's channels, which come first
        condition = condition.at[:, 0, ..., -config.out_channels :].set(picture[:, 0].astype(condition.dtype))

        def shared(features: jax.Array, seed: int) -> jax.Array:
            offset = normal(seed, features.shape[-1:], jnp.float32)
            return (0.3 * features + offset.at[::256].multiply(30.0)).astype(features.dtype)

        few = normal(6, (1, 1, frames // 8, *plain.windows.shape[3:]), jnp.float32)
        return Inputs(
            latents=(1 - noisy) * picture + noisy * plain.latents,
            condition=condition,
            text=shared(plain.text, 7) * (jnp.arange(plain.text.shape[1]) < 24)[:, None].astype(plain.text.dtype),
            image=shared(plain.image, 8),
            windows=shared(jax.image.resize(few, plain.windows.shape, "linear").astype(plain.windows.dtype), 9),
        )

    def keys_values(self, dit: DiT, inputs: Inputs) -> tuple[list, list]:
        context = compiled(lambda dit, *args: dit.context(*args), dit)(inputs.text, inputs.image)
        return jax.block_until_ready((context, compiled(lambda dit, x: dit.audio(x), dit)(inputs.windows)))

    def program(self, dit: DiT, parallel: Parallel) -> Callable:
        """(latents, condition, keys and values) -> velocity."""

        def run(dit, latents, condition, keys_values):
            context, audio = keys_values
            return dit(latents, condition, self.time, rope=self.rope, context=context, audio=audio, parallel=parallel)

        return compiled(run, dit)

    def tera_operations(self) -> float:
        """Multiplications and additions of linear layers and attention in one step, in 10^12."""
        tokens, dim, ffn, layers = self.geometry.tokens, self.config.dim, self.config.ffn_dim, self.config.num_layers
        linear = 2 * tokens * dim * (8 * dim + 2 * ffn)
        attention = 4 * tokens * dim * (tokens + self.config.text_len + 257 + self.config.audio_context_tokens)
        return layers * (linear + attention) / 1e12


def distance(velocity: jax.Array, expected: jax.Array) -> dict[str, float]:
    cosine = jnp.sum(velocity * expected) / jnp.linalg.norm(velocity) / jnp.linalg.norm(expected)
    return {"error": relative_error(velocity, expected), "cosine": float(cosine)}


def dit(config: Any, clock: Clock, report: Report) -> None:
    """A whole step in bf16 and in 8 bits, with each attention and, where Triton runs, with each norm of queries and keys."""
    step = Step(config)
    inputs = step.random()
    begin = time.perf_counter()
    native = random_network(config.model, "dit", jnp.bfloat16, seed=0)
    given = (inputs.condition, step.keys_values(native, inputs))
    report("weights made", seconds=time.perf_counter() - begin)
    begin = time.perf_counter()
    plain = Parallel(attend=cudnn.attention, attend_local=cudnn.attention)
    largest = largest_inputs(native, DIT_FP8, lambda dit: step.program(dit, plain)(inputs.latents, *given))
    report("inputs observed", seconds=time.perf_counter() - begin, largest=max(largest.values()), least=min(largest.values()))
    networks = {
        "bf16": native,
        "fp8, a scale a token": quantize_network(native, DIT_FP8),
        "fp8, fixed scales": quantize_network(native, DIT_FP8, largest),
    }
    mosaic, mosaic_fp8 = (
        dataclasses.replace(plain, row_multiple=ROW_MULTIPLE, attend=select(name, "bfloat16")[1])
        for name in ("mosaic", "mosaic_fp8")
    )
    attends = [("mosaic", mosaic)]
    if reason := without_triton():
        report("DiT step, mosaic, Triton's norms", absent=reason)
    else:
        from livetalk_jax.kernels.norm_rope import triton

        attends.append(("mosaic, Triton's norms", dataclasses.replace(mosaic, norm_rope=triton.norm_rope)))
    variants = [
        ("bf16", "cudnn, 10,530 rows", plain),
        *((weights, *attend) for weights in ("bf16", "fp8, fixed scales") for attend in attends),
        *((weights, "mosaic_fp8", mosaic_fp8) for weights in ("fp8, fixed scales", "fp8, a scale a token")),
    ]
    velocities = {}
    for weights, attend, parallel in variants:
        name = f"DiT step, {weights}, {attend}"
        with _told(report, name):
            if clock.left() < 25.0:
                report(name, skipped="no time left")
                continue
            begin = time.perf_counter()
            program = step.program(networks[weights], parallel)
            velocities[name] = velocity = jax.block_until_ready(program(inputs.latents, *given))
            compilation = time.perf_counter() - begin
            times = []
            for _ in range(8):
                begin = time.perf_counter()
                velocity = jax.block_until_ready(program(inputs.latents + 1e-3 * velocity, *given))
                times.append(1000 * (time.perf_counter() - begin))
            ms = statistics.median(times)
            report(name, ms=ms, spread=max(times) - min(times), TFLOPs=1000 * step.tera_operations() / ms, compile_s=compilation)
    base = velocities.pop("DiT step, bf16, cudnn, 10,530 rows", None)
    if base is not None:
        for name, velocity in velocities.items():
            report(f"{name}: against the first", **distance(velocity, base))
    memory = jax.devices()[0].memory_stats() or {}
    report("peak memory", GiB=memory.get("peak_bytes_in_use", 0) / 2**30)


def accuracy(config: Any, clock: Clock, report: Report) -> None:
    """How far the velocity in bf16 is from that with float32 activations, and in 8 bits from both, on random and on structured inputs;
    with fixed scales, which were seen on the random ones; and, on these, each kind of layer apart."""
    step = Step(config)
    native = random_network(config.model, "dit", jnp.bfloat16, seed=0)
    wide = nnx.clone(native)
    wide.dtype = jnp.float32

    def by_head(q, k, v, **options):
        """The reference, a head at a time: all heads' float32 logits are 18 GB."""
        heads = (jnp.moveaxis(x, 2, 0)[:, :, :, None] for x in (q, k, v))
        return jnp.moveaxis(lax.map(lambda x: reference.attention(*x, **options), tuple(heads))[..., 0, :], 0, 2)

    exact = Parallel(attend=by_head, attend_local=by_head)
    short = Parallel(attend=cudnn.attention, attend_local=cudnn.attention) if jax.default_backend() == "gpu" else exact
    inputs = {"random": step.random(), "structured": step.structured()}

    def given(dit: DiT) -> dict[str, tuple]:
        """What a prediction takes, by kind of inputs."""
        return {kind: (each.latents, each.condition, step.keys_values(dit, each)) for kind, each in inputs.items()}

    def velocities(dit: DiT, parallel: Parallel, given: dict[str, tuple]) -> dict[str, jax.Array]:
        program = step.program(dit, parallel)
        return {kind: jax.block_until_ready(program(*arguments)) for kind, arguments in given.items()}

    with jax.default_matmul_precision("highest"):
        expected = velocities(wide, exact, given(wide))
    del wide
    both = given(native)
    one = {"random": both["random"]}
    base = velocities(native, short, both)
    for kind in inputs:
        report(f"{kind} inputs: bf16 against float32", **distance(base[kind], expected[kind]))
    largest = largest_inputs(native, DIT_FP8, lambda dit: velocities(dit, short, one))
    variants = [(name, DIT_FP8, fixed, both) for name, fixed in (("a scale a token", None), ("fixed scales", largest))]
    variants += [(f"fixed scales, {pattern} alone", {pattern: form}, largest, one) for pattern, form in DIT_FP8.items()]
    for name, table, fixed, arguments in variants:
        if clock.left() < 30.0:
            return
        for kind, velocity in velocities(quantize_network(native, table, fixed), short, arguments).items():
            report(f"{kind} inputs: fp8, {name}: against float32", **distance(velocity, expected[kind]))
            report(f"{kind} inputs: fp8, {name}: against bf16", **distance(velocity, base[kind]))


def attention(config: Any, clock: Clock, report: Report) -> None:
    """Attention kernels at the shapes of the model, and the shares of two and four GPUs."""
    shapes = dict(attention_specs.SPECS)
    del shapes["self_tiny"]
    shapes = {"self_720x416": shapes["self_720x416"], "10,544 tokens": (10_544, 10_544, 40, 128), **shapes}
    shapes |= {"self_720x416, half the heads": (10_530, 10_530, 20, 128), "self_720x416, a quarter": (10_530, 10_530, 10, 128)}
    programs = jax.devices()[0].core_count
    configs = {
        f"ours, {stages} stages, {pieces} pieces": mosaic_gpu.Config(64, 128, stages, programs, pieces)
        for stages, pieces in [(2, 2), (2, 1)]
    }
    short = {
        f"ours in 8 bits, {stages} stages{', sums apart' * apart}": mosaic_gpu.Config(64, 128, stages, programs, 1, apart)
        for stages, apart in [(4, True), (4, False), (2, True)]
    }
    for shape, (queries, keys, heads, width) in shapes.items():
        batch = 9 if shape.startswith("audio") else 1
        q, k, v = (normal(i, (batch, n, heads, width)) for i, n in enumerate((queries, keys, keys)))
        work = 4 * batch * queries * keys * heads * width / 1e9
        long = keys > 1000
        runs: dict[str, Callable] = {"cudnn": cudnn.attention}
        for name, variant in configs.items():
            if variant.pieces == 2 or (queries % 8 == 0 and keys % 8 == 0):
                runs[name] = lambda q, k, v, variant=variant: mosaic_gpu.forward(
                    q, k, v, None, keys=k.shape[1], return_lse=False, config=variant
                )[0]
        if long:
            runs["ours in 8 bits, quantisation included"] = mosaic_fp8.attention
        if shape == "self_720x416":
            runs["ours with log-sum-exp"] = lambda q, k, v: mosaic_gpu.attention(q, k, v, return_lse=True)[0]
            runs["ours with a length"] = lambda q, k, v: mosaic_gpu.attention(q, k, v, key_length=jnp.int32(k.shape[1]))
            runs["JAX's Mosaic GPU, float16, padded to 10,624"] = _jax_mosaic
            runs["tokamax's Mosaic GPU, untuned"] = _tokamax
        timed: dict[str, tuple[Callable, tuple]] = {name: (fn, (q, k, v)) for name, fn in runs.items()}
        if shape == "10,544 tokens":
            short_q, short_k, short_v, scale, _ = jax.jit(eight_bit.quantize)(q, k, v)
            operands = scale, short_q, short_k, short_v
            timed |= {name: (functools.partial(_eight_bit, variant), operands) for name, variant in short.items()}
        for name, (fn, args) in timed.items():
            with _told(report, f"{shape}: {name}"):
                if clock.left() < 10.0:
                    return
                ms = clock.milliseconds(fn, *args, length=8 if long else 32)
                exact = fn is not mosaic_fp8.attention
                error = {} if exact else {"error": relative_error(jax.jit(fn)(q, k, v), jax.jit(cudnn.attention)(q, k, v))}
                report(f"{shape}: {name}", ms=ms, TFLOPs=work / ms, **error)
        if shape == "self_720x416":
            with _told(report, "PyTorch"):
                _torch_attention(q, k, v, work, report)


def _eight_bit(config: mosaic_gpu.Config, scale, q, k, v):
    """The kernel alone, of `eight_bit.Operands`."""
    return mosaic_gpu.forward(q, k, v, None, scale, keys=k.shape[1], return_lse=False, config=config)[0]


def _jax_mosaic(q, k, v):
    """JAX's own kernel as released: float16 only, no scale, whole blocks."""
    from jax.experimental.pallas.ops.gpu import attention_mgpu

    config = attention_mgpu.TuningConfig(block_q=64, block_kv=128, max_concurrent_steps=2)
    padded = (jnp.pad(x.astype(jnp.float16), ((0, 0), (0, -x.shape[1] % 128), (0, 0), (0, 0))) for x in (q, k, v))
    return attention_mgpu.attention(*padded, config)


def _tokamax(q, k, v):
    """tokamax's kernel for Hopper; without a name it would take another where that one fails."""
    import tokamax

    absl_flags.FLAGS.mark_as_parsed()  # or it reads the command line, and ends at what it does not know
    return tokamax.dot_product_attention(q, k, v, implementation="mosaic")


def _torch_attention(q, k, v, work: float, report: Report) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    query, key, value = (torch.randn(x.shape, dtype=torch.bfloat16, device="cuda").transpose(1, 2) for x in (q, k, v))
    for name, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
        times = []
        with sdpa_kernel(backend), torch.no_grad():
            for _ in range(7):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                for _ in range(8):
                    torch.nn.functional.scaled_dot_product_attention(query, key, value)
                end.record()
                torch.cuda.synchronize()
                times.append(begin.elapsed_time(end) / 8)
        ms = statistics.median(times[1:])
        report(f"self_720x416: PyTorch {torch.__version__} {name}", ms=ms, TFLOPs=work / ms)


def linear(config: Any, clock: Clock, report: Report) -> None:
    """Linear layers in bf16 and in 8 bits, with the quantisation of what comes in, and the 8-bit product alone."""

    def native(x, kernel, bias):
        return x @ kernel + bias

    def short(divisor, x, weight, scale, bias):
        divisor = scale_of(x, axis=-1) if divisor is None else divisor
        return cublaslt.linear(to_e4m3(x, divisor), divisor, weight, scale, bias, x.dtype)

    def alone(x, weight):
        return cublaslt.matmul(x.astype(jnp.bfloat16), weight.astype(jnp.bfloat16))

    for name, (tokens, inputs, outputs) in linear_specs.SPECS.items():
        kernel, bias = normal(1, (inputs, outputs), spread=inputs**-0.5), normal(2, (outputs,))
        weight, scale = jax.jit(quantize)(kernel)
        work = 2 * tokens * inputs * outputs / 1e9
        for rows in (-(-tokens // 16) * 16, tokens, -(-tokens // 128) * 128):
            x = normal(0, (rows, inputs))
            expected = jax.jit(native)(x, kernel, bias)
            runs: dict[str, tuple[Callable, tuple]] = {
                "bf16": (native, (x, kernel, bias)),
                "fp8, fixed scales": (functools.partial(short, jnp.float32(2**-5)), (x, weight, scale, bias)),
                "fp8, a scale a token": (functools.partial(short, None), (x, weight, scale, bias)),
                "fp8, the product alone": (alone, (x.astype(weight.dtype), weight)),
            }
            for what, (fn, args) in runs.items():
                with _told(report, f"{name}, {rows} rows: {what}"):
                    if clock.left() < 8.0:
                        return
                    ms = clock.milliseconds(fn, *args, length=16)
                    error = {} if "alone" in what else {"error": relative_error(jax.jit(fn)(*args), expected)}
                    report(f"{name}, {rows} rows: {what}", ms=ms, TFLOPs=work / ms, **error)


def norms(config: Any, clock: Clock, report: Report) -> None:
    """RMS norm with rotary positions: what XLA makes of the reference, and one Triton kernel."""
    height, width = config.stream.buckets[0]
    geometry = Geometry(height, width, config.stream.frames, config.stream.motion_frames)
    model: DiTConfig = config.model.dit
    x, weight = normal(0, (1, geometry.tokens, model.dim)), normal(1, (model.dim,))
    cos, sin = map(jnp.asarray, rotary_3d(geometry.token_grid, model.head_dim))
    bytes_moved = 2 * x.nbytes / 1e9
    xla = functools.partial(norm_rope, eps=model.eps)
    flat: Callable = lambda *args: xla(*args).reshape(x.shape)  # noqa: E731
    ms = clock.milliseconds(flat, x, weight, cos, sin, length=64)
    report("norm and rotary: XLA", ms=ms, TB_s=bytes_moved / ms)
    if reason := without_triton():
        report("norm and rotary: Triton", absent=reason)
        return
    from livetalk_jax.kernels.norm_rope import triton

    for warps in (4, 8, 16):
        fused = functools.partial(triton.norm_rope, eps=model.eps, warps=warps)
        with _told(report, f"norm and rotary: Triton, {warps} warps"):
            poison()
            error = relative_error(jax.jit(fused)(x, weight, cos, sin), jax.jit(xla)(x, weight, cos, sin))
            ms = clock.milliseconds(lambda *args, f=fused: f(*args).reshape(x.shape), x, weight, cos, sin, length=64)
            report(f"norm and rotary: Triton, {warps} warps", ms=ms, TB_s=bytes_moved / ms, error=error)


_RUN = {"check": check, "dit": dit, "attention": attention, "linear": linear, "norm_rope": norms, "accuracy": accuracy}
