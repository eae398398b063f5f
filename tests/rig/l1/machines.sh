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
change_machine() {
    case $1 in
        debian) as_root debian sh -c 'mkdir /data/kept && echo data > /data/kept/file && chown -R 1000:1000 /data/kept
            echo made later > /workspace/later && echo changed > /etc/motd && rm /home/worker/project/dangling
            echo not wanted > /tmp/scratch
            setcap cap_net_raw+ep /home/worker/project/capable' ;; # smolvm 1.32.2 loses those of an artifact's layers
        busybox) as_root busybox sh -c 'echo added > /srv/data/three && mkdir -p /workspace/w && echo w > /workspace/w/file' ;;
        bare) as_root bare sh -c 'echo mine > /root/mine && mkdir -p /workspace/deep && echo w > /workspace/deep/file' ;;
    esac
}

# change_for_night MACHINE NIGHT - what happens in it before its second and before its third night
change_for_night() {
    # shellcheck disable=SC2016 # the guest's own words
    as_root "$1" sh -c 'mkdir -p /srv/nights && cd /srv/nights && case $1 in
        2) mkdir a b c && echo one > a/one && ln a/one b/link && ln -s one a/soft && echo x > c/x && echo night > /etc/motd ;;
        3) rm a/one && mv b d && rm -r a && echo file > a && rm -r c && ln -s d c && chmod 600 d/link
            touch -t 200101010000 /etc/motd ;;
    esac' sh "$2"
}

# list_guest MACHINE LISTING [ROOT] - list.sh in the guest
not_captured=(proc sys dev run tmp var/tmp storage oldroot)
list_guest() {
    as_root "$1" sh -c "$(cat tools/list.sh)" list.sh "${3:-/}" "${not_captured[@]}" > "$2"
}

# list_machine MACHINE - to out/MACHINE.guest, and a bare one's /workspace, which is elsewhere in it
list_machine() {
    timed "list $1" list_guest "$1" "out/$1.guest"
    [ "$1" != bare ] || list_guest bare out/bare.workspace /storage/workspace
}

# What compare.py is told of a machine: files of smolvm's own (crun is mounted), and a mount point that is a link in the guest
# and a folder in the image.
declare -A ways=(
    [bare]='--ignore-time ./etc/resolv.conf --ignore ./.smolvm-ready* --ignore ./usr/bin/crun --ignore ./workspace --graft workspace=out/bare.workspace'
    [debian]='--ignore-time ./etc/resolv.conf --ignore ./workspace/.smolvm-workspace-seeded'
    [busybox]='--without-xattrs --ignore-time ./etc/resolv.conf --ignore ./workspace/.smolvm-workspace-seeded'
)

# compare_image MACHINE IMAGE COMPARE-OPTIONS... - pulls and unpacks an image, as out/MACHINE.image, and compares that with
# out/MACHINE.guest
compare_image() {
    local machine=$1 code=0 options
    read -ra options <<< "${ways[$1]}"
    rm -rf "/srv/unpacked/$machine"
    python3 tools/unpack.py "$2" "/srv/unpacked/$machine" > "out/$machine.config" || code=$?
    check "$machine: the image can be pulled and unpacked" 0 "$code"
    sh tools/list.sh "/srv/unpacked/$machine" "${not_captured[@]}" > "out/$machine.image"
    # A listing that was cut off ends compare.py too, so it is the exit code that counts.
    code=0
    python3 tools/compare.py "${options[@]}" "${@:3}" "out/$machine.guest" "out/$machine.image" > "out/$machine.differences" || code=$?
    check "$machine: the image is what the guest has" 0 "$code"
    head -n 20 "out/$machine.differences"
}

# Of a machine that runs.
check_nothing_left() {
    check "$1: nothing left in the guest" '' "$(as_root "$1" sh -c 'ls -d /var/tmp/.smolfreeze-* 2>/dev/null')"
}
