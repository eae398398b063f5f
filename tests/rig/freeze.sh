#!/bin/bash
# Real machines, frozen and compared: makes three test machines' artifacts, boots L1, and runs l1/check.sh in it.
#
#   tests/rig/freeze.sh [--layers "1 30 100"] [SMOLFREEZE]
#   tests/rig/freeze.sh --packed SMOLFREEZE
#   tests/rig/freeze.sh --fleet SMOLFREEZE
#
# SMOLFREEZE is an x86_64 executable for Debian 12 (target/debug/smolfreeze of such a host). Without it the machines are
# made, started and looked at, but not frozen. --layers only measures how long an image of so many layers takes to start.
# --packed has the real smolvm pack what is frozen, and looks at a machine of that. --fleet has a fleet of two machines through
# three nights, a drill, and systemd (l1/fleet.sh).
# As root; needs what build.sh built. Results are in $RIG_OUT (default: a folder that is removed).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
rig=${SMOLFREEZE_RIG:-${XDG_CACHE_HOME:-$HOME/.cache}/smolfreeze-rig}
layers=
if [ "${1:-}" = --layers ]; then layers=$2; shift 2; fi
script=check.sh
if [ "${1:-}" = --packed ]; then script=packed.sh; shift; fi
if [ "${1:-}" = --fleet ]; then script=fleet.sh; shift; fi
smolfreeze=${1:-}

"$here/build.sh"
share=$(mktemp -d)
trap 'rm -rf "$share"' EXIT

cd "$here/../.."
cargo build -q --example make_machine
make_machine=${CARGO_TARGET_DIR:-target}/debug/examples/make_machine
artifact() { # NAME ROOT OPTIONS...
    "$make_machine" --agent-rootfs "$rig/smolvm/agent-rootfs.tar.zst" --smolvm-version 1.32.2 \
        --root "$rig/roots/$2.tar" "$share/$1.smolmachine" "${@:3}"
}

cp -r "$here/l1" "$share/tools"
if [ -n "$layers" ]; then
    for count in $layers; do artifact "layers-$count" busybox --layers "$count"; done
    "$here/run.sh" "$share" "bash tools/layers.sh $layers"
    exit
fi

if [ $script = packed.sh ]; then
    cp "$rig/roots/busybox.tar" "$share/root.tar"
else
    mkdir "$share/seed"
    echo 'from before the first start' > "$share/seed/notes"
    chown 1000:1000 "$share/seed/notes" && chmod 640 "$share/seed/notes"
    artifact debian debian --user 1000 --workdir /home/worker --env 'GREETING=hello, world' --workspace "$share/seed"
fi
if [ $script = check.sh ]; then
    artifact busybox busybox --layers 3
    [ -z "$smolfreeze" ] || "$here/stacked.sh" "$rig/roots/busybox.tar" "$share"
fi
if [ -n "$smolfreeze" ]; then
    # Without names of functions, which would cross the emulated link at every freeze.
    install -s -m 755 "$smolfreeze" "$share/smolfreeze"
    # It is looked for beside it.
    reader=$(dirname "$smolfreeze")/smolfreeze-guest
    if [ -x "$reader" ]; then install -s -m 755 "$reader" "$share/smolfreeze-guest"; fi
    # For guests without its C library, the one of the README.
    cargo rustc -q --locked --release --bin smolfreeze-guest -- -C target-feature=+crt-static
    install -m 755 "${CARGO_TARGET_DIR:-target}/release/smolfreeze-guest" "$share/smolfreeze-guest-static"
fi

code=0
"$here/run.sh" "$share" "bash tools/$script" || code=$?
if [ -n "${RIG_OUT:-}" ]; then mkdir -p "$RIG_OUT" && cp -r "$share/out/." "$RIG_OUT/"; fi
exit "$code"
