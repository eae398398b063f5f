#!/usr/bin/env python3
"""compare.py [--ignore PATTERN]... [--ignore-time PATH]... [--graft FOLDER=LISTING]... EXPECTED ACTUAL

Compares two listings of list.sh entry by entry: type, mode, owner, size, content, time of change (files), link target,
device, extended attributes, and which names are one file. Prints every difference; exit code 1 if there is one.
--graft puts another listing of EXPECTED's side at a folder (a bare machine's /workspace is elsewhere in its guest).
"""
import argparse
import fnmatch
import os
import stat
import sys

# What an overlay, smolvm's virtiofs or a mount adds to files, and no archive should carry.
FOREIGN_ATTRIBUTES = ("trusted.overlay.", "user.overlay.", "user.krun.", "security.selinux", "system.")


def entry_of(fields):
    mode, uid, gid, inode, size, mtime, device = fields
    mode = int(mode, 16)
    entry = {"type": stat.S_IFMT(mode), "mode": oct(stat.S_IMODE(mode)), "owner": f"{uid}:{gid}", "inode": inode}
    if stat.S_ISLNK(mode):
        entry.pop("mode")
    if stat.S_ISREG(mode):
        entry |= {"size": int(size), "mtime": int(mtime)}
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        entry["device"] = device
    return entry


def read(path):
    with open(path, "rb") as file:
        lines = file.read().decode("utf-8", "surrogateescape").split("\n")
    if lines[-2:] != ["end", ""]:
        sys.exit(f"{path}: the listing was cut off")
    entries, attributes_of, lines = {}, None, lines[:-2]
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "entry":
            *fields, name = rest.split(" ", 7)
            entries[name] = entry_of(fields)
        elif kind == "sha256":
            # A name with a backslash or a line break is quoted by some sha256sums, with a backslash in front.
            entries[rest.lstrip("\\")[66:]]["sha256"] = rest.lstrip("\\")[:64]
        elif kind == "link":
            name, target = link_of(rest)
            entries[name]["target"] = target
        elif kind == "xattr" and rest.startswith("# file: "):
            name = unquote(rest[8:])
            attributes_of = name if name in entries else f"./{name}"
        elif kind == "xattr" and "=" in rest and not rest.startswith(FOREIGN_ATTRIBUTES):
            entries[attributes_of].setdefault("xattrs", []).append(rest)
    return entries


def link_of(text):
    """`name -> target` of GNU stat, `'name' -> 'target'` of busybox's."""
    if text.startswith("'"):
        name, _, target = text[1:-1].partition("' -> '")
    else:
        name, _, target = text.partition(" -> ")
    return name, target


def unquote(name):
    """getfattr writes odd bytes as three octal digits after a backslash."""
    out, bytes_in, at = bytearray(), os.fsencode(name), 0
    while at < len(bytes_in):
        if bytes_in[at : at + 1] == b"\\" and bytes_in[at + 1 : at + 4].isdigit():
            out.append(int(bytes_in[at + 1 : at + 4], 8))
            at += 4
        else:
            out.append(bytes_in[at])
            at += 1
    return bytes(out).decode("utf-8", "surrogateescape")


def name_hard_links(entries):
    """An inode number means nothing elsewhere; the names that share it do."""
    names = {}
    for name, entry in entries.items():
        names.setdefault(entry.pop("inode"), []).append(name)
    for group in names.values():
        if len(group) > 1 and entries[group[0]]["type"] == stat.S_IFREG:
            for name in group:
                entries[name]["same file as"] = sorted(group)


def differences(expected, actual, with_attributes):
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            yield f"missing: {name}"
        elif name not in expected:
            yield f"too much: {name}"
        else:
            left, right = expected[name], actual[name]
            for field in sorted(left.keys() | right.keys()):
                if field == "xattrs" and not with_attributes:
                    continue
                if left.get(field) != right.get(field):
                    yield f"{name}: {field} is {right.get(field)}, expected {left.get(field)}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ignore", action="append", default=[])
    parser.add_argument("--ignore-time", action="append", default=[], help="smolvm writes this file again and again")
    parser.add_argument("--graft", action="append", default=[])
    parser.add_argument("--without-xattrs", action="store_true", help="the guest has no getfattr")
    parser.add_argument("expected")
    parser.add_argument("actual")
    arguments = parser.parse_args()
    expected, actual = read(arguments.expected), read(arguments.actual)
    for graft in arguments.graft:
        folder, _, path = graft.partition("=")
        for name, entry in read(path).items():
            entry["inode"] = f"{path}:{entry['inode']}"
            expected[f"./{folder}{name[1:]}"] = entry
    for side in (expected, actual):
        for name in [name for name in side if any(fnmatch.fnmatch(name, pattern) for pattern in arguments.ignore)]:
            del side[name]
        for name in arguments.ignore_time:
            side.get(name, {}).pop("mtime", None)
        name_hard_links(side)
    found = 0
    for found, difference in enumerate(differences(expected, actual, not arguments.without_xattrs), 1):
        print(os.fsencode(difference).decode("utf-8", "backslashreplace"))
    print(f"{len(expected)} entries compared, {found} differences", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
