#!/bin/sh
# smolfreeze's hand in the guest: lists, archives and spools a machine's own files, chunk by chunk.
#
# Called as `sh guest.sh VERB ARGUMENT...` (or, before it is copied in, as `sh -c "$(cat guest.sh)" smolfreeze VERB …`):
#   whoami                                       user, folder and environment of a plain exec
#   look                                         everything else the host wants to know before it makes a plan
#   survey PLAN                                  entries and bytes that PLAN selects
#   prepare SPOOL NEEDED_KIB LEASE DEAD          takes the machine and makes the spool, if there is room and no other freeze
#                                                that lives; DEAD is one whose host does not, if the asking one knows that
#   try SPOOL VERSION                            makes reader.new the reader, if it runs here and calls itself VERSION
#   produce SPOOL WINDOW CHUNK_KIB SQUEEZE LEASE HOLD
#                                                lists, archives, cuts, waits; run detached
#   batch SPOOL KIND NAME...                     an archive of a part of a list, by busybox's tar
#   next SPOOL ACK_FROM ACK_TO FROM WAIT SIGN    acknowledges, waits, answers with what is ready
#   stop SPOOL                                   ends it and removes every trace
# Every answer starts with `smolfreeze 1` and ends with a line `done …`: what has no such end was cut off by somebody.
#
# In a spool (0700): guest.sh (this file; in lines that start with `#: `, the plan; in the line that starts with `#= `,
# what our own reader is to read), reader.new (a program that may be our reader), reader (one that was tried; does the
# work of find, tar, dd and cksum, and waits where a shell would start a `sleep` for each look), said (what one answered that was tried), c.S (a chunk;
# chunk N lies in slot S = N modulo the window), u.N (chunk N has its slot: until it is acknowledged nothing touches it),
# m.N (its line, there once the chunk is complete), state, sign (changes with every `next`), beat (changes while the
# producer lives), work (changes while our own reader lists or compares), words (what the tools said on stderr), verdict (their exit codes), linked and apart (names of files
# with several links), held, last and divided (of those, what `batch` has for the next one), going (as long as chunks can
# be written), hold (nothing is read before a `next` that waits), stop (asks it to end).
# POSIX sh; GNU tools or busybox. `sort -z`, `dd iflag=fullblock` and `ln -n` are beyond POSIX, and in both.
# shellcheck disable=SC2094  # the small files are read and then replaced, never both at once
set -u
umask 077
LC_ALL=C
PATH=${PATH:-/bin}:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
unset TAR_OPTIONS POSIXLY_CORRECT CDPATH GZIP ZSTD_CLEVEL

words_kib=256
# Of one call of busybox's tar: half of what a process with a stack of 8 MiB takes, with a pointer for each name.
names_bytes_max=900000
verb=${1:?a verb}
shift

has() { command -v "$1" >/dev/null 2>&1; }
is_gnu() { "$1" --version 2>/dev/null | grep -q GNU; }

# A GNU tar, wherever it is: a busybox shell may prefer its own tar to one on the PATH.
tar=tar
find_tar() {
	for tar in tar /usr/local/bin/tar /usr/bin/tar /bin/tar; do
		if is_gnu "$tar"; then return 0; fi
	done
	tar=tar
	return 1
}

# What this guest's sleep can do, in two lengths: while something is expected, and while it is late. The producer tries
# it out once, and leaves it in the spool: trying takes as long as a whole `next`.
short=1 long=1
pace() {
	if ! { read -r short long <"$spool/pace"; } 2>/dev/null; then
		short=1 long=1
		if sleep 0.002 2>/dev/null; then short=0.04 long=0.1; fi
	fi
}

# Pauses as long as COMMAND is true, but no more than TIMES: eager for half a second, then without burning the guest's
# cores. Each is a process.
wait_while() {
	turns=0 turns_max=$1
	shift
	while [ "$turns" -lt "$turns_max" ] && "$@"; do
		if [ "$turns" -lt 12 ]; then sleep "$short"; else sleep "$long"; fi
		turns=$((turns + 1))
	done
}

begin() { echo "smolfreeze 1"; }

whoami_() {
	begin
	echo "uid $(id -u)"
	echo "gid $(id -g)"
	echo "cwd $(pwd)"
	# One variable a line; a line break inside a value travels as \001.
	# This shell's own, as it was at its start: PATH and LC_ALL are not the machine's any more.
	{ cat "/proc/$$/environ" || env -0; } 2>/dev/null | tr '\n\000' '\001\n' | sed 's/^/env /'
	echo "done whoami"
}

look() {
	begin
	echo "arch $(uname -m)"
	echo "uid $(id -u)"
	if find_tar; then echo "tar gnu"; elif has tar; then echo "tar busybox"; else echo "tar none"; fi
	for tool in find sort dd xargs gzip zstd setsid cksum md5sum tr sed; do
		if has "$tool"; then echo "tool $tool"; fi
	done
	for folder in /var/tmp /tmp; do
		if ! [ -d "$folder" ] || ! [ -w "$folder" ]; then continue; fi
		echo "spool $folder"
		df -Pk "$folder" 2>/dev/null | sed -n '2s/^/df /p'
		break
	done
	if [ -L /workspace ] && [ -d /workspace ]; then echo "workspace link $(readlink /workspace)"; fi
	sed 's/^/mount /' /proc/self/mountinfo
	echo "done look"
}

# A program of a pipeline, behind everything that the machine does for its user. Its exit code goes to the verdict: a
# pipeline itself only tells the last one's. busybox may lack nice.
run() {
	if has nice; then nice "$@"; else "$@"; fi
	echo "${1##*/} $?" >>"${verdict:-/dev/null}"
}

# Whether something was killed, or is not there: what would follow must not be taken for more of the archive.
killed=' \(12[6-9]\|1[3-9][0-9]\|2[0-9][0-9]\)$'
broken() { grep -q "$killed" "$verdict"; }

# Depth first, in name order: `/` sorts before everything else. Swapping two bytes twice changes nothing, so a name with
# \001 in it survives.
in_order() { run tr '/\001' '\001/' | run sort -z -u | run tr '/\001' '\001/'; }

# "device.inode name" becomes "name", for a tar that takes its names from a list. By the shell: busybox's sed takes NUL for
# the end of a line, as it is of a name, and line breaks are in names, too.
# shellcheck disable=SC2016  # the inner shell expands it
without_inodes() { run xargs -0 sh -c 'for f; do printf "%s\000" "${f#* }"; done' sh; }

# One walk over everything. Directories and what has one link go to stdout; what has several to $1, or, inside the folder
# that no link leaves, to $2. A link count that changes meanwhile can't move an entry from a list that is still to be
# made to one that was. Sockets mean nothing without their process, and no archive holds one: named among the words.
walk_once() {
	cd / || return
	if is_gnu find; then
		walk -type s -fprintf /proc/self/fd/2 'socket: %p\n' -o '(' -type d -o -links 1 ')' -print0 -o \
			-path "$apart" -fprintf "$2" '%D.%i %p\0' -o -fprintf "$1" '%D.%i %p\0'
	else
		# One that is gone by now is named by tar.
		# shellcheck disable=SC2016  # the inner shell expands it
		numbered='for f; do printf "%s %s\000" "$(stat -c %d.%i "$f" 2>/dev/null)" "$f"; done'
		walk -type s -exec sh -c 'printf "socket: %s\n" "$@" >&2' sh {} + -o '(' -type d -o -links 1 ')' -print0 -o \
			-path "$apart" -exec sh -c "$numbered >>'$2'" sh {} + -o -exec sh -c "$numbered >>'$1'" sh {} +
	fi
}

# The names of one archive, NUL-terminated: `single` (with one link, and directories), then `linked` and `apart` (with
# several, by inode; for busybox's tar, it still stands in front of each). One that another one follows must end in a member
# without content, so that the host can tell the end mark's zeros from a file's.
list() {
	case $1 in
	single) walk_once "$spool/linked" "$spool/apart" | in_order ;;
	*) run sort -z -u <"$1" | if find_tar; then without_inodes; else cat; fi ;;
	esac
	shift
	for later; do
		if [ -s "$later" ]; then printf '.\000' && break; fi
	done
}

# GNU tar's flags for this guest, as words. atime and ctime would change every layer at every freeze, and so would the
# process id that old releases put into the names of extended headers. user.krun.* are smolvm's own notes on folders.
gnu_flags() {
	printf '%s ' --format=posix --numeric-owner '--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime'
	for flag in --xattrs --acls '--xattrs-exclude=user.krun.*'; do
		if "$tar" "$flag" -cf /dev/null -C / --no-recursion . 2>/dev/null; then printf '%s ' "$flag"; fi
	done
	if [ "$1" = single ]; then printf '%s' --hard-dereference; fi
}

# One archive of NAMES by busybox's tar, without its end mark of 1,024 zeros. 255 ends xargs.
pack() {
	[ $# -gt 0 ] || return 0
	{ tar -c -C / --numeric-owner --no-recursion -f - "$@"; echo "tar $?" >>"$verdict"; } |
		{ head -c -1024; echo "head $?" >>"$verdict"; }
	! broken || exit 255
}

# The same of the names on stdin, together.
together() {
	xargs -0 -s "$names_bytes_max" sh "$0" batch "$spool" single || {
		echo "xargs $?" >>"$verdict"
		exit 255
	}
}

# A batch of a list, for busybox's tar, which takes names only as arguments and knows links only within one call. So of a
# KIND that comes by inode, the last one's names are `held` for the next batch, or for the end. An inode with more names
# than one call takes becomes several, and is named among the words.
batch() {
	kind=$1
	shift
	if [ "$kind" = single ] || [ $# -eq 0 ]; then pack "$@" && return; fi
	for last; do :; done
	inode=${last%% *}
	case $1 in
	"$(cat divided) "*) printf '%s' "notice divided ${1#* }" | tr '\n' '?' >&2 && echo >&2 ;;
	esac
	for name; do
		case $name in
		"$inode "*) printf '%s\000' "${name#* }" >&3 ;;
		*) printf '%s\000' "${name#* }" ;;
		esac
	done >>held 3>last
	echo none >divided
	case $1 in
	"$inode "*)
		cat last >>held
		[ "$(wc -c <held)" -gt $((names_bytes_max / 2)) ] || return 0
		echo "$inode" >divided
		: >last
		;;
	esac
	together <held
	mv last held
}

# One archive of the names on stdin.
archive() {
	if find_tar; then
		# Records of 64 KiB: a sixth of the writes, and what `cut_up` counts.
		# shellcheck disable=SC2046  # words on purpose
		run "$tar" -C / $(gnu_flags "$1") --blocking-factor=128 --null --no-unquote --no-recursion -T - -cf -
	else
		: >held
		echo none >divided
		run xargs -0 sh "$0" batch "$spool" "$1"
		[ ! -s held ] || broken || together <held
		broken || run head -c 1024 /dev/zero
	fi
}

squeeze() {
	case $squeeze in
	none) cut_up ;;
	gzip) run gzip -1 -c | cut_up ;;
	zstd) run zstd -q -1 -c | cut_up ;;
	esac
}

# The spool can't be written, for REASON: nothing more goes into it. Taking a file away needs no room.
spoiled() {
	rm -f going u.*
	echo "$1" >&2
	echo "spool 1" >>verdict
}

# Chunk N of SIZE bytes, complete in its slot, becomes visible: its line says size and checksum.
publish() {
	slot=c.$(($1 % window))
	if has cksum; then sum="cksum $(cksum <"$slot")"; else sum="md5 $(md5sum <"$slot")"; fi
	# "kind sum rest": what the tool says behind the sum is not wanted.
	kind=${sum%% *} rest=${sum#* }
	{ echo "chunk $1 $2 $kind ${rest%% *}" >"m.new.$1" && mv "m.new.$1" "m.$1"; } || spoiled "chunk $1 can't be told of"
}

# The next chunk of stdin into slot $1; leaves its size in $size. What GNU tar writes comes in whole records, so their
# count tells the size, and a slot's file can be written over: that takes half the time of new pages for each chunk.
fill() {
	keep=''
	[ "$records" = odd ] || keep=conv=notrunc
	# shellcheck disable=SC2086  # one word, or none
	said=$(dd of="c.$1" bs=65536 count=$((chunk_bytes / 65536)) iflag=fullblock $keep 2>&1) || {
		spoiled "$said"
		return 1
	}
	if [ "$records" = odd ]; then
		size=$(wc -c <"c.$1")
	else
		# "FULL+PARTIAL records in"
		size=$((${said%%+*} * 65536))
		[ "$size" -eq "$chunk_bytes" ] || dd if=/dev/null of="c.$1" bs=65536 seek="${said%%+*}" 2>/dev/null
		case $said in *+0\ records\ in*) ;; *) spoiled "the archive ends in the middle of a record" ;; esac
	fi
}

# Waits until index N may be used: when N - $window was acknowledged, whose slot it takes. Files tell, so nothing that is
# killed can lose count. False when nothing more can be written.
take_turn() {
	wait_while 999999999 test -e "u.$(($1 - window))"
	echo 2>/dev/null >"u.$1" || spoiled "chunk $1 can't be begun"
	[ -e going ]
}

# Cuts stdin into chunks, at most $window of them unacknowledged; a seam marks the archive's end.
cut_up() {
	read -r index <index
	size=$chunk_bytes
	while take_turn "$index" && [ "$size" -eq "$chunk_bytes" ] && fill $((index % window)) && [ "$size" -gt 0 ]; do
		# Beside the next dd: a checksum must not keep tar waiting.
		publish "$index" "$size" &
		index=$((index + 1))
	done
	wait
	[ -e going ] || return
	{ echo "seam $index" >m.new && mv m.new "m.$index" && over index $((index + 1)); } || spoiled "an end can't be told of"
}

# All archives of the plan, one after the other. First all entries with one link, then all with several, so that the
# latter come last in the whole; those that no link leads to from the others, together.
archives() {
	apart=''
	eval "$plan"
	records=odd
	if [ "$squeeze" = none ] && find_tar; then records=whole; fi
	for names in 'single linked apart' 'linked apart' apart; do
		if [ ! -e going ] || broken; then return; fi
		[ "$names" = 'single linked apart' ] || [ -s "${names%% *}" ] || continue
		# shellcheck disable=SC2086  # words on purpose
		list $names | archive "${names%% *}" | squeeze
	done
}

# Only what was tried gets the reader's name: it may be of another version, lack a library here, or hang. A call whose
# answer was lost is made again.
try_reader() {
	begin
	if cd "$spool" 2>/dev/null && [ ! -e reader ]; then
		chmod 700 reader.new
		# Not `{ … } 2>/dev/null`: a shell keeps what it will turn back to, the call's own pipe here, and so would the one
		# that watches, which outlives the trial.
		(
			./reader.new --version >said 2>&1 &
			trial=$!
			(
				for _ in 1 2 3 4 5 6 7 8 9 10; do
					sleep 1
					kill -0 "$trial" || exit
				done
				kill -KILL "$trial"
			) &
			watcher=$!
			wait "$trial"
			code=$?
			kill "$watcher"
			exit "$code"
		) </dev/null >/dev/null 2>&1
		code=$?
		if [ "$code" -eq 0 ] && [ "$(cat said)" = "$1" ]; then
			mv reader.new reader
		else
			rm -f reader.new
			echo "code $code"
			echo "said $(head -c 200 said | tr '\n' ' ')"
		fi
	fi
	if [ -e reader ]; then echo "ours"; fi
	echo "done try"
}

# Everything, through our own reader: one archive. It fills slots as `cut_up` does, and leaves their number.
read_whole() {
	run ./reader guest-reader . "$window" "$chunk_bytes" "$(sed -n 's/^#= //p' "$0")"
}

# Writes a small file over another in one piece, without a process and without any room: a full disk stops nothing.
over() { printf '%-40s\n' "$2" 1<>"$1"; }

# Who has the machine: whom the lock names, or that one's heir, and so on. An heir came when the one before was dead; its
# link has a name that only one can make, and all of them go with the last.
holder() {
	owner=''
	while heir=$(readlink "$lock$owner"); do owner=$heir; done
	[ -n "$owner" ]
}

# Whether freeze $1 lives: its beat moves, or, before it has one, its spool is younger than its lease.
alive() {
	if read -r before <"$folder/.smolfreeze-$1/beat"; then
		sleep 3
		read -r after <"$folder/.smolfreeze-$1/beat" && [ "$before" != "$after" ]
	else
		age=$(($(date +%s) - $(stat -c %Y "$folder/.smolfreeze-$1" || echo 0)))
		[ "$age" -ge 0 ] && [ "$age" -lt "$2" ]
	fi
} 2>/dev/null

# Asks the producer of spool $1 to end, and waits for that a while.
ask_to_end() {
	# Not `:`, which ends the whole shell where the spool was never made.
	echo 2>/dev/null >"$1/stop"
	pace
	wait_while 60 test -e "$1/beat"
}

prepare() {
	begin
	# A host that did not hear the first answer asks again.
	made=${made:-$(stat -c %.9Y "$folder")}
	# Anybody in the guest may have put something else there.
	[ -L "$lock" ] || [ ! -e "$lock" ] || rm -rf "$lock"
	[ -z "$3" ] || ask_to_end "$folder/.smolfreeze-$3"
	for _ in 1 2 3 4 5; do
		if holder && [ "$owner" = "$id" ]; then break; fi
		case $owner in '' | "$3") ;; *) ! alive "$owner" "$2" || break ;; esac
		link=$lock$owner
		{ mkdir "$spool"; ln -sn "$id" "$link"; } 2>/dev/null
		# Who was just leaving may have taken away what led here.
		holder
		[ "$owner" = "$id" ] || [ "$(readlink "$link")" != "$id" ] || rm -f "$link"
	done
	if [ "$owner" != "$id" ]; then
		leave
		echo "busy $owner"
	elif
		for stale in "$folder"/.smolfreeze-*; do
			if [ -d "$stale" ] && [ "$stale" != "$spool" ]; then rm -rf "$stale"; fi
		done
		free=$(df -Pk "$folder" | sed -n '2s/^.* \([0-9][0-9]*\)  *[0-9]*%.*/\1/p') && [ "${free:-0}" -lt "$1" ]
	then
		echo "full $free"
	elif echo "$made" >"$spool/made"; then
		untouched
		echo "ready"
	fi
	echo "done prepare"
}

# The spool's own folder gets the time back that it had before us: an unchanged machine gives unchanged layers. GNU's tools
# know nanoseconds; busybox's stat gives whole seconds for the same format, and its touch takes no others.
untouched() { touch -d "@$made" "$folder" || touch -d "@${made%.*}" "$folder"; } 2>/dev/null

# Removes every trace: the lock, if it is ours, before the heirs, to whom only it leads, and before the spool, without
# which we are dead to others; then the spool.
leave() {
	cd /
	if holder && [ "$owner" = "$id" ]; then rm -f "$lock" "$lock"?*; fi
	for _ in 1 2 3; do rm -rf "$spool" && break; done
	[ -z "$made" ] || untouched
}

# Ends everything of ours. The group is only killed when it is our own: an agent may share one with what it starts.
finish() {
	trap : TERM
	stat='' own=no
	{ read -r stat </proc/$$/stat; } 2>/dev/null
	# shellcheck disable=SC2086  # words on purpose: state, parent, group
	set -- ${stat##*) }
	if [ "${3:-}" = $$ ]; then own=yes; fi
	if [ "$own" = yes ]; then kill -TERM 0; else kill "$producer" 2>/dev/null; fi
	leave
	if [ "$own" = yes ]; then kill -KILL 0; fi
	exit 0
}

# Beats, and watches for a reason to end: the lease (seconds without a sign of the host), a stop, an heir.
keep_watch() {
	tick=1 tick_ms=1000 ticks_max=$1 beat=0 quiet=0 seen='' now=''
	if [ "$short" != 1 ]; then tick=0.2 tick_ms=200 ticks_max=$(($1 * 5)); fi
	while [ "$quiet" -lt "$ticks_max" ] && [ ! -e stop ] && [ ! -L "$lock$id" ] && [ -d "$spool" ]; do
		# A process either way; our own is over as soon as there is a stop.
		{ [ -e reader ] && ./reader guest-pause . "$tick_ms"; } 2>/dev/null || sleep "$tick"
		beat=$((beat + 1))
		{ over beat "$beat" && read -r now <sign; } 2>/dev/null || break
		if [ "$now" = "$seen" ]; then quiet=$((quiet + 1)); else quiet=0 seen=$now; fi
		# A producer that was killed tells of no end.
		kill -0 "$producer" 2>/dev/null || { read -r now <state && [ "$now" != running ]; } || {
			wait "$producer"
			echo "producer $?" >>verdict
			over state "end 0" || break
		}
	done
}

produce() {
	window=$1 chunk_bytes=$(($2 * 1024)) squeeze=$3 lease=$4 hold=$5
	cd "$spool" || exit 1
	holder
	if [ "$owner" != "$id" ]; then over state "busy $owner" && exit 0; fi
	# A start that was made twice, because its answer was lost, must not disturb the first.
	mkfifo words.pipe 2>/dev/null || exit 0
	plan=$(sed -n 's/^#: //p' "$0")
	pace
	echo "$short $long" >pace
	# What is to be said on a full disk has its room from here on.
	dd if=/dev/zero of=words bs="${words_kib}k" count=1 2>/dev/null
	echo >verdict
	for file in going $hold; do : >"$file"; done
	for file in index sign beat; do over "$file" 0; done
	over state running
	(
		{
			dd of=words bs=1024 count="$words_kib" iflag=fullblock conv=notrunc 2>/dev/null
			cat >/dev/null
		} <words.pipe &
		reader=$!
		{
			archiver=archives
			if [ -e reader ]; then archiver=read_whole; fi
			wait_while 999999999 test -e hold
			"$archiver"
		} 2>words.pipe
		wait "$reader"
		read -r index <index
		over state "end ${index:-0}"
	) &
	producer=$!
	keep_watch "$lease"
	finish
}

# Whether there is nothing to tell of, and may be later.
nothing_new() {
	[ ! -e "m.$from" ] && [ -d "$spool" ] || return
	if read -r state <state && [ "$state" != running ]; then return 1; fi
	# One process, where each look of ours takes one; it may come to be while we look.
	! [ -e reader ] || ! ./reader guest-wait "$spool" "$from" "$seconds"
}

next() {
	begin
	cd "$spool" 2>/dev/null || {
		holder
		echo "gone $owner"
		echo "done $5"
		return
	}
	over sign "$5"
	[ "$4" -eq 0 ] || [ ! -e hold ] || rm -f hold
	ack=$1 ack_to=$2 from=$3 pauses=$4 answer=$5
	set --
	while [ "$ack" -lt "$ack_to" ]; do
		set -- "$@" "m.$ack" "u.$ack"
		ack=$((ack + 1))
	done
	[ $# -eq 0 ] || rm -f "$@"
	pace
	# At most that many seconds, counted in pauses: a guest's clock may jump.
	state='' seconds=$((pauses + 1))
	if [ "$short" != 1 ]; then pauses=$((pauses * 10 + 20)); fi
	wait_while "$pauses" nothing_new 2>/dev/null
	# State before chunks: an end that is seen has all its chunks before it.
	{ read -r state <state; } 2>/dev/null
	while [ -e "m.$from" ]; do
		read -r line <"m.$from" && echo "$line"
		from=$((from + 1))
	done
	echo "state ${state:-starting}"
	for number in beat work; do
		{ read -r value <"$number" && echo "$number $value"; } 2>/dev/null
	done
	case $state in
	end*)
		sed -n 's/^./verdict &/p' verdict
		tr -d '\000' <words | sed 's/^/word /'
		;;
	esac
	echo "done $answer"
}

stop() {
	begin
	ask_to_end "$spool"
	# Nobody was watching: what still runs there ends when its folder is gone.
	leave
	if [ -e "$spool" ]; then echo "left $spool"; fi
	echo "done stop"
}

# survey PLAN: sizes through find where it can print them, else through stat.
survey() {
	eval "$1"
	begin
	cd / && if is_gnu find; then
		walk ! -type s -printf '%y %s %n\n'
	else
		walk ! -type s -exec stat -c '%A %s %h' {} + | sed 's/^-[^ ]*/f/'
	fi 2>/dev/null | awk '{ entries++ } $1 == "f" { size = $2 / ($3 > 0 ? $3 : 1); bytes += 512 * int((size + 511) / 512) }
		$1 == "f" && $2 > largest { largest = $2 } END { printf "survey %d %.0f %.0f\n", entries, bytes, largest }'
	echo "done survey"
}

case $verb in
prepare | try | produce | batch | next | stop)
	spool=${1:?a spool}
	shift
	folder=${spool%/*}
	id=${spool##*/.smolfreeze-}
	lock=$folder/.smolfreeze.lock
	export killed verdict="$spool/verdict" TMPDIR="$spool"
	made=''
	{ read -r made <"$spool/made"; } 2>/dev/null
	;;
esac
case $verb in
whoami) whoami_ ;;
try) try_reader "$@" ;;
look | survey | prepare | produce | batch | next | stop) "$verb" "$@" ;;
*) echo "no such verb: $verb" >&2 && exit 64 ;;
esac
