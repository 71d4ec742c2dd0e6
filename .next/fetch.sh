# fetch.sh WHAT…: base (VAE and audio), few, pictures (their transformers, in pieces), logs
source /tmp/env.sh
for what in "$@"; do case $what in
  base) tar cz -C /tmp/W/base vae audio livetalk.json > $OUT/base.tgz ;;
  few_*|pictures_*) [ -d /tmp/W/$what/student ] && tar c -C /tmp/W/$what/student dit livetalk.json | split -b 15000000 - $OUT/$what. ;;
  logs) tar cz -C /tmp log results > $OUT/logs.tgz; tail -n 3 /tmp/log/*.log | cut -c1-300 | tail -c 9000 ;;
esac; done; ls -l $OUT; echo "T $(at)"
