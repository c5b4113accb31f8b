#!/usr/bin/env python3
"""Makes an OCI layout of a tree on disk, to measure with: benches/peers.sh takes it.

    benches/tree_image.py TREE LAYOUT [FILES] [LAYERS]      (default: 100000 files in 8 layers)

TREE is any directory with many files: /usr, where Debian's packages are, or a node_modules. Where it
has fewer files than asked for, it is taken more than once, each time under another name; files above
1 MiB are left out. The same tree gives the same bytes.
"""

import gzip
import hashlib
import io
import itertools
import json
import os
import sys
import tarfile

LARGEST = 1 << 20


def files(tree):
    """All files and symlinks beneath a directory, sorted, over and over."""
    for turn in itertools.count():
        found = False
        for at, directories, names in os.walk(tree):
            directories.sort()
            links = [name for name in directories if os.path.islink(os.path.join(at, name))]
            for name in sorted(names + links):
                path = os.path.join(at, name)
                stat = os.lstat(path)
                is_file = os.path.islink(path) or os.path.isfile(path)
                if is_file and stat.st_size <= LARGEST and os.access(path, os.R_OK):
                    found = True
                    yield path, os.path.join(f"tree{turn}", os.path.relpath(path, tree))
        if not found:
            sys.exit(f"{tree} has no files")


def layer(members):
    """A changeset of these files, with the directories above them."""
    out, made = io.BytesIO(), set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, name in members:
            parents = name.split("/")[:-1]
            for end in range(1, len(parents) + 1):
                parent = "/".join(parents[:end])
                if parent not in made:
                    made.add(parent)
                    entry = tarfile.TarInfo(parent)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
            # Not as one file with several names: the others may be in another layer.
            tar.inodes = {}
            entry = tar.gettarinfo(path, name)
            entry.uname = entry.gname = ""
            if entry.isreg():
                with open(path, "rb") as content:
                    tar.addfile(entry, content)
            else:
                tar.addfile(entry)
    return out.getvalue()


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    tree, layout = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 100_000
    layers = int(sys.argv[4]) if len(sys.argv) > 4 else 8
    os.makedirs(f"{layout}/blobs/sha256")

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{layout}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    oci, source = "application/vnd.oci.image.", files(tree)
    descriptors, diff_ids = [], []
    for number in range(layers):
        share = count * (number + 1) // layers - count * number // layers
        changeset = layer(itertools.islice(source, share))
        diff_ids.append("sha256:" + hashlib.sha256(changeset).hexdigest())
        packed = gzip.compress(changeset, 6, mtime=0)
        descriptors.append(blob(packed, oci + "layer.v1.tar+gzip"))
    config = {"architecture": "amd64", "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "layers": descriptors,
                "config": blob(json.dumps(config).encode(), oci + "config.v1+json")}
    entry = blob(json.dumps(manifest).encode(), oci + "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest",
                            "io.containerd.image.name": "images.local/tree:latest"}
    with open(f"{layout}/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
    with open(f"{layout}/oci-layout", "w") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)


main()
