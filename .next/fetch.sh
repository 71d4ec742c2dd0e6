# fetch.sh WHAT…: few, pictures (the deep transformers), small (the checkpoint that `pack` made), logs
source /tmp/env.sh
for what in "$@"; do case $what in
  logs) tar cz -C /tmp log > $OUT/logs.tgz; cp /tmp/W/small/times.txt $OUT/ 2> /dev/null; grep -h lane /tmp/log/lane.log | tail -n 30; tail -n 2 /tmp/log/whole.log | cut -c1-300 ;;
  small) tar c -C /tmp/W/small tiny | split -b 15000000 - $OUT/small. ;;
  *) [ -d /tmp/W/$what/student ] && tar c -C /tmp/W/$what/student dit livetalk.json | split -b 15000000 - $OUT/$what. ;;
esac; done; ls -l $OUT; echo "T $(at)"
