#!/bin/sh
# Train the model that is shipped: everything from nothing, on one GPU in some 75 minutes by estimate, by parts that can be done apart.
#
#     sh tools/train_small.sh out/small                       all parts
#     sh tools/train_small.sh out/small draw vae audio        some of them, in this order
#
# Parts: draw, vae, audio, encode, decoder, stage1, few_steps, pictures, stage2, check, pack; pictures is what is packed, stage2 is there
# to be compared with. A part that is done is passed over; one that was cut off goes on from its last checkpoint. `draw` works in the
# background: `vae` waits for the first two folders of clips, what follows for all of them.
# Settings, by environment: PARTS folders of CLIPS clips each; WORKERS processes that draw; minutes of training VAE_MINUTES,
# AUDIO_MINUTES, DECODER_MINUTES, STAGE1_MINUTES, FEW_STEPS_MINUTES, PICTURES_MINUTES, STAGE2_MINUTES; FLAGS for every training, such as
# --config.runtime.dtype=float32 on a CPU.
set -eu
W=${1:?give a folder}; shift
WORDS=${*:-draw vae audio encode decoder stage1 few_steps pictures stage2 check pack}
: "${PARTS:=16}" "${CLIPS:=512}" "${WORKERS:=15}" "${PYTHON:=python3}" "${FLAGS:=}"
: "${VAE_MINUTES:=6}" "${AUDIO_MINUTES:=4}" "${DECODER_MINUTES:=9}" "${STAGE1_MINUTES:=26}" "${FEW_STEPS_MINUTES:=7}" "${PICTURES_MINUTES:=10}"
: "${STAGE2_MINUTES:=6.3}"
mkdir -p "$W/clips" "$W/features"
last=$((PARTS - 1))
livetalk() { "$PYTHON" -c 'from livetalk_jax.cli import main; main()' "$@"; }

draw() {
    for part in $(seq 0 $last); do
        [ -f "$W/clips/$part/clips.json" ] ||
            livetalk data procedural --out "$W/clips/$part" --clips "$CLIPS" --chunks 5 --seed "$part" --workers "$WORKERS" 2> "$W/draw.log"
    done
}

# Folders of clips or features, 0 to $2, separated by commas, when all are there.
folders() {
    list=
    for part in $(seq 0 "$2"); do
        while [ ! -f "$W/clips/$part/clips.json" ]; do
            kill -0 "${drawing:-none}" 2> /dev/null || { echo "$W/clips/$part is not drawn, and nobody draws" >&2; exit 1; }
            sleep 1
        done
        list=$list${list:+,}$W/$1/$part
    done
    echo "$list"
}

# train NAME CONFIG MINUTES DATA [CHECKPOINT [FLAG…]]
train() {
    name=$1 config=$2 minutes=$3 data=$4 from=${5:-}
    shift $(($# < 5 ? $# : 5))
    [ ! -f "$W/$name/student/livetalk.json" ] || { echo "$name is done"; return 0; }
    begun=$(date +%s)
    # shellcheck disable=SC2086
    "$PYTHON" train.py --config "$config" --workdir "$W/$name" --config.loop.minutes="$minutes" --config.data.path="$data" \
        ${from:+--config.checkpoint=$from} "$@" $FLAGS
    note "$name" "$begun"
}

note() {
    echo "$1 $(($(date +%s) - $2)) $(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null || uname -m)" >> "$W/times.txt"
}

check() { "$PYTHON" tools/check_small_model.py --out "$W/results.json" "$@"; }

for word in $WORDS; do
    case $word in
        draw) draw & drawing=$! ;;
        vae) # rates that fall to 0, here and below, bring what many more updates at one rate do not (docs/small_model.md)
            paths=$(folders clips $((PARTS > 1 ? 1 : 0)))
            train vae vae_tiny "$VAE_MINUTES" "$paths" "" --config.optimizer.decay_steps=12000 --config.loop.steps=1500 ;;
        audio)
            paths=$(folders clips $last)
            train audio audio_tiny "$AUDIO_MINUTES" "$paths" "$W/vae/student" --config.optimizer.decay_steps=8000 --config.loop.steps=1000 ;;
        encode)
            paths=$(folders clips $last)
            begun=$(date +%s)
            # shellcheck disable=SC2086
            livetalk data encode --config stage1_tiny --checkpoint "$W/audio/student" --clips "$paths" --out "$W/features" $FLAGS
            note encode "$begun" ;;
        decoder)
            train decoder vae_tiny "$DECODER_MINUTES" "$(folders clips $last)" "$W/audio/student" --config.autoencoding.decoder_alone=True \
                --config.optimizer.learning_rate=1e-3 --config.optimizer.decay_steps=20000 --config.loop.steps=2500 ;;
        stage1) train stage1 stage1_tiny "$STAGE1_MINUTES" "$(folders features $last)" "$W/decoder/student" ;;
        few_steps) train few_steps few_steps_tiny "$FEW_STEPS_MINUTES" "$(folders features $last)" "$W/stage1/student" ;;
        pictures) train pictures pictures_tiny "$PICTURES_MINUTES" "$(folders features $last)" "$W/few_steps/student" ;;
        stage2) train stage2 stage2_tiny "$STAGE2_MINUTES" "$(folders features $last)" "$W/stage1/student" ;;
        check)
            check --what vae,audio --checkpoint "$W/decoder/student"
            check --what talk --name tiny_2_steps --checkpoint "$W/pictures/student"
            check --what talk --name tiny_4_steps --checkpoint "$W/pictures/student" --config.sampler.steps=4
            check --what talk --name stage2 --checkpoint "$W/stage2/student" --config.sampler.steps=4
            check --what talk --name teacher --config stage1_tiny --checkpoint "$W/stage1/student" ;;
        pack) "$PYTHON" tools/pack_small_model.py --from "$W" ;;
        *) echo "there is no part $word" >&2; exit 2 ;;
    esac
done
wait
