#!/bin/bash
# stacked.sh ROOT.tar OUT - an image of 40 layers, made by umoci of a root filesystem and of layers that delete, replace, link
# and empty what is below them, as OUT/stacked; and what it is, unpacked by umoci, as the listing OUT/stacked.image. As root.
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 ROOT.tar OUT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(realpath "$1")
out=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# What lies in `l`, as the next layer.
layer() {
    tar -C l --sort=name --numeric-owner -cf l.tar .
    umoci raw add-layer --image "$out/stacked:t" l.tar
    rm -rf l
    mkdir l
}

umoci init --layout "$out/stacked"
umoci new --image "$out/stacked:t"
umoci raw add-layer --image "$out/stacked:t" "$root"
mkdir -p l/srv/{a/b,emptied/old,replaced,kept}
for file in a/b/gone a/stays emptied/old/x emptied/y replaced/z kept/first was-file; do echo "$file" > "l/srv/$file"; done
ln l/srv/kept/first l/srv/kept/second
ln -s a l/srv/soft
layer
mkdir -p l/srv/a/b l/srv/emptied l/srv/was-file l/srv/soft
touch l/srv/a/b/.wh.gone l/srv/emptied/.wh..wh..opq
echo new > l/srv/emptied/new
echo 'a file now' > l/srv/replaced
echo below > l/srv/was-file/below
echo 'no link' > l/srv/soft/file
chown -R 7:8 l/srv/was-file
layer
mkdir -p l/srv/kept l/srv/data
echo changed > l/srv/kept/first
touch l/srv/data/.wh.one
layer
for number in $(seq 36); do
    mkdir -p l/srv/many
    echo "$number" > "l/srv/many/$number"
    [ "$number" -lt 4 ] || touch "l/srv/many/.wh.$((number - 3))"
    layer
done
umoci raw unpack --image "$out/stacked:t" "$work/unpacked"
sh "$here/l1/list.sh" "$work/unpacked" proc sys dev run tmp var/tmp storage oldroot > "$out/stacked.image"
