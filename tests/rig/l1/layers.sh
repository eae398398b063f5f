#!/bin/bash
# layers.sh COUNT... - in L1: how long a machine of so many layers takes to be created and to start, and whether it has
# all of them.
set -uo pipefail
# shellcheck source=tests/rig/l1/machines.sh
. tools/machines.sh
mkdir -p out
for count in "$@"; do
    machine=layers-$count
    start "$machine" --from "$machine.smolmachine"
    # shellcheck disable=SC2012 # names of our own
    check "$machine: its layers" "$((count - 1))" "$(inside "$machine" sh -c 'ls /layers 2>/dev/null | wc -l')"
    timed "exec in $machine" inside "$machine" true
    timed "stop $machine" smolvm machine stop --name "$machine" > /dev/null
done
[ "$failures" = 0 ]
