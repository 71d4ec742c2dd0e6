#!/usr/bin/env bash
# Two GPUs alone. P_PARTS: E, B, C, D, in the order given.
#
#     setsid bash p.sh        started by the start script, which wrote $P_ROOT/env.sh and laid $P_ROOT/src out
#
# Of every part one line on standard output; results in $P_ROOT/results/p, logs in $P_ROOT/log/p_*.log.
# P_TEST=1: the same commands at tiny sizes on a CPU, to see that each of them runs.
set -u
SECONDS=0
root=${P_ROOT:-/tmp}
end=${P_END:-1480} # of this call
# shellcheck disable=SC1091
source "$root/env.sh"
cd "$root/src" || exit 1
out=$root/results/p log=$root/log work=$root/p
mkdir -p "$out/plans" "$log" "$work"
export CUDA_VISIBLE_DEVICES=0,1 JAX_COMPILATION_CACHE_DIR=$root/programs_p
mkdir -p "$JAX_COMPILATION_CACHE_DIR"
unset XLA_PYTHON_CLIENT_PREALLOCATE XLA_PYTHON_CLIENT_MEM_FRACTION XLA_CLIENT_MEM_FRACTION  # both GPUs are ours
live=(python3 -c 'from livetalk_jax.cli import main; main()')
most=(env XLA_CLIENT_MEM_FRACTION=0.92)  # of a GPU's memory, for training

model=(--config soulx_14b --config.model.tokenizer=bytes)
eight=(--config.runtime.linear=fp8 --config.runtime.attention=mosaic_fp8)
two=(--config.parallel.devices=2)
stage1=(--config stage1_1b3) stage2=(--config stage2_1b3) small=() plan=u1r2-g2x1-overlap
rows2=(--config.data.batch=2) rows4=(--config.data.batch=4)
minutes=0.5
if [[ ${P_TEST:-} ]]; then
    export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2
    model=(--config tiny) eight=(--config.runtime.linear=fp8)
    stage1=(--config stage1_tiny) stage2=(--config stage2_tiny) small=("--config.stream.buckets=((64, 64),)")
    minutes=0.1
fi

say() { echo "p: $*" | tee -a "$out/parts.txt"; }

# part NAME NEEDED LIMIT COMMAND…    nothing where less than NEEDED seconds are left
part() {
    local name=$1 needed=$2 limit=$3 left=$((end - SECONDS)) began=$SECONDS code
    shift 3
    if ((left < needed)); then
        say "$name: not begun, $left s left where $needed are needed"
        return 1
    fi
    ((limit > left)) && limit=$left
    timeout --kill-after=5 "$limit" "$@" >"$log/p_$name.log" 2>&1
    code=$?
    say "$name: status $code, $((SECONDS - began)) s, at $SECONDS s"
    sleep 2 # for the GPUs to be free again
    return $code
}

programs() { find "$JAX_COMPILATION_CACHE_DIR" -type f -name '*-cache' -printf '%f %s\n' | sort; }

# ---------------------------------------------------------------------------------------------------------------- small programs

# Seconds of a /readyz that answers 200, or failure: ready.py URL SECONDS PID
cat >"$work/ready.py" <<'PY'
import os, sys, time, urllib.request
url, seconds, pid_file = sys.argv[1], float(sys.argv[2]), sys.argv[3]
began = time.monotonic()
while time.monotonic() - began < seconds:
    try:
        with urllib.request.urlopen(url + "/readyz", timeout=5) as answer:
            if answer.status == 200:
                print(f"ready after {time.monotonic() - began:.1f} s")
                sys.exit(0)
    except OSError:
        pass
    if time.monotonic() - began > 20:
        try:
            os.kill(int(open(pid_file).read()), 0)
        except (OSError, ValueError):
            sys.exit("the server is gone")
    time.sleep(0.5)
sys.exit("not ready in time")
PY

# What a GET answers, into a file: get.py URL FILE
cat >"$work/get.py" <<'PY'
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=20) as answer, open(sys.argv[2], "wb") as file:
    file.write(answer.read())
PY

# Jobs alone, one after the other: job.py URL COUNT FILE
cat >"$work/job.py" <<'PY'
import asyncio, json, sys
from livetalk_jax.serving import probes
from livetalk_jax.serving.client import Client
async def main():
    url, count, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    results = []
    async with Client(url, None) as client:
        await client.until_ready()
        for _ in range(count):
            await probes.rest(client)
            results.append(await probes.job(client, None))
            print(json.dumps(results[-1]), flush=True)
            with open(path, "w") as file:
                json.dump(results, file, indent=1)
asyncio.run(main())
PY

# serve.py, but the same pipeline is timed bare before and after it serves, in this process: no other program, GPU or clock.
# served.py FOLDER [serve.py's flags]
cat >"$work/served.py" <<'PY'
import collections, glob, itertools, json, os, statistics, sys, time, traceback
from pathlib import Path

folder = Path(sys.argv[1])
(folder / "served.pid").write_text(str(os.getpid()))
argv = ["serve.py", *sys.argv[2:]]

import jax
import numpy as np
import serve
from livetalk_jax import flags
from livetalk_jax.benchmarks import latency
from livetalk_jax.nn.quantization import is_quantized
from livetalk_jax.serving import engine, jobs
from livetalk_jax.stream import session as sessions

REPEATS = int(os.environ.get("P_REPEATS", "3"))
result = {"command": "served.py " + " ".join(argv[1:]), "jax": jax.__version__}
kept, rows, now = {}, [], {}
record = folder / "served_in_process.json"
flag = folder / "trace_now"


def write():
    record.write_text(json.dumps(result, indent=1) + "\n")


# The server's random networks have fixed scales, as `bench latency` has them and `livetalk quantize` writes them.
made = serve.networks_for


def networks_for(config, checkpoint, where):
    networks = made(config, checkpoint, where)
    if config.runtime.linear == "fp8":
        result["8 bits already in networks_for"] = is_quantized(networks.dit)
    return networks


serve.networks_for = networks_for


def programs(pipeline):
    return {"first": pipeline.first_frames.programs, "other": pipeline.other_frames.programs, "audio": pipeline.chunk_windows.programs}


def bare(name, pipeline):
    runs = latency.Runs()
    before = programs(pipeline)
    if "session" not in kept:
        kept["session"] = latency.begin_session(pipeline, REPEATS, runs)
    try:
        latency.time_chunk("chunk", pipeline, kept["session"], REPEATS, runs)
    except AssertionError:
        print("more than two programs", flush=True)
    latency.time_frames(pipeline, kept["session"], REPEATS, runs)
    result[name] = {"seconds": {key: statistics.median(value) for key, value in runs.items()}, "runs": dict(runs),
                    "programs before and after": [before, programs(pipeline)]}
    write()


loaded = serve.load


def load(*arguments):
    began = time.perf_counter()
    avatar = loaded(*arguments)
    result["seconds until the networks were there"] = time.perf_counter() - began
    kept["avatar"], kept["pipeline"] = avatar, next(iter(avatar._pipelines.values()))
    print(f"networks there after {time.perf_counter() - began:.1f} s", flush=True)
    bare("bare before", kept["pipeline"])
    rows.clear()
    return avatar


serve.load = load


# What the host does of every step
def timed(owner, name, label):
    call = getattr(owner, name)

    def run(*arguments, **options):
        began = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            now[label] = now.get(label, 0.0) + time.perf_counter() - began

    setattr(owner, name, run)


timed(sessions.Session, "_loud", "loudness")
timed(sessions.Session, "listen", "loudness and windows")
timed(sessions.Session, "generate", "dispatch")

engine_step = engine._step


def session_step(model, state, speech, *take):
    now.clear()
    began, cpu = time.perf_counter(), time.thread_time()
    state, pace = engine_step(model, state, speech, *take)
    rows.append({"kind": "session", "began": began, "first": pace.first, "whole": pace.whole, "thread's CPU": time.thread_time() - cpu, **now})
    return state, pace


engine._step = session_step

if hasattr(jobs, "_step"):
    jobs_step = jobs._step

    def job_step(model, state, speech):
        if flag.exists():
            kept["traced"] = kept.get("traced", -1) + 1
            if kept["traced"] == 2:
                trace("job")
        now.clear()
        began, cpu = time.perf_counter(), time.thread_time()
        frames, state = jobs_step(model, state, speech)
        rows.append({"kind": "job, traced" if flag.exists() else "job", "began": began, "whole": time.perf_counter() - began,
                     "thread's CPU": time.thread_time() - cpu, **now})
        if flag.exists() and kept["traced"] == 5:
            stop()
        return frames, state

    jobs._step = job_step


def trace(name):
    where = folder / f"trace_{name}"
    try:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        options.host_tracer_level = 1
        jax.profiler.start_trace(where, profiler_options=options)
    except Exception:
        traceback.print_exc()


def stop():
    try:
        jax.profiler.stop_trace()
    except Exception:
        traceback.print_exc()


def summary():
    """Medians of the steps by their kind; `period`: from the beginning of a job's step to the next one's."""
    told = {}
    for row in rows[:4]:
        row["kind"] = "warm-up"
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = [row for row in rows if row["kind"] == kind]
        names = dict.fromkeys(name for row in of for name in row if name not in ("kind", "began"))
        told[kind] = {"steps": len(of)} | {
            name: {"median": statistics.median(v), "longest": max(v), "shortest": min(v)}
            for name in names if (v := [row[name] for row in of if name in row])
        }
        if kind.startswith("job"):
            periods = [b["began"] - a["began"] for a, b in itertools.pairwise(rows) if a["kind"] == b["kind"] == kind]
            periods = [p for p in periods if p < 2 * told[kind]["whole"]["median"]]
            told[kind]["period"] = statistics.median(periods) if periods else None
    return told


def union(spans):
    """Sorted spans (begin, end, name, name of the last) without overlaps."""
    joined = []
    for begin, end, name in sorted(spans):
        if joined and begin <= joined[-1][1]:
            if end > joined[-1][1]:
                joined[-1][1], joined[-1][3] = end, name
        else:
            joined.append([begin, end, name, name])
    return joined


def analyse(name):
    """Of every GPU: how long it was busy, the longest pauses and what lay around them, and the kernels that took longest."""
    files = glob.glob(str(folder / f"trace_{name}" / "**" / "*.xplane.pb"), recursive=True)
    if not files:
        return None
    told = {"MiB": sum(map(os.path.getsize, files)) / 2**20}
    planes = [plane for file in files for plane in jax.profiler.ProfileData.from_file(file).planes]
    wanted = [p for p in planes if p.name.startswith("/device:GPU")] or [p for p in planes if p.name.startswith("/host:CPU")]
    for plane in wanted:
        lines = list(plane.lines)
        streams = [line for line in lines if line.name.startswith("Stream")] or (lines if plane.name.startswith("/host") else [])
        spans, kernels, copies = [], collections.Counter(), []
        for line in streams:
            for event in line.events:
                begin, end = event.start_ns / 1e6, (event.start_ns + event.duration_ns) / 1e6
                spans.append((begin, end, event.name[:80]))
                kernels[event.name[:80]] += end - begin
                if "memcpy" in event.name.lower() and end - begin > 0.2:
                    copies.append((round(begin, 2), round(end - begin, 2), event.name[:40]))
        if not spans:
            continue
        joined, first = union(spans), min(s[0] for s in spans)
        gaps = [(b[0] - a[1], a[1] - first, a[3], b[2]) for a, b in itertools.pairwise(joined)]
        busy, whole = sum(j[1] - j[0] for j in joined), joined[-1][1] - first
        told[plane.name] = {
            "lines": [line.name for line in lines][:40],
            "events": len(spans),
            "ms from the first to the last": round(whole, 2),
            "ms busy": round(busy, 2),
            "ms idle": round(whole - busy, 2),
            "idle in pauses longer than 1 ms": round(sum(g[0] for g in gaps if g[0] > 1), 2),
            "idle in pauses of 0.05 to 1 ms": round(sum(g[0] for g in gaps if 0.05 < g[0] <= 1), 2),
            "longest pauses (ms, at, after, before)": [[round(g[0], 3), round(g[1], 2), g[2], g[3]] for g in sorted(gaps, reverse=True)[:16]],
            "ms of NCCL": round(sum(ms for kernel, ms in kernels.items() if "nccl" in kernel.lower()), 2),
            "ms by kernel": {kernel: round(ms, 2) for kernel, ms in kernels.most_common(25)},
            "copies longer than 0.2 ms (at, ms)": [[round(c[0] - first, 2), c[1], c[2]] for c in copies[:24]],
        }
    return told


def main():
    try:
        flags.run(serve.main, argv)
    except SystemExit as ended:
        result["server's status"] = ended.code
    print("served; bare again", flush=True)
    result["steps"] = summary()
    result["steps, one by one"] = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows[-80:]]
    write()
    pipeline = kept["pipeline"]
    result["programs after serving"] = programs(pipeline)
    bare("bare after", pipeline)
    # Three chunks in a row, as a bare chunk is timed, and three steps as a server takes them.
    session = sessions.Session(pipeline, kept["session"].conditions, kept["session"].motion, persons=1, seed=0)
    speech = latency.silence(pipeline)
    result["traces"] = {}
    for name in ("bare", "steps"):
        try:
            if name == "steps":
                avatar = kept["avatar"]
                state = avatar.start(np.full((*avatar.sizes[0], 3), 128, np.uint8), None, 0)
                heard = np.random.default_rng(0).normal(size=avatar.chunk_frames * 640).astype(np.float32) * 0.1
            trace(name)
            for _ in range(3):
                if name == "bare":
                    frames = session.generate(pipeline.chunk_windows(speech))
                else:
                    state, _ = engine_step(avatar, state, heard)
            jax.block_until_ready(frames)
        except Exception:
            traceback.print_exc()
        stop()
    for name in ("bare", "steps", "job"):
        try:
            began = time.perf_counter()
            result["traces"][name] = analyse(name)
            print(f"trace {name} read in {time.perf_counter() - began:.1f} s", flush=True)
        except Exception as error:
            traceback.print_exc()
            result["traces"][name] = repr(error)
        write()


main()
PY

# tokens a second of a result, times a thousand, as a whole number; 0 where there is none
tokens() { python3 -c 'import json, sys; print(int(1000 * json.load(open(sys.argv[1]))["tokens a second"]))' "$1" 2>/dev/null || echo 0; }

# ----------------------------------------------------------------------------------------------------------------------- servers

ask() { # LIMIT COMMAND…: of a server that still runs
    local limit=$1 left=$((end - SECONDS))
    shift
    kill -0 "$(cat "$work/served.pid")" 2>/dev/null || return 1
    ((limit > left)) && limit=$left
    ((limit > 0)) && timeout --kill-after=5 "$limit" "$@"
}

clients() { # NAME PORT: what is asked of a server that runs, each in its own time
    local name=$1 url=http://127.0.0.1:$2
    ask 20 python3 "$work/get.py" "$url/metrics" "$out/metrics_${name}_before.txt"
    if [[ $name == c1 ]]; then
        ask 45 python3 "$work/job.py" "$url" 1 "$out/jobs_$name.json"
        ask 20 python3 "$work/get.py" "$url/metrics" "$out/metrics_${name}_job.txt"
        ask 110 "${live[@]}" bench serving --url "$url" --minutes 0.15 --repeats 1 --out "$out/serving_$name.json"
        ask 20 python3 "$work/get.py" "$url/metrics" "$out/metrics_${name}_after.txt"
        touch "$work/trace_now"
        ask 60 python3 "$work/job.py" "$url" 1 "$work/job_traced.json"
    else
        ask 45 python3 "$work/job.py" "$url" 1 "$out/jobs_$name.json"
        ask 160 "${live[@]}" bench serving --url "$url" --minutes "$minutes" --repeats 2 --out "$out/serving_$name.json"
        ask 20 python3 "$work/get.py" "$url/metrics" "$out/metrics_${name}_after.txt"
    fi
}

# server NAME PORT NEEDED LIMIT READY COMMAND…    a server, its clients, its end; it has to be ready within READY seconds
server() {
    local name=$1 port=$2 needed=$3 limit=$4 ready=$5 left=$((end - SECONDS)) began=$SECONDS pid code
    shift 5
    if ((left < needed)); then
        say "$name: not begun, $left s left where $needed are needed"
        return 1
    fi
    ((limit > left)) && limit=$left
    rm -f "$work/served.pid"
    # shellcheck disable=SC2016
    timeout --kill-after=5 "$limit" bash -c 'echo $$ >"$0"; exec "$@"' "$work/served.pid" "$@" --port "$port" >"$log/p_$name.log" 2>&1 &
    pid=$!
    {
        if python3 "$work/ready.py" "http://127.0.0.1:$port" "$ready" "$work/served.pid"; then
            clients "$name" "$port"
        fi
    } >"$log/p_${name}_clients.log" 2>&1
    kill -TERM "$(cat "$work/served.pid")" 2>/dev/null
    wait "$pid"
    code=$?
    say "$name: status $code, $(head -n 1 "$log/p_${name}_clients.log"), $((SECONDS - began)) s, at $SECONDS s"
    sleep 2
    return $code
}

# ------------------------------------------------------------------------------------------------------------------------- parts

loop=(--config.execution.remat=save_dots --config.execution.scan=False)

served() { # C. Served against bare.
    watch=
    if command -v nvidia-smi >/dev/null; then
        timeout 900 nvidia-smi -i 0,1 --query-gpu=timestamp,index,clocks.sm,power.draw,temperature.gpu,utilization.gpu --format=csv,noheader,nounits \
            -l 2 >"$out/gpus_c.csv" 2>/dev/null &
        watch=$!
    fi
    server c1 8014 200 460 260 python3 "$work/served.py" "$work" "${model[@]}" "${small[@]}" "${eight[@]}" "${two[@]}"
    cp "$work/served_in_process.json" "$out/" 2>/dev/null
    [[ $watch ]] && kill "$watch" 2>/dev/null
}

wide_and_stage_2_one() { # E. 14B widths, eight of forty layers, two rows (one row: 48.7 %, 67.7 GiB, an H200): beside stage 2 on one GPU.
    (CUDA_VISIBLE_DEVICES=1 part e_stage1_14b_width 100 330 "${most[@]}" "${live[@]}" bench training --config stage1_14b --config.model.dit.num_layers=8 \
        --config.data.batch=2 --devices 1 "${loop[@]}" --steps 5 --repeats 1 --out "$out/training_stage1_14b_8_layers_2_1xgpu.json") &
    wide=$!
    CUDA_VISIBLE_DEVICES=0 part b_stage2_one 150 330 "${most[@]}" "${live[@]}" bench training "${stage2[@]}" "${small[@]}" --devices 1 --steps 5 --repeats 1 \
        --out "$out/training_stage2_1b3_1xgpu.json"
    wait "$wide"
}

stage_2() { # B. Stage 2, a row a GPU, weights shared.
    part b_stage2_two 150 575 "${most[@]}" "${live[@]}" bench training "${stage2[@]}" "${small[@]}" --devices 2 "${rows2[@]}" --steps 5 --repeats 1 \
        --out "$out/training_stage2_1b3_2xgpu.json"
}

stage_1_two() { # D. Stage 1 without a scan on two GPUs
    part d_stage1_two 120 300 "${most[@]}" "${live[@]}" bench training "${stage1[@]}" "${small[@]}" --devices 2 "${rows2[@]}" "${loop[@]}" --steps 5 --repeats 1 \
        --out "$out/training_stage1_1b3_dots_unrolled_2xgpu.json"
}

for what in $P_PARTS; do "$what"; done
for file in "$log"/p_*.log; do
    echo "==== $file" && tail -n 60 "$file" | cut -c1-400
done >"$out/logs.txt"
say "end of $P_PARTS at $SECONDS s"
