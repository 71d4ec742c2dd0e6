#!/bin/sh
# The paper's tables 2 and 3 with the small model: stage 2 again and again from one teacher, measured alike.
#
#     sh tools/ablations.sh out/small out/ablations k1 k3 k5 random ground_truth noised motion_loss
#
# The first folder is that of tools/train_small.sh, with its features and stage 1. By environment: STEPS of each run, SEEDS, LONG
# seconds of the long videos, FLAGS for training. A run that is done is passed over. times.txt has seconds of training, short/NAME-SEED
# and long/NAME-SEED what `livetalk evaluate` found, as in docs/ablations.md; `livetalk evaluate compare` tells two apart.
# Table 2: k1, k3, k5, random. Table 3, all with random k: the real score sees the clip's own motion latents (ground_truth, as
# stage2_tiny has it), or the student's with noise as the rest has (noised: the paper's choice), or they are compared too (motion_loss).
set -eu
W=${1:?give the folder of tools/train_small.sh}; OUT=${2:?give a folder for the results}; shift 2
: "${STEPS:=1000}" "${SEEDS:=0 1 2}" "${LONG:=300}" "${PYTHON:=python3}" "${FLAGS:=}"
mkdir -p "$OUT"

# judge FOLDER FLAG…
judge() {
    folder=$OUT/$1/$name-$seed
    shift
    [ -f "$folder/report.html" ] || "$PYTHON" -c 'from livetalk_jax.cli import main; main()' evaluate --config tiny --config.sampler.steps=4 \
        --checkpoint "$run/student" --name "$name-$seed" --out "$folder" "$@"
}

features=$(echo "$W"/features/* | tr ' ' ,)
for name in ${*:-k1 k3 k5 random ground_truth noised motion_loss}; do
    matching=--config.distribution_matching predicted=--config.distribution_matching.motion_latents=predicted
    case $name in
        k?) given="$predicted --config.data.chunks=${name#k} $matching.rollout=fixed" ;;
        random) given=$predicted ;;
        ground_truth) given= ;;
        noised) given="$predicted $matching.motion_noise=same_t" ;;
        motion_loss) given="$predicted $matching.motion_in_loss=True" ;;
        *) echo "there is no ablation $name" >&2; exit 2 ;;
    esac
    for seed in $SEEDS; do
        run=$OUT/$name-$seed
        if [ ! -f "$run/student/livetalk.json" ]; then
            begun=$(date +%s)
            # shellcheck disable=SC2086
            "$PYTHON" train.py --config stage2_tiny --workdir "$run" --config.checkpoint="$W/stage1/student" \
                --config.data.path="$features" --config.loop.steps="$STEPS" --config.loop.seed="$seed" --config.loop.sample_every=0 \
                $given $FLAGS
            echo "$name-$seed $(($(date +%s) - begun))" >> "$OUT/times.txt"
        fi
        judge short --bench procedural --samples 8
        judge long --bench procedural-long --samples 1 --seconds "$LONG"
    done
done
