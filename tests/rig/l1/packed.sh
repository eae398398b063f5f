#!/bin/bash
# In L1: has the real smolvm pack a frozen folder, makes a machine of what it packed, and compares that with the folder.
set -uo pipefail
# shellcheck source=tests/rig/l1/machines.sh
. tools/machines.sh

mkdir -p /srv/root /srv/packed && tar -C /srv/root -xf root.tar
chmod +x tools/one_cpu.sh
sh tools/list.sh /srv/root "${not_captured[@]}" > out/root.guest
left() { ls -A /tmp /var/tmp; }
left > out/left.before
export SMOLVM_BOOT_BINARY=/share/tools/one_cpu.sh
timed 'freeze, packed by smolvm' ./smolfreeze freeze dir:/srv/root --pack /srv/packed/new --pack-with smolvm > out/packed.freeze 2>&1
cat out/packed.freeze
unset SMOLVM_BOOT_BINARY
check 'launcher and sidecar, and nothing else' 'new new.smolmachine' "$(cd /srv/packed && echo *)"
left > out/left.after
check 'nothing left in temporary folders' '' "$(diff out/left.before out/left.after)"
pgrep -af smolvm
# smolvm packs a layer anew: its bytes are not those of its name, so it is the machine that counts and not `verify`.
start new --from /srv/packed/new.smolmachine
timed 'list' list_guest new out/new.guest
code=0
# What smolvm makes itself in every machine is not the folder's.
python3 tools/compare.py --without-xattrs --ignore ./etc/gai.conf --ignore ./etc/hosts --ignore ./etc/resolv.conf --ignore ./proc \
    --ignore ./sys --ignore ./storage --ignore ./workspace out/root.guest out/new.guest > out/new.differences || code=$?
check 'the machine is what was frozen' 0 "$code"
head -n 20 out/new.differences
echo "$failures failures"
[ "$failures" = 0 ]
