# Lane m, GPUs 2 and 3: clips are encoded by the VAE and the speech encoder of nets.npz, the transformer goes on from what is shipped
set -u
source /tmp/env.sh; cd /tmp/src
: "${CLIPS:=512}" "${FIRST:=16}" "${LAST:=23}" "${DRAWERS:=50}" "${UPD:=8}" "${DITFLAGS:=}" "${GUIDE:=1.5}"
: "${FEW_END:=1150}" "${END:=1648}" "${G2:=2}" "${G3:=3}" "${G23:=2,3}" "${W:=/tmp/W}"
mkdir -p $W/clips $W/features
say() { echo "m $(at): $*"; }
draw() { for part in $(seq $FIRST $LAST); do
  CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu livetalk data procedural --out $W/clips/$part --clips $CLIPS --chunks 5 --seed $part --workers $DRAWERS 2> /tmp/log/draw.log; say "drawn $part"; done; }
list() { l=; for part in $(seq $2 $3); do l=$l${l:+,}$W/$1/$part; done; echo $l; }
await() { for part in $(seq $1 $2); do while [ ! -f $W/clips/$part/clips.json ]; do sleep 1; done; done; }
minutes() { python3 -c "import sys; print(max(($1 - $(at)) / 60, 0.3))"; }
draw &
python3 .carry/base.py .carry/nets.npz $W/base
await $FIRST $LAST
say "encode begins"
jobs=; for part in $(seq $FIRST $LAST); do
  gpu=$G2; [ $((part % 2)) = 1 ] && gpu=$G3
  CUDA_VISIBLE_DEVICES=$gpu XLA_PYTHON_CLIENT_MEM_FRACTION=.2 livetalk data encode --config few_steps_tiny --checkpoint $W/base --clips $W/clips/$part --out $W/features > /tmp/log/encode_$part.log 2>&1 & jobs="$jobs $!"
done
wait $jobs
say "encoded $(ls $W/features/*/features.json | wc -l)"
now=$(at); N1=$(python3 -c "print(int(($FEW_END - $now - 60) / 0.025 / 8) * 8)")
CUDA_VISIBLE_DEVICES=$G23 python3 train.py --config few_steps_tiny --workdir $W/few --config.checkpoint=$W/base --config.data.path=$(list features $FIRST $LAST) \
  --config.loop.sample_every=0 --config.loop.steps=$((N1 / UPD)) --config.updates=$UPD --config.loop.minutes=$(minutes $FEW_END) --config.loop.seed=4 \
  --config.flow_matching.audio_guidance=$GUIDE --config.student.learning_rate=8e-4 --config.student.decay_steps=$N1 $DITFLAGS > /tmp/log/few.log 2>&1
code=$?; say "few ended $code"
if [ $code != 0 ] && [ $(at) -lt 900 ]; then # one GPU is better than none
  G23=$G2; CUDA_VISIBLE_DEVICES=$G23 python3 train.py --config few_steps_tiny --workdir $W/few1 --config.checkpoint=$W/base --config.data.path=$(list features $FIRST $LAST) \
    --config.loop.sample_every=0 --config.loop.steps=$((N1 / UPD)) --config.updates=$UPD --config.loop.minutes=$(minutes $FEW_END) --config.loop.seed=4 \
    --config.flow_matching.audio_guidance=$GUIDE --config.student.learning_rate=8e-4 --config.student.decay_steps=$N1 $DITFLAGS > /tmp/log/few1.log 2>&1
  say "few on one GPU ended $?"; rm -rf $W/few; mv $W/few1 $W/few
fi
now=$(at); N2=$(python3 -c "print(int(($END - $now - 70) / 0.055 / 8) * 8)")
CUDA_VISIBLE_DEVICES=$G23 python3 train.py --config pictures_tiny --workdir $W/pictures --config.checkpoint=$W/few/student --config.data.path=$(list features $FIRST $LAST) \
  --config.loop.sample_every=0 --config.loop.steps=$((N2 / UPD)) --config.updates=$UPD --config.loop.minutes=$(minutes $END) --config.loop.seed=5 \
  --config.flow_matching.audio_guidance=$GUIDE --config.student.decay_steps=$N2 $DITFLAGS > /tmp/log/pictures.log 2>&1
say "pictures ended $?"
