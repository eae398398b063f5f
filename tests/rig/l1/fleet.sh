#!/bin/bash
# In L1: a fleet of two machines through three nights: both running; one stopped, so that it is started and stopped again; and
# the same under systemd, in the service that `fleet install` writes. Each night is a day of L1's clock. The image of each
# machine is compared with the guest after every night. Drills make machines of the later nights' images.
set -uo pipefail
# shellcheck source=tests/rig/l1/machines.sh
. tools/machines.sh

registry=127.0.0.1:5000
machines=(bare debian)
nights=$HOME/.local/state/smolfreeze/fleet/rig/nights

fleet() { ./smolfreeze fleet "$@"; }
# ask FILE EXPRESSION - of the JSON in it, called `it`
ask() { python3 tools/ask.py "$@"; }
of_tonight() { ask "$nights/$night.json" "$1"; }
state_of() { smolvm machine ls --json > out/machines.json && ask out/machines.json "[one['state'] for one in it if one['name'] == '$1']"; }
all_machines() { smolvm machine ls --json > out/machines.json && ask out/machines.json "sorted(one['name'] for one in it)"; }

# expect CODE WHAT COMMAND... - its words are in out/WHAT.log
expect() {
    local code=0 log="out/$2.log" began=$EPOCHREALTIME
    "${@:3}" > "$log" 2>&1 || code=$?
    printf 'time  %-34s %6.1f s\n' "$2" "$(awk "BEGIN { print $EPOCHREALTIME - $began }")"
    check "$2: exit code" "$1" "$code"
    [ "$code" = "$1" ] || cat "$log"
}

# write_file [ANSWER [KEY]] - what the bare machine's drill is to answer, and one more key of the other's
write_file() {
    mkdir -p /etc/smolfreeze /srv/metrics
    cat > /etc/smolfreeze/fleet.toml <<FILE
name = "rig"
concurrency = 2
deadline = "30m"
unselected = "fail"
ignore = ["aside"]

[schedule]
at = "03:15"

[destinations.registry]
to = "$registry/fleet/{machine}:{night}"
[destinations.disk]
to = "oci:/srv/fleet/{machine}:{night}"

[defaults]
to = ["registry", "disk"]
deadline = "20m"
max_age = "36h"
[defaults.retries]
attempts = 3
pause = "5s"
[defaults.retention]
keep_last = 1
[defaults.verify]
newest = true
[defaults.freeze]
agent_rootfs = "/opt/smol/agent-rootfs.tar.zst"
guest_reader = "$PWD/smolfreeze-guest-static"

[[policies]]
name = "apps"
labels = { tier = "app" }
[policies.drill]
command = "cat /data/kept/file /srv/nights/[bd]/link; id -u"
expect = "data\none\n0"
${2:-}
cpus = 1
memory = "512MiB"

[[policies]]
name = "others"
machines = ["b*"]
stopped = "start"
[policies.drill]
from = "disk"
command = "cat /root/mine /workspace/deep/file"
expect = "${1:-mine\nw}"
cpus = 1
memory = "512MiB"

[metrics]
file = "/srv/metrics/rig.prom"
FILE
}

# What is asked of a night after its run, whoever ran it.
look_at_night() {
    local machine
    cp "$nights/$night.json" out/
    of_tonight '"\n".join("{machine:8} {destination:9} {state}, tries {attempts}, {seconds:.1f} s: entries {image[entries]}, tar "
        "{image[tar_bytes]}, read {image[read_bytes]}, link {image[link_bytes]}, sent {image[sent_bytes]}".format_map(one)
        for one in it["outcomes"] if one.get("image"))'
    check "night $night: what became of it" "[('bare', 'disk', 'done'), ('bare', 'registry', 'done'), ('debian', 'disk', 'done'), ('debian', 'registry', 'done')]" \
        "$(of_tonight 'sorted((one["machine"], one["destination"], one["state"]) for one in it["outcomes"])')"
    check "night $night: verified" '[True, True, True, True]' \
        "$(of_tonight '["verified" in one and "fault" not in one["verified"] for one in it["outcomes"]]')"
    check "night $night: no trouble" '[]' "$(of_tonight 'it["after"]["troubles"] + [one for run in it["runs"] for one in run["troubles"]]')"
    for machine in "${machines[@]}"; do
        compare_image "$machine" "$registry/fleet/$machine:$night"
        check "$machine: the layout has the same image" 1 "$(of_tonight "len({one['image']['digest'] for one in it['outcomes'] if one['machine'] == '$machine'})")"
        expect 0 "verify-$machine-$night" ./smolfreeze verify "oci:/srv/fleet/$machine:$night"
        curl -sf -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://$registry/v2/fleet/$machine/manifests/$night" > "out/$machine.manifest.$night"
    done
}

# What a further night is, seen from the one before.
look_at_change() {
    local machine kept
    for machine in "${machines[@]}"; do
        kept=$(comm -12 <(layers_of "$machine" "$before") <(layers_of "$machine" "$night") | wc -l)
        echo "$machine: $kept of $(layers_of "$machine" "$before" | wc -l) layers kept"
        check "$machine: layers are kept" yes "$([ "$kept" -gt 0 ] && echo yes)"
        check "$machine: at the registry, only tonight's is kept" "['$night']" \
            "$(curl -s "http://$registry/v2/fleet/$machine/tags/list" > out/tags && ask out/tags 'it["tags"]')"
        check "$machine: in the layout, too" "['$night']" \
            "$(ask "/srv/fleet/$machine/index.json" '[one["annotations"]["org.opencontainers.image.ref.name"] for one in it["manifests"]]')"
    done
    check "night $night: what was removed" 4 "$(of_tonight 'len(it["after"]["removed"])')"
    local sums='[sum(one["image"][key] for one in it["outcomes"]) for key in ("read_bytes", "sent_bytes")]'
    local first now
    first=$(ask "$nights/$first_night.json" "$sums")
    now=$(of_tonight "$sums")
    echo "read and sent: $first in the first night, $now in this one"
    check "night $night: at most a quarter of the first one's bytes" yes "$(python3 -c "
first, tonight = $first, $now
print('yes' if all(4 * now <= was for was, now in zip(first, tonight)) else (first, tonight))")"
}

layers_of() { ask "out/$1.manifest.$2" '"\n".join(one["digest"] for one in it["layers"])' | sort; }

next_day() {
    before=$night
    date -s '+1 day' > /dev/null
    night=$(date +%F)
    echo "--- night $night"
}

# Twice at most: smolvm gives a machine a time to come up, which a host with other work can take away.
drill() {
    fleet drill --json > out/drill.json && return
    grep -qE 'become ready|no boot progress|no answer within' out/drill.json && fleet drill --json > out/drill.json
}

look_at_drills() {
    local there
    there=$(all_machines)
    expect 0 drill drill
    check 'drill: who, of what, and how it went' \
        "[('bare', 'oci:/srv/fleet/bare:$night', None), ('debian', '$registry/fleet/debian:$night', None)]" \
        "$(ask out/drill.json '[(one["machine"], one["name"], one.get("trouble")) for one in it]')"
    ask out/drill.json '"\n".join("{machine}: {seconds:.1f} s".format_map(one) for one in it)'
    write_file 'something else'
    expect 11 drill-wrong fleet drill --machine bare
    check 'drill: another answer is no success' yes \
        "$(grep -q "answered 'mine.*w', and 'something else' is expected" out/drill-wrong.log && echo yes)"
    write_file
    check 'drill: no machine is left' "$there" "$(all_machines)"
    check 'drill: no artifact is left' '' "$(find "${nights%/nights}/drill" -mindepth 1)"
}

look_at_reports() {
    expect 0 status fleet status
    cat out/status.log
    expect 0 history fleet history
    cat out/history.log
    expect 0 report fleet report --html out/fleet.html
    check 'report: the page shows both machines' yes "$(grep -q '>bare<' out/fleet.html && grep -q '>debian<' out/fleet.html && grep -q '</html>' out/fleet.html && echo yes)"
    cp /srv/metrics/rig.prom out/
    check 'metrics: the last success of each is from today' 4 "$(awk -v day="$(date -d "$night" +%s)" \
        '/^smolfreeze_last_success_timestamp_seconds\{/ && $NF >= day { count++ } END { print count + 0 }' out/rig.prom)"
}

# L1's init becomes systemd.
become_systemd() {
    kill -USR1 1
    local _
    for _ in $(seq 240); do systemctl is-active -q basic.target 2> /dev/null && return; sleep 0.5; done
    return 1
}

start_registry
start bare
start debian --from debian.smolmachine -v /data --label tier=app
smolvm machine create --name aside > out/aside.log 2>&1
expect 0 init fleet init
expect 0 check-example fleet check
rm -f "$(tail -n 1 out/init.log)"
write_file
expect 0 check fleet check
expect 13 status-before fleet status
for machine in "${machines[@]}"; do change_machine "$machine"; list_machine "$machine"; done

night=$(date +%F)
first_night=$night
expect 0 dry-run fleet run --dry-run
cat out/dry-run.log
expect 0 run-1 fleet run --progress none
cat out/run-1.log
look_at_night
for machine in "${machines[@]}"; do check_nothing_left "$machine"; done
expect 0 run-1-again fleet run --progress none
check 'the same night again: nothing is tried' '{1}' "$(of_tonight '{one["attempts"] for one in it["outcomes"]}')"

next_day
for machine in "${machines[@]}"; do change_for_night "$machine" 2; done
sleep 3
for machine in "${machines[@]}"; do list_machine "$machine"; done
timed 'stop bare' smolvm machine stop --name bare > out/stop.log 2>&1
expect 0 status-stopped fleet status
expect 0 run-2 fleet run --progress none
cat out/run-2.log
check 'bare: was started, and stopped again' "['stopped']" "$(state_of bare)"
check_nothing_left debian
look_at_night
look_at_change
look_at_drills
look_at_reports

next_day
change_for_night debian 3
sleep 3
list_machine debian
# Is due by now, and so belongs to the run.
write_file 'mine\nw' 'every = "20h"'
there=$(all_machines)
expect 0 install fleet install
cat out/install.log
expect 0 systemd become_systemd
expect 0 run-3 systemctl start smolfreeze-rig.service
journalctl --no-pager -o cat -u smolfreeze-rig.service > out/journal.log
cat out/journal.log
check 'systemd: the service' 'success 0' "$(systemctl show -P Result -P ExecMainStatus smolfreeze-rig.service | xargs)"
check 'systemd: a drill' "[('debian', '$registry/fleet/debian:$night', None)]" \
    "$(of_tonight '[(one["machine"], one["name"], one.get("trouble")) for one in it["after"]["drills"]]')"
check 'systemd: no machine is left' "$there" "$(all_machines)"
expect 0 timer systemctl enable --now smolfreeze-rig.timer
check 'systemd: the timer waits for its hour' 03:15:00 "$(systemctl show -P NextElapseUSecRealtime smolfreeze-rig.timer | cut -d ' ' -f 3)"
check 'bare: was started, and stopped again' "['stopped']" "$(state_of bare)"
check_nothing_left debian
look_at_night
look_at_change
look_at_reports
echo "$failures failures"
[ "$failures" = 0 ]
