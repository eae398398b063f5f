#!/bin/bash
# make_roots.sh DEBIAN OUT - cuts two small root filesystems out of the Debian tree DEBIAN, as OUT/debian.tar (GNU
# tools, a user of its own, awkward entries) and OUT/busybox.tar (one static binary). As root.
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 DEBIAN OUT" >&2; exit 2; }
debian=$(cd "$1" && pwd)
out=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

folders() {
    mkdir -p "$1"/{dev,proc,sys,run,tmp,root,home,etc,var/tmp,workspace}
    chmod 1777 "$1/tmp" "$1/var/tmp"
    chmod 700 "$1/root"
}

# The files of these packages, as the Debian tree has them; its documentation and translations stay behind.
copy_packages() {
    chroot "$debian" dpkg -L "$@" | sed -n 's,^/,,p' | sort -u |
        grep -vE '^usr/share/(doc|man|locale|info|lintian|bug|bash-completion)/|^usr/lib/x86_64-linux-gnu/gconv/' |
        while read -r path; do [ -d "$debian/$path" ] && [ ! -L "$debian/$path" ] || printf '%s\n' "$path"; done |
        tar -C "$debian" --no-recursion -cf - -T - | tar -C "$work/debian" -xpf -
}

make_debian() {
    local root=$work/debian link
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
    for link in bin sbin lib lib64; do ln -s "usr/$link" "$root/$link"; done
    folders "$root"
    copy_packages base-files bash dash coreutils findutils grep sed tar gzip diffutils hostname procps util-linux \
        libc6 libc-bin libgcc-s1 libacl1 libattr1 libselinux1 libpcre2-8-0 libgmp10 libssl3 libtinfo6 libmount1 \
        libblkid1 libsmartcols1 libuuid1 libudev1 libcap2 libcap2-bin libcap-ng0 libproc2-0 libncursesw6 \
        libsystemd0 liblz4-1 liblzma5 libzstd1 libgcrypt20 libgpg-error0 libcrypt1 attr mawk
    cp -a "$debian"/etc/{passwd,group,nsswitch.conf} "$root/etc/"
    ln -sf mawk "$root/usr/bin/awk"
    echo 'worker:x:1000:1000:,,,:/home/worker:/bin/bash' >> "$root/etc/passwd"
    echo 'worker:x:1000:' >> "$root/etc/group"
    chroot "$root" /sbin/ldconfig
    awkward "$root"
    tar -C "$root" --xattrs --xattrs-include='*' --sort=name -cf "$out/debian.tar" .
}

# What a copy that is not careful loses.
awkward() {
    local home=$1/home/worker
    mkdir -p "$home/project/deep/er" "$home/project/empty"
    echo 'first' > "$home/project/a file with blanks"
    printf 'bytes' > "$home/project/"$'not-utf8-\377'
    echo 'secret' > "$home/project/private"
    chmod 600 "$home/project/private"
    chmod 2750 "$home/project/deep"
    ln "$home/project/private" "$home/project/deep/er/hard-link"
    ln -s ../private "$home/project/deep/soft-link"
    ln -s /nowhere "$home/project/dangling"
    mkfifo "$home/project/pipe"
    truncate -s 8M "$home/project/sparse"
    head -c 300000 /dev/urandom > "$home/project/random"
    touch -d '2001-02-03 04:05:06.789' "$home/project/random"
    cp "$1/usr/bin/true" "$home/project/capable"
    local name
    name=$(printf 'long-%.0s' $(seq 30))
    echo 'long' > "$home/project/deep/er/$name"
    chown -hR 1000:1000 "$home"
    chown 1000:0 "$home/project/private"
}

make_busybox() {
    local root=$work/busybox name
    folders "$root"
    mkdir -p "$root/bin"
    cp "$debian/bin/busybox" "$root/bin/busybox"
    for name in $("$root/bin/busybox" --list); do
        [ "$name" = busybox ] || ln -sf busybox "$root/bin/$name"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
    echo 'root:x:0:' > "$root/etc/group"
    echo 'small' > "$root/etc/hostname"
    mkdir -p "$root/srv/data"
    echo 'linked' > "$root/srv/data/one"
    ln "$root/srv/data/one" "$root/srv/data/two"
    tar -C "$root" --sort=name -cf "$out/busybox.tar" .
}

make_debian
make_busybox
