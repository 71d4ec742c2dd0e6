# start.sh LANE…: lays everything out, starts lanes in the background
set -u
cd "$(dirname "$0")/.."
[ -f /tmp/T0 ] || date +%s > /tmp/T0
mkdir -p /tmp/site /tmp/log /tmp/results /tmp/src
xz -dc -T8 .carry/site.tar.xz | tar x -C /tmp/site
cp -r livetalk_jax train.py serve.py tools tests pyproject.toml .carry /tmp/src/ 2>/dev/null
cp -r kernels configs conversion /tmp/src/livetalk_jax/
cat > /tmp/env.sh <<'X'
export PYTHONPATH=/tmp/src:/tmp/site/site PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=1
export ESPEAK_NG_LIBRARY=/tmp/site/espeak/libespeak-ng.so.1 ESPEAK_NG_DATA=/tmp/site/espeak LD_LIBRARY_PATH=/tmp/site/espeak:${LD_LIBRARY_PATH:-}
T0=$(cat /tmp/T0)
at() { echo $(($(date +%s) - T0)); }
livetalk() { python3 -c 'from livetalk_jax.cli import main; main()' "$@"; }
X
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; nproc
for lane in "$@"; do setsid bash /tmp/src/.carry/$lane.sh > /tmp/log/$lane.log 2>&1 < /dev/null & done
sleep 1
