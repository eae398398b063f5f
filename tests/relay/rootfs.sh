#!/bin/sh
# rootfs.sh CACHE - builds, once, the root filesystems that the stand-in's machines begin as: debian (GNU tools, trimmed),
# busybox (Debian's static one, harsher than Alpine's), bare (busybox and a GNU tar, as in smolvm's own). Root; Debian 12.
set -eu
mkdir -p "$1"
cd "$1"
exec 9>lock
flock 9

if ! [ -d debian ]; then
	rm -rf debian.new
	mirror=${DEBIAN_MIRROR:-$(sed -n 's/^URIs: *\(.*debian\)$/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)}
	debootstrap --variant=minbase bookworm debian.new ${mirror:+"$mirror"} >debootstrap.log 2>&1 || {
		tail -n 5 debootstrap.log >&2
		exit 1
	}
	# What no test looks at.
	(cd debian.new && rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/doc usr/share/locale usr/share/man usr/share/info \
		usr/lib/*/perl* usr/share/perl* usr/share/zoneinfo usr/lib/*/gconv usr/share/i18n var/log/*)
	mv debian.new debian
fi

if ! [ -d busybox ] || ! [ -d bare ]; then
	rm -rf busybox bare busybox.new bare.new
	mkdir -p busybox.new/bin busybox.new/etc busybox.new/root busybox.new/home busybox.new/var/tmp
	cp /bin/busybox busybox.new/bin/
	for name in $(busybox --list); do
		[ "$name" = busybox ] || ln -s busybox "busybox.new/bin/$name"
	done
	echo 'root:x:0:0:root:/root:/bin/sh' >busybox.new/etc/passwd
	cp -a busybox.new bare.new
	rm bare.new/bin/tar
	cp "$(command -v tar)" bare.new/bin/tar
	ldd "$(command -v tar)" | sed -n 's/.*[ 	]\(\/[^ ]*\) (.*/\1/p' | while read -r library; do
		mkdir -p "bare.new$(dirname "$library")"
		cp -L "$library" "bare.new$library"
	done
	mkdir -p bare.new/mnt/overlay
	mv busybox.new busybox
	mv bare.new bare
fi
