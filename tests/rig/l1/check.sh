#!/bin/bash
# In L1: starts the three machines, checks that they are what was asked for, and, with ./smolfreeze there, freezes each
# to the registry, three times with changes between, and compares each image entry by entry with what the guest says of
# itself. Then the images are thawed, and the new machines compared with the images.
set -uo pipefail
# shellcheck source=tests/rig/l1/machines.sh
. tools/machines.sh

look_at_machines() {
    check 'bare: runs as root' 0 "$(inside bare id -u)"
    # shellcheck disable=SC2016 # the guest's own command
    check 'debian: the user' 1000:1000 "$(inside debian sh -c 'echo "$(id -u):$(id -g)"')"
    check 'debian: the working directory' /home/worker "$(inside debian pwd)"
    # shellcheck disable=SC2016 # the guest's variable
    check 'debian: the environment' 'hello, world' "$(inside debian sh -c 'echo "$GREETING"')"
    check 'debian: the seed of /workspace' 'from before the first start' "$(inside debian cat /workspace/notes)"
    check 'debian: its owner and mode' '1000:1000 640' "$(as_root debian stat -c '%u:%g %a' /workspace/notes)"
    check 'debian: /data is a folder of the storage disk' ext4 "$(as_root debian stat -f -c %T /data | sed s,ext2/ext3,ext4,)"
    check 'debian: a hard link' 2 "$(as_root debian stat -c %h /home/worker/project/private)"
    check 'busybox: the user' 0 "$(inside busybox id -u)"
    check 'busybox: three layers' 'layer 1 layer 2' "$(inside busybox cat /layers/1 /layers/2 | xargs)"
    check 'busybox: a file of the first layer' linked "$(inside busybox cat /srv/data/two)"
}

freeze_and_compare() {
    local machine=$1 image=127.0.0.1:5000/frozen/$1:latest reader=()
    # The others have no C library that the one beside smolfreeze could run with.
    [ "$machine" = debian ] || reader=(--guest-reader ./smolfreeze-guest-static)
    timed "freeze $machine" patiently "$machine.freeze" \
        ./smolfreeze freeze "$machine" --to "$image" --to "oci:/srv/layout:$machine" --report "out/$machine.report" "${reader[@]}"
    tail -n 3 "out/$machine.freeze.log"
    check "$machine: our own reader reads" 1 "$(grep -c '"own_reader": true' "out/$machine.report")"
    timed "verify $machine" ./smolfreeze verify "$image"
    compare_image "$machine" "$image"
    check_nothing_left "$machine"
}

# A second and a third night of a machine, of which only what changed is read: the same is to be in its image.
further_nights() {
    local machine=$1 night
    for night in 2 3; do
        change_for_night "$machine" "$night"
        sleep 3
        list_machine "$machine"
        freeze_and_compare "$machine"
        check "$machine: night $night reads what has changed" yes "$(python3 tools/kept.py "out/$machine.report")"
        grep -E '^(night|link)' "out/$machine.freeze.log"
    done
}

# thaw_and_compare MACHINE FROM NEW COMPARE-OPTIONS... - its image has been unpacked and listed
thaw_and_compare() {
    local machine=$1 new=$3 code=0
    timed "thaw $new" patiently "$new" ./smolfreeze thaw "$2" --name "$new" --cpus 1 --memory 512MiB --quiet "${kept[@]}"
    cat "out/$new.log"
    check "$new: the user" "$(inside "$machine" id -u)" "$(inside "$new" id -u)"
    timed "list $new" list_guest "$new" "out/$new.guest"
    # smolvm loses capabilities of an artifact's layers, and writes into these by itself.
    python3 tools/compare.py --ignore ./home/worker/project/capable --ignore ./etc/hosts --ignore-time ./etc/resolv.conf \
        --ignore ./workspace/.smolvm-workspace-seeded "${@:4}" "out/$machine.image" "out/$new.guest" \
        > "out/$new.differences" || code=$?
    check "$new: it is what was frozen" 0 "$code"
    head -n 20 "out/$new.differences"
    check "$new: no temporary artifact is left" '' "$(ls "${XDG_CACHE_HOME:-$HOME/.cache}/smolfreeze/thaw")"
    smolvm machine stop --name "$new" > /dev/null 2>&1
    smolvm machine delete --name "$new" --force > /dev/null
}

# An image that others made, with layers that delete and replace: the machine is what umoci unpacks.
thaw_stacked() {
    local code=0
    timed 'thaw stacked' patiently stacked ./smolfreeze thaw oci:stacked:t --name stacked --cpus 1 --memory 512MiB --quiet
    timed 'list stacked' list_guest stacked out/stacked.guest
    # What smolvm makes itself in every machine is not the image's, nor what it mounts; and its /var/tmp has no sticky bit, though
    # the artifact's has.
    python3 tools/compare.py --without-xattrs --ignore ./proc --ignore ./sys --ignore ./var/tmp --ignore ./etc/gai.conf --ignore ./etc/hosts --ignore ./etc/resolv.conf \
        --ignore ./etc --ignore ./storage --ignore ./oldroot --ignore ./workspace --ignore ./workspace/.smolvm-workspace-seeded \
        stacked.image out/stacked.guest > out/stacked.differences || code=$?
    check 'stacked: it is what umoci unpacks' 0 "$code"
    head -n 20 out/stacked.differences
    smolvm machine stop --name stacked > /dev/null 2>&1
    smolvm machine delete --name stacked --force > /dev/null
}

start_registry
start_machines
look_at_machines
for machine in bare debian busybox; do change_machine "$machine"; done
check 'debian: a capability' yes "$(as_root debian getcap /home/worker/project/capable | grep -q net_raw && echo yes)"
for machine in bare debian busybox; do list_machine "$machine"; done
if [ -x ./smolfreeze ]; then
    for nights in freeze_and_compare further_nights; do
        for machine in bare debian busybox; do $nights "$machine"; done
    done
    for machine in bare busybox; do smolvm machine stop --name "$machine" > /dev/null 2>&1; done
    export SMOLVM_AGENT_ROOTFS=/opt/agent-rootfs
    kept=(--keep-artifact /srv/kept.smolmachine)
    thaw_and_compare debian 127.0.0.1:5000/frozen/debian:latest from-registry
    kept=()
    thaw_and_compare debian oci:/srv/layout:debian from-layout
    thaw_and_compare debian /srv/kept.smolmachine from-artifact
    smolvm machine start --name busybox > /dev/null 2>&1
    thaw_and_compare busybox oci:/srv/layout:busybox from-busybox --without-xattrs
    smolvm machine stop --name busybox > /dev/null 2>&1
    thaw_stacked
    smolvm machine start --name bare > /dev/null 2>&1
    # A machine with an image finds these as smolvm made them at its start.
    thaw_and_compare bare 127.0.0.1:5000/frozen/bare:latest from-bare --ignore ./storage --ignore ./oldroot --ignore ./etc \
        --ignore ./etc/gai.conf --ignore ./etc/resolv.conf --ignore ./run --ignore ./tmp
else
    echo 'skip  freeze: no smolfreeze was given'
fi
wc -l out/*.guest
echo "$failures failures"
[ "$failures" = 0 ]
