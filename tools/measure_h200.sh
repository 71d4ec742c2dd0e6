#!/usr/bin/env bash
# Checks and times everything of docs/performance.md on one H200 in under nine minutes, and leaves JSON files in $OUT:
#
#     bash tools/measure_h200.sh
#
# Needs a Python with JAX for CUDA, PyTorch, pytest and this project's needs; wheels in .whl are used for what is missing. Every part
# ends at its limit and the others go on, the most important first. Nothing of the GPU's settings is touched.
set -u
out=$(mkdir -p "${OUT:-out}" && realpath "${OUT:-out}")
python=${PYTHON:-python3}
end=$((SECONDS + ${BUDGET:-540}))

# The package as an installation lays it out, and everything runs there: beside the checkout's folder of that name it would not be found.
site=$(mktemp -d)
cp -r livetalk_jax tests pyproject.toml "$site" && cp -r kernels configs conversion "$site/livetalk_jax"
if ls .whl/*.whl >/dev/null 2>&1; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl
fi
trap 'rm -rf "$site"' EXIT
cd "$site" || exit
export PYTHONUNBUFFERED=1 JAX_COMPILATION_CACHE_DIR=$site/programs
livetalk() { "$python" -c 'from livetalk_jax.cli import main; main()' "$@"; }
export -f livetalk
export python

# part NAME SECONDS COMMAND…
part() {
    local name=$1 limit=$2 left=$((end - SECONDS))
    shift 2
    ((left < limit)) && limit=$left
    if ((limit < 20)); then
        echo "== $name: no time left"
        return
    fi
    echo "== $name (at most $limit s, $left s left)"
    timeout --kill-after=5 "$limit" bash -c '"$@" 2>&1' part "$@" | tee "$out/$name.log" | tail -n "${LINES_SHOWN:-40}"
}

model=(--config soulx_14b --config.model.tokenizer=bytes)
eight=(--config.runtime.linear=fp8 --config.runtime.attention=mosaic_fp8)

nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.draw,temperature.gpu --format=csv || true
# Tests share the GPU, so none may take all of its memory.
XLA_PYTHON_CLIENT_PREALLOCATE=false part tests 115 "$python" -m pytest -q -m gpu tests/kernels -p no:cacheprovider -n 12 --timeout 100
part latency_fp8 250 livetalk bench latency "${model[@]}" "${eight[@]}" --steps 2 --repeats 2 --out "$out/latency_fp8.json"
part kernels_dit 135 livetalk bench kernels "${model[@]}" --sections dit --budget 125 --out "$out"
part kernels_attention 60 livetalk bench kernels "${model[@]}" --sections attention --budget 55 --out "$out"
part kernels_norm_rope 25 livetalk bench kernels "${model[@]}" --sections norm_rope --budget 20 --out "$out"
part latency_bf16 200 livetalk bench latency "${model[@]}" --repeats 3 --out "$out/latency_bf16.json"

# One file for all logs: few come back.
(cd "$out" && tail -n +1 tests.log latency_*.log kernels_*.log >logs.txt 2>/dev/null && rm -f ./*.log)
ls -l "$out"
