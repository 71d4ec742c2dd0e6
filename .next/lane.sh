set -u
source /tmp/env.sh; cd /tmp/src; source .carry/m.sh
say begins
FIRST=31 LAST=34; draw                 # four folders, 160 s by 28 processes
encode                                 # some 40 s
(FIRST=35 LAST=38; draw) &             # four more for the pictures' part, beside the rest
few 0 a 0.5 0.046 $(($(at) + 700)) &   # sampled=0.5
few 1 b 1.0 0.046 $(($(at) + 700)) &   # sampled=1.0
wait
FIRST=35 LAST=38; encode
FIRST=31 LAST=38
pictures 0 a 0.5 0.115 ${END:-1660} &
pictures 1 b 1.0 0.115 ${END:-1660} &
wait
say "all ended"
