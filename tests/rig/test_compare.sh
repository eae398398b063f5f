#!/bin/bash
# Tests list.sh and compare.py on themselves: a faithful copy has no difference, each kind of damage is found, and the
# same tree listed by GNU tools and by busybox is the same; unpack.py gives back what a registry was given. As root;
# needs no L1.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)/l1
work=$(mktemp -d)
registry=
trap '[ -z "$registry" ] || kill "$registry" 2> /dev/null; rm -rf "$work"' EXIT
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

# unpack.py, through a registry: two layers, the second over the first.
with_registry() {
    local port=$((20000 + RANDOM % 20000)) base
    base=http://127.0.0.1:$port/v2/test/tree
    printf 'version: 0.1\nstorage: { filesystem: { rootdirectory: %s } }\nhttp: { addr: "127.0.0.1:%d" }\n' \
        "$work/registry" "$port" > "$work/registry.yml"
    docker-registry serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
    registry=$!
    for _ in $(seq 50); do curl -sf "http://127.0.0.1:$port/v2/" > /dev/null && break; sleep 0.1; done

    put() { # FILE - prints its descriptor without the media type
        local digest where
        digest=sha256:$(sha256sum < "$1" | cut -d ' ' -f 1)
        where=$(curl -sfi -X POST "$base/blobs/uploads/" | tr -d '\r' | sed -n 's/^Location: //p')
        curl -sf -T "$1" "$where&digest=$digest" -H 'Content-Type: application/octet-stream'
        printf '"digest": "%s", "size": %d' "$digest" "$(stat -c %s "$1")"
    }
    mkdir "$work/below" && echo hidden > "$work/below/pipe" # the second layer has something else of this name
    tar -C "$work/below" -cf "$work/1.tar" . && tar -C "$one" --xattrs -cf "$work/2.tar" .
    gzip -k "$work/1.tar" && zstd -q "$work/2.tar"
    printf '{"rootfs": {"diff_ids": ["sha256:%s", "sha256:%s"]}, "config": {}}' \
        "$(sha256sum < "$work/1.tar" | cut -d ' ' -f 1)" "$(sha256sum < "$work/2.tar" | cut -d ' ' -f 1)" > "$work/config"
    local type=application/vnd.oci.image
    printf '{"schemaVersion": 2, "mediaType": "%s.manifest.v1+json", "config": {"mediaType": "%s.config.v1+json", %s},
        "layers": [{"mediaType": "%s.layer.v1.tar+gzip", %s}, {"mediaType": "%s.layer.v1.tar+zstd", %s}]}' \
        $type $type "$(put "$work/config")" $type "$(put "$work/1.tar.gz")" $type "$(put "$work/2.tar.zst")" > "$work/manifest"
    curl -sf -T "$work/manifest" -H "Content-Type: $type.manifest.v1+json" "$base/manifests/latest"
    python3 "$here/unpack.py" "127.0.0.1:$port/test/tree:latest" "$two" > /dev/null
    kill "$registry" && registry=
}
if command -v docker-registry > /dev/null; then
    rm -rf "$two"
    with_registry
    list "$one" "$work/1" && list "$two" "$work/2"
    compare || failed=1
else
    echo "skipped: unpack.py, for there is no docker-registry here" >&2
fi
[ "$failed" = 0 ] && echo "compare.py finds what it should"
exit "$failed"
