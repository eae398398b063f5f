#!/usr/bin/env python3
"""unpack.py REGISTRY/NAME:TAG FOLDER - pulls an image over plain HTTP, checks every digest and diff_id, and unpacks its
layers one over the other into FOLDER, as the image specification has it (layer.md): marks of deletions, and entries of
another kind. Only what Debian has (zstd, GNU tar), nothing of smolfreeze."""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request

READERS = {"zstd": ["zstd", "-dc"], "gzip": ["gzip", "-dc"], "tar": ["cat"]}
ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"


def get(registry, path, accept="*/*"):
    request = urllib.request.Request(f"http://{registry}/v2/{path}", headers={"Accept": accept})
    return urllib.request.urlopen(request, timeout=600)


def manifest_of(registry, name, reference):
    raw = get(registry, f"{name}/manifests/{reference}", ACCEPT).read()
    document = json.loads(raw)
    if "manifests" in document:
        return manifest_of(registry, name, document["manifests"][0]["digest"])
    return document


def blob(registry, name, descriptor, file):
    """Stores a blob in `file`, and fails unless it is what its descriptor says."""
    hasher, size = hashlib.sha256(), 0
    with get(registry, f"{name}/blobs/{descriptor['digest']}") as body:
        while piece := body.read(1 << 20):
            hasher.update(piece)
            size += len(piece)
            file.write(piece)
    file.flush()
    if f"sha256:{hasher.hexdigest()}" != descriptor["digest"] or size != descriptor["size"]:
        sys.exit(f"blob {descriptor['digest']} is not what its name says")


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


def make_way(tar, folder):
    """Removes what the layer deletes, and what has another kind in it."""
    with tarfile.open(tar) as layer:
        for entry in layer:
            above, name = os.path.split(os.path.join(folder, entry.name))
            path = os.path.join(above, name.removeprefix(".wh."))
            is_folder = os.path.isdir(path) and not os.path.islink(path)
            if path != os.path.join(above, name) or is_folder != entry.isdir():
                remove(path)


def unpack(layer, diff_id, folder):
    form = layer["mediaType"].rsplit("tar", 1)[-1].lstrip("+.") or "tar"
    with tempfile.NamedTemporaryFile() as stored, tempfile.NamedTemporaryFile() as plain:
        blob(registry, name, layer, stored)
        subprocess.run(READERS[form], stdin=open(stored.name, "rb"), stdout=plain, check=True)
        with open(plain.name, "rb") as tar:
            actual = hashlib.file_digest(tar, "sha256").hexdigest()
        if f"sha256:{actual}" != diff_id:
            sys.exit(f"layer {layer['digest']}: its tar is sha256:{actual}, the config says {diff_id}")
        make_way(plain.name, folder)
        tar = ["tar", "-C", folder, "--exclude=.wh.*", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", plain.name]
        subprocess.run(tar, check=True)


registry, _, rest = sys.argv[1].partition("/")
name, _, tag = rest.rpartition(":")
os.makedirs(sys.argv[2], exist_ok=True)
manifest = manifest_of(registry, name, tag)
with tempfile.TemporaryFile() as file:
    blob(registry, name, manifest["config"], file)
    file.seek(0)
    config = json.load(file)
diff_ids = config["rootfs"]["diff_ids"]
if len(diff_ids) != len(manifest["layers"]):
    sys.exit("the config has another number of layers than the manifest")
for layer, diff_id in zip(manifest["layers"], diff_ids):
    unpack(layer, diff_id, sys.argv[2])
print(json.dumps(config.get("config", {})))
