#!/bin/bash
# Boots L1 from what build.sh built, runs one command in it, ends it.
#
#   tests/rig/run.sh FOLDER COMMAND...
#
# FOLDER is at /share in L1; COMMAND runs there with `bash -c`, as root, with smolvm on the PATH. What it leaves in
# /share/out comes back to FOLDER/out. L1's disk is thrown away. Exit code: COMMAND's; 124 when RIG_TIMEOUT seconds
# passed (default 1800), 125 when L1 did not come up. RIG_KEEP_LOG=FILE keeps the console.
#
# One virtual CPU and one emulation thread, and machines with --cpus 1: with several, nested guests die at random.
set -uo pipefail

[ $# -ge 2 ] || { echo "usage: $0 FOLDER COMMAND..." >&2; exit 2; }
rig=${SMOLFREEZE_RIG:-${XDG_CACHE_HOME:-$HOME/.cache}/smolfreeze-rig}
[ -e "$rig/built" ] || { echo "run.sh: no rig in $rig: run build.sh first" >&2; exit 125; }
share=$(cd "$1" && pwd) || exit 2
shift

work=$(mktemp -d)
emulator=
# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    [ -n "$emulator" ] && kill "$emulator" 2> /dev/null
    wait 2> /dev/null
    [ -n "${RIG_KEEP_LOG:-}" ] && cp "$work/console" "$RIG_KEEP_LOG"
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

boot() {
    # The snapshot of the disk lies in TMPDIR; QEMU's modules are those of its own folder, not of the host.
    TMPDIR=$work QEMU_MODULE_DIR=$work nice -n 10 "$rig/qemu/usr/bin/qemu-system-x86_64" \
        -L "$rig/qemu/usr/share/qemu" -L "$rig/qemu/usr/share/seabios" -L /usr/share/qemu -L /usr/lib/ipxe/qemu \
        -accel tcg,thread=single,tb-size=1024 -machine q35 -cpu EPYC,+svm,+npt -smp 1 -m "${RIG_MEMORY:-8G}" \
        -kernel "$rig/vmlinuz" -initrd "$rig/initrd" \
        -append "console=ttyS0 root=/dev/vda rw mitigations=off nokaslr init=/sbin/l1-init tsc=reliable no_timer_check panic=5" \
        -drive "file=$rig/l1.img,format=raw,if=virtio,cache=unsafe,snapshot=on" \
        -drive "file=$work/share.tar,format=raw,if=virtio,readonly=on" \
        -nic "user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" \
        -object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r \
        -nographic -no-reboot -serial "file:$work/console" -monitor none > "$work/qemu" 2>&1 < /dev/null &
    emulator=$!
}

up() { grep -q 'Server listening' "$work/console" 2> /dev/null; }

l1() {
    ssh -q -i "$rig/key" -p "$port" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o ConnectTimeout=20 -o ServerAliveInterval=60 root@127.0.0.1 "$@"
}

mkdir -p "$share/out"
tar -C "$share" --exclude=./out -cf "$work/share.tar" .
truncate -s %512 "$work/share.tar"
port=$(free_port)
boot
for _ in $(seq 240); do
    up && break
    kill -0 "$emulator" 2> /dev/null || break
    sleep 0.5
done
if ! up; then
    { grep -v warning "$work/qemu"; tail -n 20 "$work/console"; echo "run.sh: L1 did not come up"; } >&2
    exit 125
fi
printf 'mkdir -p /share/out\n%s\n' "$*" > "$work/command"
l1 'cat > /run/command' < "$work/command" || exit 125
timeout "${RIG_TIMEOUT:-1800}" ssh -q -i "$rig/key" -p "$port" -o StrictHostKeyChecking=no \
    -o UserKnownHostsFile=/dev/null -o ServerAliveInterval=60 root@127.0.0.1 'cd /share && exec bash /run/command' < /dev/null
code=$?
[ "$code" = 255 ] && { echo "run.sh: the connection to L1 broke"; tail -n 20 "$work/console"; } >&2
l1 'tar -C /share/out -cf - .' | tar -C "$share/out" -xmf -
exit "$code"
