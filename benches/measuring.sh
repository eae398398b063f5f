# What the measuring scripts share; to be sourced. They set `project`, `work` and `run`, a folder of this run's own.
# shellcheck shell=bash disable=SC2034,SC2154
set -euo pipefail

# The comment at the top of a script, before its line `set`.
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "$0: $*" >&2; exit 1; }

# --- the inputs ---

# Debian with compilers and interpreters, and what real machines have and toy ones lack.
make_rootfs() {
    local folder=$1 packages=python3,git,ca-certificates,curl,procps,perl,attr,libcap2-bin
    [ -n "$small" ] || packages+=,nodejs,build-essential,golang-go,openjdk-17-jre-headless,python3-numpy,vim
    debootstrap --variant=minbase --include="$packages" bookworm "$folder.part" >&2
    (
        umask 022
        mkdir -p "$folder.part/home/user/deep"
        cd "$folder.part/home/user"
        echo one >linked-1
        ln linked-1 linked-2
        ln -s ../../etc/os-release symlink
        mkfifo fifo
        truncate -s 64M sparse
        echo end >>sparse
        echo x >$'a\nnewline and ü'
        cd deep
        for _ in $(seq 25); do mkdir directory && cd directory; done
        head -c 3000 /etc/services >"$(printf 'long-%.0s' $(seq 30))"
        setfattr -n user.kind -v test "$folder.part/home/user/linked-1" || echo "no xattrs here" >&2
        chown -R 1000:1000 "$folder.part/home/user"
    )
    mv "$folder.part" "$folder"
}

# The root filesystem to measure with: `rootfs`, or one that is made in the work folder.
find_rootfs() {
    if [ -z "$rootfs" ]; then
        rootfs=$work/rootfs${small:+-small}
        [ -d "$rootfs" ] || make_rootfs "$rootfs"
    fi
    [ -d "$rootfs" ] || fail "$rootfs is no folder"
    rootfs=$(cd "$rootfs" && pwd)
}

# The smolfreeze to measure: `binary`, or one that is built.
find_binary() {
    if [ -z "$binary" ]; then
        binary=$project/target/release/smolfreeze
        [ -x "$binary" ] || cargo build --release --manifest-path "$project/Cargo.toml"
    fi
}

# --- a machine: a folder, behind `smolvm machine exec` and `cp` ---

stop_machine() { [ ! -x "$run/smolvm" ] || "$run/smolvm" machine stop --name measured >/dev/null 2>&1 || true; }

# start_machine FOLDER - as the machine `measured`
start_machine() {
    local standin=$project/target/release/examples/smolvm-standin
    cargo build -q --release --example smolvm-standin --manifest-path "$project/Cargo.toml"
    mkdir -p "$run/machines/measured"
    # Not a script around it: a shell for each call would be measured as well.
    export STANDIN_STATE=$run/machines
    ln -s "$standin" "$run/smolvm"
    printf '{"name": "measured", "image": "local:measured", "rootfs": "%s"}' "$1" >"$run/machines/measured/machine.json"
    "$run/smolvm" machine start --name measured >/dev/null
}

# --- the registry ---

registry_pid='' registry=''
stop_registry() {
    [ -z "$registry_pid" ] || { kill "$registry_pid" && wait "$registry_pid"; } 2>/dev/null || true
    registry_pid=''
}

# An empty registry on a free port of loopback.
fresh_registry() {
    stop_registry
    rm -rf "$run/storage"
    cat >"$run/registry.yml" <<YAML
version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: $run/storage}, delete: {enabled: true}}
http: {addr: "127.0.0.1:0"}
YAML
    : >"$run/registry.log" # or the last one's port could be read below
    docker-registry serve "$run/registry.yml" >"$run/registry.log" 2>&1 &
    registry_pid=$!
    for _ in $(seq 100); do
        registry=$(grep -aom1 'listening on 127.0.0.1:[0-9]*' "$run/registry.log" | sed 's/.* //') && return
        sleep 0.1
    done
    fail "docker-registry does not start: $(cat "$run/registry.log")"
}

# --- measuring ---

stored_kib() { { du -sk "$1" 2>/dev/null || echo 0; } | cut -f1; }

# One run: measure NAME STORE COMMAND...; what it adds to STORE is what it sent.
measure() {
    local name=$1 store=$2 before after wall user system peak
    shift 2
    before=$(stored_kib "$store")
    if ! /usr/bin/time -q -o "$run/time" -f '%e %U %S %M' "$@" >"$run/log" 2>&1; then
        cat "$run/log" >&2
        fail "$name failed"
    fi
    after=$(stored_kib "$store")
    read -r wall user system peak <"$run/time"
    echo "$name|$wall|$user $system|$peak|$((after - before))" |
        awk -F'|' -v OFS='|' '{split($3, cpu, " "); print $1, $2, cpu[1] + cpu[2], $4 / 1024, $5 / 1024}' | tee -a "$results" |
        awk -F'|' '{printf "  %-32s %7.2f s\n", $1, $2}' >&2
}

# The function of awk that gives the median of a list.
median='
    function median(list,    values, count, i, j, swap) {
        count = split(list, values, " ")
        for (i = 2; i <= count; i++)
            for (j = i; j > 1 && values[j] + 0 < values[j - 1] + 0; j--) {
                swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap
            }
        return count % 2 ? values[(count + 1) / 2] : (values[count / 2] + values[count / 2 + 1]) / 2
    }'
