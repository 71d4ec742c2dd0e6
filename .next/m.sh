# The small model's parts, sourced by lane.sh: clips are drawn and encoded anew, the transformer goes on from what is shipped
: "${CLIPS:=512}" "${FIRST:=31}" "${LAST:=38}" "${DRAWERS:=28}" "${UPD:=8}" "${GUIDE:=1.5}" "${W:=/tmp/W}"
TINY=/tmp/src/livetalk_jax/checkpoints/tiny
mkdir -p $W/clips $W/features
say() { echo "lane $(at): $*"; }
draw() { for part in $(seq $FIRST $LAST); do
  CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu nice -n 19 python3 -c 'from livetalk_jax.cli import main; main()' data procedural --out $W/clips/$part --clips $CLIPS --chunks 5 --seed $part --workers $DRAWERS > /tmp/log/draw.log 2>&1; say "drawn $part"; done; }
list() { l=; for part in $(seq $FIRST $LAST); do [ -f $W/features/$part/features.json ] && l=$l${l:+,}$W/features/$part; done; echo $l; }
await() { while [ ! -f $W/clips/$LAST/clips.json ]; do sleep 1; done; }
minutes() { python3 -c "print(max(($1 - $(at)) / 60, 0.3))"; }
encode() {
  await; say "encode begins"
  jobs=; for part in $(seq $FIRST $LAST); do
    CUDA_VISIBLE_DEVICES=$((part % 2)) XLA_PYTHON_CLIENT_MEM_FRACTION=.2 livetalk data encode --config few_steps_tiny --checkpoint $TINY --clips $W/clips/$part --out $W/features > /tmp/log/encode_$part.log 2>&1 & jobs="$jobs $!"
  done
  wait $jobs; say "encoded $(list)"
}
few() { # GPU NAME SAMPLED SECONDS_AN_UPDATE END
  N=$(python3 -c "print(int(($5 - $(at) - 60) / $4 / 8) * 8)"); say "few_$2 begins, $N updates"
  CUDA_VISIBLE_DEVICES=$1 python3 train.py --config few_steps_tiny --workdir $W/few_$2 --config.checkpoint=$TINY --config.data.path=$(list) \
    --config.loop.sample_every=0 --config.loop.steps=$((N / UPD)) --config.updates=$UPD --config.loop.minutes=$(minutes $5) --config.loop.seed=6 \
    --config.flow_matching.audio_guidance=$GUIDE --config.flow_matching.sampled=$3 --config.student.learning_rate=6e-4 --config.student.decay_steps=$N \
    > /tmp/log/few_$2.log 2>&1
  say "few_$2 ended $?"
}
pictures() { # GPU NAME SAMPLED SECONDS_AN_UPDATE END
  N=$(python3 -c "print(int(($5 - $(at) - 75) / $4 / 8) * 8)"); say "pictures_$2 begins, $N updates"
  CUDA_VISIBLE_DEVICES=$1 python3 train.py --config pictures_tiny --workdir $W/pictures_$2 --config.checkpoint=$W/few_$2/student --config.data.path=$(list) \
    --config.loop.sample_every=0 --config.loop.steps=$((N / UPD)) --config.updates=$UPD --config.loop.minutes=$(minutes $5) --config.loop.seed=7 \
    --config.flow_matching.audio_guidance=$GUIDE --config.flow_matching.sampled=$3 --config.student.decay_steps=$N > /tmp/log/pictures_$2.log 2>&1
  say "pictures_$2 ended $?"
}
