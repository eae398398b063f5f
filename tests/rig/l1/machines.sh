# shellcheck shell=bash
# Sourced in L1: words for checks, and the three test machines. Everything is in /share.

failures=0

# check WHAT EXPECTED ACTUAL
check() {
    if [ "$2" = "$3" ]; then
        printf 'ok    %s\n' "$1"
    else
        printf 'FAIL  %s: got "%s", expected "%s"\n' "$1" "$3" "$2"
        failures=$((failures + 1))
    fi
}

# timed WHAT COMMAND... - runs it and says how long it took, in seconds of L1
timed() {
    local what=$1 began=$EPOCHREALTIME code=0
    shift
    "$@" || code=$?
    printf 'time  %-34s %6.1f s\n' "$what" "$(awk "BEGIN { print $EPOCHREALTIME - $began }")"
    if [ "$code" != 0 ]; then check "$what: exit code" 0 "$code"; fi
}

# inside MACHINE COMMAND... - a command as its user; as_root the same as uid 0, which a bare machine always is
inside() { smolvm machine exec --name "$1" -- "${@:2}"; }
as_root() {
    if [ "$1" = bare ]; then inside "$@"; else smolvm machine exec --name "$1" -u 0 -- "${@:2}"; fi
}

# start MACHINE CREATE-OPTIONS...
start() {
    timed "create $1" smolvm machine create --name "$1" --cpus 1 --mem 512 "${@:2}" > "out/$1.log" 2>&1
    tail -n 1 "out/$1.log"
    timed "start $1" patiently "$1" smolvm machine start --name "$1"
}

# patiently MACHINE COMMAND... - its words are in out/MACHINE.log. smolvm gives a guest some time to come up (180 s with an
# image, less with an artifact), and smolfreeze a call some (60 s), which a host with other work can take away: then it
# gets a second chance.
patiently() {
    local log=out/$1.log
    shift
    "$@" > "$log" 2>&1 && return
    grep -qE 'did not become ready|no answer within' "$log" || { cat "$log"; return 1; }
    echo "again: $(tail -n 1 "$log")"
    "$@" > "$log" 2>&1 || { cat "$log"; return 1; }
}

start_registry() {
    # Not Debian's own configuration: that one wants a password.
    cat > /run/registry.yml <<'CONFIG'
version: 0.1
storage: { filesystem: { rootdirectory: /var/lib/docker-registry }, delete: { enabled: true } }
http: { addr: "127.0.0.1:5000" }
CONFIG
    docker-registry serve /run/registry.yml > out/registry.log 2>&1 &
    local _
    for _ in $(seq 100); do curl -sf http://127.0.0.1:5000/v2/ > /dev/null && return; sleep 0.2; done
    check 'the registry answers' yes no
}

start_machines() {
    start bare
    start debian --from debian.smolmachine -v /data
    start busybox --from busybox.smolmachine
}

# What a freeze has to bring back, and would not if it read only the image.
change_machines() {
    as_root debian sh -c 'mkdir /data/kept && echo data > /data/kept/file && chown -R 1000:1000 /data/kept
        echo made later > /workspace/later && echo changed > /etc/motd && rm /home/worker/project/dangling
        echo not wanted > /tmp/scratch
        setcap cap_net_raw+ep /home/worker/project/capable' # smolvm 1.32.2 loses those of an artifact's layers
    as_root busybox sh -c 'echo added > /srv/data/three && mkdir -p /workspace/w && echo w > /workspace/w/file'
    as_root bare sh -c 'echo mine > /root/mine && mkdir -p /workspace/deep && echo w > /workspace/deep/file'
}

# list_guest MACHINE LISTING [ROOT] - list.sh in the guest
not_captured=(proc sys dev run tmp var/tmp storage oldroot)
list_guest() {
    as_root "$1" sh -c "$(cat tools/list.sh)" list.sh "${3:-/}" "${not_captured[@]}" > "$2"
}
