"""Serve talking avatars: sessions over WebSocket, jobs over HTTP.

python serve.py --config tiny                                    on this machine, for this machine
python serve.py --config soulx_14b --checkpoint DIR --host 0.0.0.0 --tls_cert C --tls_key K      with LIVETALK_API_KEYS set

With a mesh over several hosts, the same command runs on each (livetalk_jax/parallel/distributed.py); the first one serves.
docs/serving.md has the protocol.
"""

import os
import signal
import sys

import jax
from absl import flags as absl_flags

from livetalk_jax import checkpoint, flags
from livetalk_jax.config import RunConfig
from livetalk_jax.generate import networks_for
from livetalk_jax.parallel.distributed import find_world, initialize
from livetalk_jax.programs import keep_programs
from livetalk_jax.stream import relay
from livetalk_jax.stream.avatar import Avatar
from livetalk_jax.stream.session import Pipeline, layout
from livetalk_jax.tokenizer import load_tokenizer

with flags.failures("serve.py"):  # the extra "serve" may be missing
    from livetalk_jax.serving import logs
    from livetalk_jax.serving.app import Server
    from livetalk_jax.serving.engine import Engine, Limits
    from livetalk_jax.serving.gate import LOOPBACK
    from livetalk_jax.serving.metrics import Metrics
    from livetalk_jax.serving.server import Listen, serve
    from livetalk_jax.serving.tokens import Guard
    from livetalk_jax.serving.uploads import UploadLimits

USAGE = "usage: python serve.py [--config tiny] [--checkpoint DIR] [--host H --port P] …"


def define(values: absl_flags.FlagValues) -> None:
    def text(name: str, default: str | None, what: str) -> None:
        absl_flags.DEFINE_string(name, default, what, flag_values=values)

    def seconds(name: str, default: float, what: str) -> None:
        absl_flags.DEFINE_float(name, default, what, lower_bound=0, flag_values=values)

    text("checkpoint", None, "Folder made by `livetalk convert import`, or by training.")
    text("size", None, "WIDTHxHEIGHT of the videos, one of the configuration's; its first if left out, `all` for all.")
    text("host", "127.0.0.1", "Address to listen on. Other than loopback needs LIVETALK_API_KEYS.")
    absl_flags.DEFINE_integer("port", 8000, "Port to listen on.", 0, 65_535, flag_values=values)
    text("tls_cert", None, "Certificate chain, PEM; with --tls_key the server speaks HTTPS.")
    text("tls_key", None, "The certificate's key, PEM.")
    absl_flags.DEFINE_multi_string("allow_origin", [], "Origin of a site whose pages may use this server.", flag_values=values)
    absl_flags.DEFINE_integer("sessions", None, "Sessions at a time; measured if left out.", lower_bound=1, flag_values=values)
    seconds("session_seconds", 3600, "A session's longest life.")
    seconds("idle_seconds", 600, "A session ends after so long without speech.")
    seconds("detached_seconds", 30, "A session ends after so long without a reader.")
    seconds("grace", 30, "What sessions have to end in after SIGTERM.")
    absl_flags.DEFINE_integer("max_upload_mib", 25, "Of a request's body.", lower_bound=1, flag_values=values)
    seconds("max_recording_seconds", 600, "Of a job's recording.")


def sizes_for(config: RunConfig, wanted: str | None) -> list[tuple[int, int]]:
    """(height, width) of the videos that are served."""
    buckets = list(config.stream.buckets)
    if wanted == "all":
        return buckets
    named = {f"{width}x{height}": (height, width) for height, width in buckets}
    if wanted is not None and wanted not in named:
        raise flags.UsageError(f"--size {wanted} is none of the configuration's: {', '.join(named)} or all")
    return [named[wanted]] if wanted else buckets[:1]


def load(config: RunConfig, folder: str | None, tokenizer: str, sizes: list[tuple[int, int]]) -> Avatar:
    """The model, not yet compiled."""
    tokenize = load_tokenizer(tokenizer, config.model.dit.text_len)
    networks = networks_for(config, folder, layout(config, sizes[0]))
    return Avatar({size: Pipeline(networks, config, size, tokenize) for size in sizes})


def guard_for(host: str) -> Guard:
    """API keys and the tokens' secret, from the environment: a command line is seen by everybody on the machine."""
    keys = [key for key in os.environ.get("LIVETALK_API_KEYS", "").split(",") if key]
    if host not in LOOPBACK and not keys:
        raise flags.UsageError(f"--host {host} lets others in, so LIVETALK_API_KEYS must be set: API keys, commas between them")
    return Guard(keys, os.environ.get("LIVETALK_TOKEN_SECRET", "").encode() or None)


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE)
    if (values.tls_cert is None) != (values.tls_key is None):
        raise flags.UsageError("--tls_cert and --tls_key go together")
    initialize()
    keep_programs()
    guard, sizes = guard_for(values.host), sizes_for(config, values.size)
    # What cannot work is told before anything slow begins.
    layout(config, sizes[0])
    tokenizer = config.model.tokenizer
    if values.checkpoint is not None:
        tokenizer = checkpoint.read_manifest(values.checkpoint).tokenizer or tokenizer
    logs.configure()
    if jax.process_index() != 0:
        # It ends with the first, which may have sessions to end before, even where all are told to end.
        for told in (signal.SIGTERM, signal.SIGINT):
            signal.signal(told, signal.SIG_IGN)
        (leader,) = relay.connect(None)
        relay.follow(load(config, values.checkpoint, tokenizer, sizes), leader)
        return

    def model() -> Avatar | relay.Leader:
        if jax.process_count() == 1:
            return load(config, values.checkpoint, tokenizer, sizes)
        world = find_world(os.environ)
        coordinator = world.coordinator if world else None
        others = relay.connect(coordinator.rsplit(":", 1)[0] if coordinator else None)
        return relay.Leader(load(config, values.checkpoint, tokenizer, sizes), others)

    limits = Limits(
        sessions=values.sessions, session_seconds=values.session_seconds, idle_seconds=values.idle_seconds,
        detached_seconds=values.detached_seconds,
    )  # fmt: skip
    server = Server(
        engine=Engine(model, limits, Metrics()),
        guard=guard,
        uploads=UploadLimits(body_bytes=values.max_upload_mib * 2**20, seconds=values.max_recording_seconds),
        origins=tuple(values.allow_origin),
    )
    listen = Listen(
        host=values.host, port=values.port, tls_cert=values.tls_cert, tls_key=values.tls_key, grace=values.grace
    )  # fmt: skip
    serve(server, listen)


if __name__ == "__main__":
    flags.run(main, sys.argv)
