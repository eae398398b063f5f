#!/bin/bash
# get_smolvm.sh FOLDER - puts the real smolvm command line into FOLDER, from its wheel: `smolvm`, its libraries, the
# agent's root filesystem, the disk templates. Does nothing when it is there. SMOL_VERSION: the release (1.32.2).
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
version=${SMOL_VERSION:-1.32.2}
mkdir -p "$1"
folder=$(cd "$1" && pwd)
exec 9> "$folder/lock"
flock 9
[ "$(cat "$folder/version" 2> /dev/null)" = "$version" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: \
    --platform manylinux_2_28_x86_64 --python-version 3.11 -d "$work" "smolmachines==$version"
python3 -m zipfile -e "$work"/smolmachines-*.whl "$work"
rm -rf "$folder"/{smolvm,lib*,*.zst,*.ext4}
cp "$work"/smol/lib*.so* "$work"/smol/*.zst "$folder/"
# Under its wheel's name (smol-vmm) it takes itself for a packed machine without its other half, and says so.
install -m 755 "$work/smol/smol-vmm" "$folder/smolvm"
# smolvm unpacks the two templates at its first start: 30 GB of zeros, minutes under emulation. Holes are quicker.
for disk in overlay storage; do
    zstd -qdf --sparse "$folder/$disk-template.ext4.zst" -o "$folder/$disk-template.ext4"
done
echo "$version" > "$folder/version"
