# Two things on two GPUs: all of tools/train_small.sh in a third of its time, from nothing (GPU 0); a transformer of twice the depth,
# grown from what is shipped (GPU 1)
set -u
source /tmp/env.sh; cd /tmp/src
: "${W:=/tmp/W}" "${DRAWERS:=26}" "${CLIPS:=512}" "${PARTS:=4}" "${END:=1660}" "${FLAGS:=}"
TINY=/tmp/src/livetalk_jax/checkpoints/tiny
say() { echo "lane $(at): $*"; }
minutes() { python3 -c "print(max(($1 - $(at)) / 60, 0.3))"; }
updates() { python3 -c "print(max(int(($1 - $(at) - $2) / $3 / 8) * 8, 8))"; }
mkdir -p $W/features
say begins
whole() {
  CUDA_VISIBLE_DEVICES=0 PARTS=$PARTS CLIPS=$CLIPS WORKERS=$DRAWERS VAE_MINUTES=3 AUDIO_MINUTES=1.5 DECODER_MINUTES=2 STAGE1_MINUTES=6 FEW_STEPS_MINUTES=1.8 \
    PICTURES_MINUTES=2 STAGE2_MINUTES=1.5 PYTHON=python3 FLAGS="$FLAGS" sh tools/train_small.sh $W/small draw vae audio encode decoder stage1 few_steps pictures stage2 > /tmp/log/whole.log 2>&1
  say "whole ended $?"; cat $W/small/times.txt; python3 tools/pack_small_model.py --from $W/small --to $W/small/tiny; say "packed $?"
}
whole &
for part in $(seq 0 $((PARTS - 1))); do
  ( while [ ! -f $W/small/clips/$part/clips.json ]; do sleep 1; done
    CUDA_VISIBLE_DEVICES=1 XLA_PYTHON_CLIENT_MEM_FRACTION=.2 livetalk data encode --config few_steps_tiny --checkpoint $TINY --clips $W/small/clips/$part --out $W/features > /tmp/log/encode_$part.log 2>&1; say "encoded $part: $?" ) &
done
python3 .carry/grow.py $TINY $W/grown 2
while [ $(ls $W/features/*/features.json 2> /dev/null | wc -l) -lt $PARTS ]; do sleep 1; done
paths=$(ls -d $W/features/* | paste -sd,)
DEEP="--config.model.dit.num_layers=12 --config.loop.sample_every=0 --config.data.path=$paths"
N=$(updates ${HALF:-900} 75 0.076); say "deep few_steps begins, $N updates"
CUDA_VISIBLE_DEVICES=1 python3 train.py --config few_steps_tiny --workdir $W/few --config.checkpoint=$W/grown $DEEP --config.loop.steps=$((N / 8)) --config.loop.minutes=$(minutes ${HALF:-900}) \
  --config.loop.seed=10 --config.student.learning_rate=6e-4 --config.student.decay_steps=$N $FLAGS > /tmp/log/few.log 2>&1; say "few ended $?"
N=$(updates $END 90 0.17); say "deep pictures begins, $N updates"
CUDA_VISIBLE_DEVICES=1 python3 train.py --config pictures_tiny --workdir $W/pictures --config.checkpoint=$W/few/student $DEEP --config.loop.steps=$((N / 8)) --config.loop.minutes=$(minutes $END) \
  --config.loop.seed=11 --config.student.decay_steps=$N $FLAGS > /tmp/log/pictures.log 2>&1; say "pictures ended $?"
wait
say "all ended"
