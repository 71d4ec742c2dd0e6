# Parts of lane.sh: clips, a teacher with the shipped VAE, its students (tools/ablations.sh with STEPS iterations), and what they are judged by
: "${CLIPS:=512}" "${DRAWERS:=28}" "${W:=/tmp/W}" "${STEPS:=700}" "${LAST_START:=1430}" "${END:=1690}" "${FLAGS:=}" "${SAMPLES:=8}" "${MANY:=32}" "${LONG:=300}"
TINY=/tmp/src/livetalk_jax/checkpoints/tiny
GUIDED="--config.sampler.method=euler --config.sampler.steps=40 --config.sampler.audio_guidance=2.0"
mkdir -p $W/clips $W/features $W/students $W/done $W/judged /tmp/results
say() { echo "lane $(at): $*"; }
draw() { for part in $(seq $FIRST $LAST); do
  CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu nice -n 19 python3 -c 'from livetalk_jax.cli import main; main()' data procedural --out $W/clips/$part --clips $CLIPS --chunks 5 --seed $part --workers $DRAWERS > /tmp/log/draw.log 2>&1; say "drawn $part"; done; }
ready() { [ -f $W/features/$1/features.json ]; }
encode() {
  while [ ! -f $W/clips/$1/clips.json ]; do sleep 1; done
  CUDA_VISIBLE_DEVICES=$(($1 % 2)) XLA_PYTHON_CLIENT_MEM_FRACTION=.2 livetalk data encode --config few_steps_tiny --checkpoint $TINY --clips $W/clips/$1 --out $W/features > /tmp/log/encode_$1.log 2>&1
  say "encoded $1: $?"
}
paths() { for p in $(echo $1 | tr , ' '); do echo $W/features/$p; done | paste -sd,; }
updates() { python3 -c "print(max(int(($1 - $(at) - $2) / $3 / 8) * 8, 8))"; }
minutes() { python3 -c "print(max(($1 - $(at)) / 60, 0.3))"; }
teacher() { # GPU FOLDERS END
  N=$(updates $3 75 0.036); say "teacher begins, $N updates"
  CUDA_VISIBLE_DEVICES=$1 XLA_PYTHON_CLIENT_MEM_FRACTION=.7 python3 train.py --config stage1_tiny --workdir $W/teacher --config.checkpoint=$TINY --config.data.path=$(paths $2) \
    --config.loop.sample_every=0 --config.loop.steps=$((N / 8)) --config.loop.minutes=$(minutes $3) --config.loop.seed=8 \
    --config.student.learning_rate=6e-4 --config.student.warmup_steps=200 --config.student.decay_steps=$N $FLAGS > /tmp/log/teacher.log 2>&1
  say "teacher ended $?"
}
sampled() { # GPU FOLDERS SHARE END
  N=$(updates $4 90 0.115); say "sampled begins, $N updates"
  CUDA_VISIBLE_DEVICES=$1 XLA_PYTHON_CLIENT_MEM_FRACTION=.7 python3 train.py --config pictures_tiny --workdir $W/sampled --config.checkpoint=$TINY --config.data.path=$(paths $2) \
    --config.loop.sample_every=0 --config.loop.steps=$((N / 8)) --config.loop.minutes=$(minutes $4) --config.loop.seed=9 \
    --config.flow_matching.sampled=$3 --config.student.decay_steps=$N $FLAGS > /tmp/log/sampled.log 2>&1
  say "sampled ended $?"
}
take() { ( flock 9; head -n 1 $1; sed -i 1d $1 ) 9> $W/lock; }
student() { # GPU NAME SEED, as tools/ablations.sh
  matching=--config.distribution_matching predicted=--config.distribution_matching.motion_latents=predicted
  case $2 in
    k?) given="$predicted --config.data.chunks=${2#k} $matching.rollout=fixed" ;;
    random) given=$predicted ;;
    ground_truth) given= ;;
    noised) given="$predicted $matching.motion_noise=same_t" ;;
    motion_loss) given="$predicted $matching.motion_in_loss=True" ;;
  esac
  begun=$(date +%s); say "$2-$3 begins on $1"
  CUDA_VISIBLE_DEVICES=$1 XLA_PYTHON_CLIENT_MEM_FRACTION=.35 python3 train.py --config stage2_tiny --workdir $W/students/$2-$3 --config.checkpoint=$W/teacher/student \
    --config.data.path=$(paths 31,32,33,34) --config.loop.steps=$STEPS --config.loop.seed=$3 --config.loop.sample_every=0 --config.loop.save_every=100000 \
    --config.loop.minutes=$(minutes 1640) $given $FLAGS > /tmp/log/$2-$3.log 2>&1
  say "$2-$3 ended $? after $(($(date +%s) - begun))"
  [ -f $W/students/$2-$3/student/livetalk.json ] && echo "$2-$3 $1" >> $W/finished
}
worker() { while [ $(at) -lt $LAST_START ]; do line=$(take $W/queue); [ -n "$line" ] || break; student $1 $line; done; say "a worker of $1 is done"; }
judge() { # NAME CHECKPOINT GPU SAMPLES SECONDS FLAGS…: $OUT of it is /tmp/results/NAME
  name=$1 from=$2 gpu=$3 samples=$4 long=$5; shift 5
  begun=$(date +%s)
  for kind in short long; do
    case $kind in short) bench="--bench procedural --samples $samples" ;; long) [ $long -gt 0 ] || continue; bench="--bench procedural-long --samples 1 --seconds $long" ;; esac
    CUDA_VISIBLE_DEVICES=$gpu XLA_PYTHON_CLIENT_PREALLOCATE=false OMP_NUM_THREADS=3 OPENBLAS_NUM_THREADS=3 nice -n 5 python3 -c 'from livetalk_jax.cli import main; main()' evaluate \
      $bench --config tiny --checkpoint $from --name $name --out $W/judged/$name-$kind "$@" > /tmp/log/judge-$name-$kind.log 2>&1
    say "judged $name $kind: $? after $(($(date +%s) - begun))"
    mkdir -p /tmp/results/$name-$kind; cp -r $W/judged/$name-$kind/*.json $W/judged/$name-$kind/samples $W/judged/$name-$kind/sheets /tmp/results/$name-$kind/ 2>/dev/null
  done
}
judges() { touch $W/finished; while [ $(at) -lt $END ]; do
  line=$(take $W/finished); if [ -z "$line" ]; then [ $(at) -gt $((LAST_START + 200)) ] && break; sleep 2; continue; fi
  set -- $line; judge $1 $W/students/$1/student $2 $SAMPLES $LONG --config.sampler.steps=4; done; }
left() { # packs students that were not judged, for fetch.sh
  mkdir -p $W/packed; while read -r line; do name=${line% *}; CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu python3 /tmp/src/.carry/pack.py $W/students/$name/student $W/packed/$name; done < $W/finished; }
