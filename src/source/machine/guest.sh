#!/bin/sh
# smolfreeze's hand in the guest: lists, archives and spools a machine's own files, chunk by chunk.
#
# Called as `sh guest.sh VERB ARGUMENT...` (or, before it is copied in, as `sh -c "$(cat guest.sh)" smolfreeze VERB …`):
#   whoami                                       user, folder and environment of a plain exec
#   look                                         everything else the host wants to know before it makes a plan
#   survey PLAN                                  entries and bytes that PLAN selects
#   prepare SPOOL NEEDED_KIB                     makes the spool folder, if there is room and no other freeze
#   produce SPOOL WINDOW CHUNK_KIB SQUEEZE LEASE READER
#                                                lists, archives, cuts, waits; run detached
#   next SPOOL ACK_FROM ACK_TO FROM WAIT SIGN    acknowledges, waits, answers with what is ready
#   stop SPOOL                                   ends it and removes every trace
# Every answer starts with `smolfreeze 1` and ends with a line `done …`: what has no such end was cut off by somebody.
#
# In a spool (0700): guest.sh (this file; in lines that start with `#: `, the plan; in the line that starts with `#= `,
# what our own reader is to read), reader.new (a program that may be our reader), reader (that program, if it runs here
# and calls itself READER; does the work of find, tar, dd and cksum, and waits for what `next` waits for), c.S (a chunk;
# chunk N lies in slot S = N modulo the window), u.N (chunk N has its slot: until it is acknowledged nothing touches it),
# m.N (its line, there once the chunk is complete), state, sign (changes with every `next`), beat (changes while the
# producer lives), words (what the tools said on stderr), verdict (their exit codes), linked and apart (names of files with
# several links), stop (asks it to end).
# POSIX sh; GNU tools or busybox. `sort -z`, `dd iflag=fullblock` and `ln -n` are beyond POSIX, and in both.
# shellcheck disable=SC2094  # the small files are read and then replaced, never both at once
set -u
umask 077
LC_ALL=C
PATH=${PATH:-/bin}:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
unset TAR_OPTIONS POSIXLY_CORRECT CDPATH GZIP ZSTD_CLEVEL

words_kib=256
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

# Pauses the Nth time in a row: eager for half a second, then without burning the guest's cores. Each is a process.
pause() { if [ "$1" -lt 12 ]; then sleep "$short"; else sleep "$long"; fi; }

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

# Depth first, in name order: `/` sorts before everything else. Swapping two bytes twice changes nothing, so a name with
# \001 in it survives.
in_order() { run tr '/\001' '\001/' | run sort -z -u | run tr '/\001' '\001/'; }

# "device.inode name" in front of each name; sorted by it, then cut off again. sed works on lines, so line break and NUL
# change places around it.
by_inode() { run sort -z -u | run tr '\n\000' '\000\n' | run sed 's/^[^ ]* //' | run tr '\n\000' '\000\n'; }

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
# several, by inode). One that another one follows must end in a member without content, so that the host can tell the
# end mark's zeros from a file's.
list() {
	case $1 in
	single) walk_once "$spool/linked" "$spool/apart" | in_order ;;
	*) by_inode <"$1" ;;
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

# One archive of the names on stdin.
archive() {
	if find_tar; then
		# Records of 64 KiB: a sixth of the writes, and what `cut_up` counts.
		# shellcheck disable=SC2046  # words on purpose
		run "$tar" -C / $(gnu_flags "$1") --blocking-factor=128 --null --no-unquote --no-recursion -T - -cf -
	else
		# busybox's tar takes names only as arguments: one archive a batch, each without its end mark of 1,024 zeros.
		# shellcheck disable=SC2016  # the inner shell expands it
		run xargs -0 sh -c '[ $# -gt 0 ] || exit 0
			{ tar -c -C / --numeric-owner --no-recursion -f - "$@"; echo "tar $?" >>"$verdict"; } |
				{ head -c -1024; echo "head $?" >>"$verdict"; }' sh
		run head -c 1024 /dev/zero
	fi
}

squeeze() {
	case $squeeze in
	none) cut_up ;;
	gzip) run gzip -1 -c | cut_up ;;
	zstd) run zstd -q -1 -c | cut_up ;;
	esac
}

# Chunk N of SIZE bytes, complete in its slot, becomes visible: its line says size and checksum.
publish() {
	if has cksum; then sum="cksum $(cksum <"c.$3")"; else sum="md5 $(md5sum <"c.$3")"; fi
	# "kind sum rest": what the tool says behind the sum is not wanted.
	kind=${sum%% *} rest=${sum#* }
	echo "chunk $1 $2 $kind ${rest%% *}" >"m.new.$1" && mv "m.new.$1" "m.$1"
}

# The next chunk of stdin into slot $1; leaves its size in $size. What GNU tar writes comes in whole records, so their
# count tells the size, and a slot's file can be written over: that takes half the time of new pages for each chunk.
fill() {
	if [ "$records" = whole ]; then
		dd of="c.$1" bs=65536 count=$((chunk_bytes / 65536)) iflag=fullblock conv=notrunc 2>dd.words || return
		# "FULL+PARTIAL records in"
		read -r count _ <dd.words
		[ "${count#*+}" = 0 ] || {
			echo "the archive ends in the middle of a record" >dd.words
			return 1
		}
		size=$((${count%+*} * 65536))
		[ "$size" -eq "$chunk_bytes" ] || dd if=/dev/null of="c.$1" bs=65536 seek="${count%+*}" 2>dd.words
	else
		dd of="c.$1" bs=65536 count=$((chunk_bytes / 65536)) iflag=fullblock 2>dd.words || return
		size=$(wc -c <"c.$1")
	fi
}

# Waits until index N may be used: when N - $window was acknowledged, whose slot it takes. Files tell, so nothing that is
# killed can lose count.
take_turn() {
	turns=0
	while [ -e "u.$(($1 - window))" ]; do
		pause "$turns"
		turns=$((turns + 1))
	done
	: >"u.$1"
}

# Cuts stdin into chunks, at most $window of them unacknowledged; a seam marks the archive's end.
cut_up() {
	read -r index <index
	take_turn "$index"
	while
		slot=$((index % window))
		fill "$slot" || {
			cat dd.words >&2
			echo "dd 1" >>verdict
			: >failed
			return
		}
		[ "$size" -gt 0 ]
	do
		# Beside the next dd: a checksum must not keep tar waiting.
		publish "$index" "$size" "$slot" &
		index=$((index + 1))
		take_turn "$index"
		[ "$size" -eq "$chunk_bytes" ] || break
	done
	wait
	echo "seam $index" >m.new && mv m.new "m.$index"
	echo $((index + 1)) >index
}

# All archives of the plan, one after the other. First all entries with one link, then all with several, so that the
# latter come last in the whole; those that no link leads to from the others, together.
archives() {
	apart=''
	eval "$plan"
	records=odd
	if [ "$squeeze" = none ] && find_tar; then records=whole; fi
	for names in 'single linked apart' 'linked apart' apart; do
		[ ! -e failed ] || return
		[ "$names" = 'single linked apart' ] || [ -s "${names%% *}" ] || continue
		# shellcheck disable=SC2086  # words on purpose
		list $names | archive "${names%% *}" | squeeze
	done
}

# Whether our own reader is there, and runs here. Only what was tried gets its name; where the host gave no words for it
# to call itself, it may not be whole.
is_ours() {
	[ -e reader.new ] || return
	{ [ -n "$version" ] && chmod 700 reader.new && [ "$(./reader.new --version)" = "$version" ]; } 2>/dev/null &&
		mv reader.new reader && return
	rm -f reader.new
	return 1
}

# Everything, through our own reader: one archive. It fills slots as `cut_up` does, and leaves their number.
read_whole() {
	run ./reader guest-reader --window "$window" --chunk-bytes "$chunk_bytes" --spool . "$(sed -n 's/^#= //p' "$0")"
}

set_state() { echo "$*" >state.new && mv state.new state; }

# As long as any other, so that it is written over another in one piece, without a process that renames.
number() { printf '%020d\n' "$1"; }

alive() {
	before='' after=''
	read -r before <"$1/beat" || return 1
	sleep 3
	read -r after <"$1/beat" || return 1
	[ "$before" != "$after" ]
} 2>/dev/null

# Spools of runs that died, and their lock: removed. True when no live freeze is left.
sweep() {
	owner=$(readlink "$lock" 2>/dev/null)
	if [ -n "$owner" ]; then
		if alive "$folder/.smolfreeze-$owner"; then return 1; fi
		rm -f "$lock"
	fi
	for stale in "$folder"/.smolfreeze-*; do
		if [ -d "$stale" ] && [ "$stale" != "$spool" ]; then rm -rf "$stale"; fi
	done
}

prepare() {
	begin
	if ! sweep; then
		echo "busy $owner"
	elif free=$(df -Pk "$folder" | sed -n '2s/^.* \([0-9][0-9]*\)  *[0-9]*%.*/\1/p') && [ "${free:-0}" -lt "$1" ]; then
		echo "full $free"
	elif [ -e "$spool/made" ]; then
		# A host that did not hear the first answer asks again.
		echo "ready"
	elif made=$(stat -c %.9Y "$folder") && { mkdir "$spool" || [ -d "$spool" ]; }; then
		echo "$made" >"$spool/made"
		echo "ready"
	fi
	echo "done prepare"
}

# The spool's own folder gets the time back that it had before us: an unchanged machine gives unchanged layers.
untouched() {
	[ -n "${made:-}" ] || { read -r made <"$spool/made"; } 2>/dev/null
	# GNU's tools know nanoseconds; busybox's stat gives whole seconds for the same format, and its touch takes no others.
	touch -d "@${made:-}" "$folder" 2>/dev/null || touch -d "@${made%.*}" "$folder" 2>/dev/null
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
	[ "$(readlink "$lock")" = "$id" ] && rm -f "$lock"
	cd /
	for _ in 1 2 3; do rm -rf "$spool" && break; done
	untouched
	if [ "$own" = yes ]; then kill -KILL 0; fi
	exit 0
}

# Beats, and watches for a reason to end: the lease (seconds without a sign of the host), a stop, a lost lock.
keep_watch() {
	tick=1 ticks_max=$1 beat=0 quiet=0 seen='' now=''
	if [ "$short" != 1 ]; then tick=0.2 ticks_max=$(($1 * 5)); fi
	while [ "$quiet" -lt "$ticks_max" ] && [ ! -e stop ] && [ -d "$spool" ]; do
		sleep "$tick"
		beat=$((beat + 1))
		{ number "$beat" 1<>beat; } 2>/dev/null || break
		# Every second or so; a fork each.
		[ $((beat % 5)) -ne 0 ] || [ "$(readlink "$lock")" = "$id" ] || break
		read -r now <sign
		if [ "$now" = "$seen" ]; then quiet=$((quiet + 1)); else quiet=0 seen=$now; fi
	done
}

produce() {
	window=$1 chunk_bytes=$(($2 * 1024)) squeeze=$3 lease=$4 version=${5:-}
	cd "$spool" || exit 1
	if ! ln -sn "$id" "$lock" 2>/dev/null; then
		# A start that was made twice, because its answer was lost, must not disturb the first.
		[ "$(readlink "$lock")" = "$id" ] || set_state "busy $(readlink "$lock")"
		exit 0
	fi
	number 0 >beat
	plan=$(sed -n 's/^#: //p' "$0")
	pace
	echo "$short $long" >pace
	echo 0 >index
	number 0 >sign
	: >verdict
	untouched
	set_state running
	mkfifo words.pipe
	(
		{
			dd of=words bs=1024 count="$words_kib" iflag=fullblock 2>/dev/null
			cat >/dev/null
		} <words.pipe &
		reader=$!
		if is_ours; then read_whole; else archives; fi 2>words.pipe
		wait "$reader"
		read -r index <index
		set_state "end $index"
	) &
	producer=$!
	keep_watch "$lease"
	finish
}

next() {
	begin
	cd "$spool" 2>/dev/null || {
		echo "gone $(readlink "$lock" 2>/dev/null)"
		echo "done $5"
		return
	}
	number "$5" 1<>sign
	ack=$1 ack_to=$2 index=$3 turns_max=$4 answer=$5
	set --
	while [ "$ack" -lt "$ack_to" ]; do
		set -- "$@" "m.$ack" "u.$ack"
		ack=$((ack + 1))
	done
	[ $# -eq 0 ] || rm -f "$@"
	pace
	# At most that many seconds, counted in pauses: a guest's clock may jump.
	turns=0 state='' seconds=$((turns_max + 1))
	if [ "$short" != 1 ]; then turns_max=$((turns_max * 10 + 20)); fi
	while [ ! -e "m.$index" ] && [ -d "$spool" ] && [ "$turns" -lt "$turns_max" ]; do
		read -r state <state && [ "$state" != running ] && break
		# One process, where each look of ours takes one; it may come to be while we look.
		if [ -e reader ] && ./reader guest-wait --spool "$spool" --index "$index" --seconds "$seconds"; then break; fi
		pause "$turns"
		turns=$((turns + 1))
	done 2>/dev/null
	# State before chunks: an end that is seen has all its chunks before it.
	{ read -r state <state; } 2>/dev/null
	while [ -e "m.$index" ]; do
		read -r line <"m.$index" && echo "$line"
		index=$((index + 1))
	done
	echo "state ${state:-starting}"
	{ read -r beat <beat && echo "beat $beat"; } 2>/dev/null
	case $state in
	end*)
		sed 's/^/verdict /' verdict
		sed 's/^/word /' words
		;;
	esac
	echo "done $answer"
}

stop() {
	begin
	# Not `:`, which ends the whole shell where the spool was never made.
	echo 2>/dev/null >"$spool/stop"
	pace
	turns=0
	while [ -e "$spool/beat" ] && [ "$turns" -lt 60 ]; do
		pause "$turns"
		turns=$((turns + 1))
	done
	# Nobody was watching: what still runs there ends when its folder is gone.
	[ "$(readlink "$lock" 2>/dev/null)" = "$id" ] && rm -f "$lock"
	{ read -r made <"$spool/made"; } 2>/dev/null && rm -rf "$spool" && untouched
	rm -rf "$spool"
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
prepare | produce | next | stop)
	spool=${1:?a spool}
	shift
	folder=${spool%/*}
	id=${spool##*/.smolfreeze-}
	lock=$folder/.smolfreeze.lock
	export verdict="$spool/verdict" TMPDIR="$spool"
	;;
esac
case $verb in
whoami) whoami_ ;;
look | survey | prepare | produce | next | stop) "$verb" "$@" ;;
*) echo "no such verb: $verb" >&2 && exit 64 ;;
esac
