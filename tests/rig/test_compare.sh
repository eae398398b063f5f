#!/bin/bash
# Tests list.sh and compare.py on themselves: a faithful copy has no difference, each kind of damage is found, and the
# same tree listed by GNU tools and by busybox is the same. As root; needs no L1.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)/l1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
one=$work/one two=$work/two

mkdir -p "$one"/{folder/deep,proc,workspace}
cd "$one"
echo content > folder/file
ln folder/file folder/deep/again
ln -s ../file folder/deep/link
mkfifo pipe
mknod device c 1 3
echo odd > $'folder/blank and \377'
echo kept > proc/hidden
chmod 1777 folder/deep
chown 12:34 folder/file
setfattr -n user.note -v text folder/file 2> /dev/null || echo "no extended attributes here" >&2

copy() { rm -rf "$two" && mkdir "$two" && tar -C "$one" --xattrs -cf - . | tar -C "$two" --xattrs -xpf -; }
list() { sh "$here/list.sh" "$1" proc > "$2"; }
compare() { python3 "$here/compare.py" "$@" "$work/1" "$work/2"; }

failed=0
finds() { # DAMAGE EXPECTED-LINE
    copy
    (cd "$two" && eval "$1")
    list "$two" "$work/2"
    if compare > "$work/found" 2> /dev/null || ! grep -q -- "$2" "$work/found"; then
        echo "not found: $1" && cat "$work/found" && failed=1
    fi
}

list "$one" "$work/1"
copy
list "$two" "$work/2"
compare || failed=1
finds 'rm pipe' 'missing: ./pipe'
finds 'echo x > new' 'too much: ./new'
finds 'chmod 700 folder' './folder: mode is 0o700'
finds 'chown 0:0 folder/file' './folder/file: owner is 0:0'
finds 'touch -d @1 folder/file' './folder/file: mtime is 1'
finds 'printf conTent > folder/file' './folder/file: sha256'
finds 'cp -a folder/file x; mv x folder/file' './folder/file: same file as'
finds 'ln -sfn other folder/deep/link' './folder/deep/link: target is other'
finds 'rm device; mknod device c 1 5' './device: device is 1:5'
finds 'rm pipe; echo > pipe' './pipe: type'
finds 'rm folder/blank*' 'missing: ./folder/blank and'
if grep -q user.note "$work/1"; then finds 'setfattr -x user.note folder/file' './folder/file: xattrs'; fi

sed '/^xattr/d' "$work/1" > "$work/expected" && mv "$work/expected" "$work/1"
if busybox stat -c %n / > /dev/null 2>&1; then
    mkdir "$work/bin"
    for name in sh find stat sha256sum sed; do ln -s "$(command -v busybox)" "$work/bin/$name"; done
    PATH=$work/bin sh "$here/list.sh" "$one" proc > "$work/2"
    compare || failed=1
fi
head -n 3 "$work/1" > "$work/2"
compare > /dev/null 2>&1 && { echo "a listing that was cut off was taken"; failed=1; }
(cd "$one" && rm -r workspace/ && mkdir "$work/grafted" && echo seed > "$work/grafted/notes")
list "$one" "$work/1" && copy && mkdir "$two/workspace" && cp -a "$work/grafted/notes" "$two/workspace/"
chmod --reference="$work/grafted" "$two/workspace"
list "$two" "$work/2" && list "$work/grafted" "$work/3"
compare --graft "workspace=$work/3" || failed=1
[ "$failed" = 0 ] && echo "compare.py finds what it should"
exit "$failed"
