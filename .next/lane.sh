set -u
source /tmp/env.sh; cd /tmp/src; source .carry/m.sh
p() { P_PARTS=$1 P_END=$2 bash .carry/p.sh; }
say begins
draw &
p wide_and_stage_2_one 330   # took 204 s with the small model's drawing beside it
p stage_2 575                # 234 s
encode                       # 52 s, seven folders
p stage_1_two 330            # did not compile within 131 s
few 0,1 0.0335 $(python3 -c "print(int($(at) + (${END:-1660} - $(at)) * 0.5))")   # seconds an update as two H200s had them
pictures 0,1 0.066 ${END:-1660}
