#!/bin/bash
# Process 1 of L1: mounts, modules, network, sshd; then it only reaps. No service manager, or the start takes a minute; at a
# USR1 it becomes systemd, for who has units to try.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/sshd /share
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -o remount,rw /
for link in fd: stdin:/0 stdout:/1 stderr:/2; do
    [ -e "/dev/${link%:*}" ] || ln -s "/proc/self/fd${link#*:}" "/dev/${link%:*}"
done
hostname l1
ip link set lo up
ulimit -n 1048576 # virtiofs holds a file open on the host for every inode that a guest has seen
for module in virtio_net virtio_rng kvm_amd overlay fuse; do modprobe "$module"; done
# What run.sh brings is a tar on the second disk: much faster than through an emulated ssh.
[ -b /dev/vdb ] && tar -C /share -xf /dev/vdb
for _ in $(seq 20); do
    card=$(find /sys/class/net -mindepth 1 ! -name lo -printf '%f\n' | head -n 1)
    [ -n "$card" ] && break
    sleep 0.2
done
ip link set "$card" up
ip addr add 10.0.2.15/24 dev "$card" # no default route: nothing in L1 reaches a network
/usr/sbin/sshd -D -e &
trap 'exec /lib/systemd/systemd --unit=basic.target' USR1
while :; do wait -n || sleep 1; done
