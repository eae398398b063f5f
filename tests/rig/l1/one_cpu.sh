#!/bin/bash
# In L1: as SMOLVM_BOOT_BINARY, boots what smolvm's helper machines are with one CPU. They want four, and die of it here.
for word in "$@"; do
    if [ -f "$word" ] && grep -q '"cpus"' "$word"; then
        sed -i -E 's/("cpus": *)[0-9]+/\11/' "$word"
    fi
done
printf '%s\n' "$*" >> /share/out/boots
exec "$(command -v smolvm)" "$@"
