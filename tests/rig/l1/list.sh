#!/bin/sh
# list.sh ROOT [PATH...] - what is in ROOT, for compare.py: one line an entry, from stat, sha256sum and (where
# there is one) getfattr. Of each PATH (relative, without blanks) the folder is listed and its content is not. Runs in
# guests, so: POSIX sh, and only what GNU tools and busybox both have. Files go to the tools in batches, for under
# emulation a process costs 20 ms.
cd "$1" || exit 2
shift
prune=
for path; do prune="$prune -path ./$path/* -prune -o"; done
set -f
# shellcheck disable=SC2086 # $prune is words
{
    find . $prune -exec stat -c 'entry %f %u %g %i %s %Y %t:%T %n' {} +
    find . $prune -type f -exec sha256sum {} + | sed 's/^/sha256 /'
    QUOTING_STYLE=literal find . $prune -type l -exec stat -c 'link %N' {} +
    if command -v getfattr > /dev/null; then
        find . $prune -exec getfattr -h -d -m - -e hex {} + | sed 's/^/xattr /'
    fi
    echo end
} 2> /dev/null
