#!/bin/bash
# Builds the rig once: a small Debian ("L1") in which the real smolvm runs real machines.
#
#   tests/rig/build.sh            as root, on Debian 12; about 2 minutes, 1 GB under the rig's folder
#
# This host needs no virtualization: QEMU emulates a CPU that has AMD SVM, so that KVM works inside L1. Everything
# comes from the package mirrors that apt and pip are set up for. run.sh starts what this builds.
#
#   SMOLFREEZE_RIG   the rig's folder (default: $XDG_CACHE_HOME/smolfreeze-rig)
#   SMOL_VERSION     the release of smolvm (default: 1.32.2)
#   DEBIAN_MIRROR    a Debian mirror (default: the one that apt uses)
set -euo pipefail

rig=${SMOLFREEZE_RIG:-${XDG_CACHE_HOME:-$HOME/.cache}/smolfreeze-rig}
here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'rig: %3ds %s\n' "$SECONDS" "$*" >&2; }

mirror_of_apt() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null |
        sed -n 's/^URIs: *\(.*debian\)\/*$/\1/p; s/^deb \(\[[^]]*\] \)*\([^ ]*debian\)\/* .*/\2/p' | head -n 1 || true
}

# QEMU 10 is taken from backports and only unpacked here; bookworm's own package brings its libraries and ROMs.
get_emulator() {
    apt-get update -qq
    apt-get install -qqy --no-install-recommends \
        qemu-system-x86 debootstrap zstd e2fsprogs openssh-client python3-pip > apt.log
    mkdir -p apt/lists/partial apt/archives/partial debs
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm-backports main" > apt/list
    local apt=(apt-get -qq -o "Dir::Etc::sourcelist=$rig/apt/list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$rig/apt/lists" -o "Dir::Cache=$rig/apt" -o APT::Sandbox::User=root)
    "${apt[@]}" update
    (cd debs && "${apt[@]}" download {qemu-system-x86,qemu-system-common,qemu-system-data,seabios}/bookworm-backports)
    local deb
    for deb in debs/*.deb; do dpkg -x "$deb" qemu; done
}

get_debian() {
    local packages=openssh-server,ca-certificates,zstd,strace,python3,procps,iproute2,kmod,e2fsprogs,udev
    packages+=,bsdextrautils,curl,docker-registry,busybox-static,attr,libcap2-bin,linux-image-cloud-amd64,systemd
    debootstrap --variant=minbase --include="$packages" bookworm l1 "$mirror" > debootstrap.log
    rm -rf l1/var/cache/apt/archives/*.deb l1/var/lib/apt/lists/*
    cp l1/boot/vmlinuz-* vmlinuz
    cp l1/boot/initrd.img-* initrd
}

put_smolvm_in() {
    mkdir -p l1/opt/smol l1/opt/agent-rootfs
    cp --sparse=always smolvm/* l1/opt/smol/
    tar --zstd -C l1/opt/agent-rootfs -xf smolvm/agent-rootfs.tar.zst
    # As root, smolvm runs a VMM under a uid of its own, which may not connect to the socket where a guest says that it is
    # ready. What is left is a ping that has 5 ms for an answer: here that takes seconds, or minutes, or fails.
    install -m 755 /dev/stdin l1/usr/local/bin/smolvm <<'SMOLVM'
#!/bin/sh
export SMOLVM_VM_UID_DROP=off
export SMOLVM_LIB_DIR=/opt/smol SMOLVM_AGENT_ROOTFS=/opt/agent-rootfs
exec /opt/smol/smolvm "$@"
SMOLVM
}

put_init_in() {
    install -m 755 "$here/l1/init.sh" l1/sbin/l1-init
    ssh-keygen -q -t ed25519 -N '' -f key
    install -d -m 700 l1/root/.ssh
    install -m 600 key.pub l1/root/.ssh/authorized_keys
    printf 'UseDNS no\nUsePAM no\nMaxSessions 100\n' > l1/etc/ssh/sshd_config.d/l1.conf
}

# The root filesystems of the test machines, cut out of L1's own Debian: small, for everything is slow in there.
make_test_roots() {
    mkdir -p roots
    "$here/make_roots.sh" l1 roots
}

[ "$(id -u)" = 0 ] || { say "must run as root (debootstrap, and devices in L1's image)"; exit 2; }
mkdir -p "$rig"
cd "$rig"
rig=$PWD
# What is there was built by these very scripts, or it is built anew; two builds at once wait for each other.
stamp=$(cat "$here/build.sh" "$here/make_roots.sh" "$here/get_smolvm.sh" "$here/l1/init.sh" <(echo "${SMOL_VERSION:-}") | sha256sum)
exec 9> lock
flock 9
[ "$(cat built 2> /dev/null)" = "$stamp" ] && exit 0
mirror=${DEBIAN_MIRROR:-$(mirror_of_apt)}
[ -n "$mirror" ] || { say "no Debian mirror in apt's sources; set DEBIAN_MIRROR"; exit 2; }

# A build that was killed may have left /proc mounted in l1.
awk -v l1="$rig/l1/" 'index($2, l1) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
rm -rf --one-file-system built l1 l1.img apt debs qemu roots key key.pub
say "emulator";       get_emulator
say "smolvm";         "$here/get_smolvm.sh" smolvm
say "Debian for L1";  get_debian
say "test machines";  make_test_roots
put_smolvm_in
put_init_in
say "L1's disk"
truncate -s 24G l1.img
mke2fs -q -F -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -d l1 l1.img
rm -rf l1 apt debs
echo "$stamp" > built
say "built: $(du -sh "$rig" | cut -f 1) in $rig"
