#!/usr/bin/env python3
"""Makes the inputs in `seeds/`, with which the fuzz targets begin: small files, a few for each.

    fuzz/make_seeds.py [FOLDER]

`changesets` serves the targets `apply` and `headers`, `images` the targets `archive` and `load`.
Archives come from GNU tar and Python's tarfile in each of their formats, and from bsdtar where it is
installed. What fuzzing found is kept beside them, in files whose names begin with `found-`, which
this script leaves alone.
"""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "seeds")
LONG = "long/" + "n" * 120 + "/" + "m" * 90


def seed(target, name, data):
    folder = os.path.join(ROOT, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def short(tar):
    """Without the zeros that fill the last record."""
    return tar.rstrip(b"\0") + b"\0" * (-len(tar.rstrip(b"\0")) % 512 + 1024)


def tree(place):
    """A small tree with a file of each kind that any user may make."""
    os.makedirs(f"{place}/d/e")
    for name, text in [("f", "hello\n"), ("d/g", "deep"), ("d/.wh.gone", ""), ("d/e/.wh..wh..opq", "")]:
        with open(f"{place}/{name}", "w") as file:
            file.write(text)
    os.symlink("f", f"{place}/l")
    os.symlink("/etc/passwd", f"{place}/d/absolute")
    os.link(f"{place}/f", f"{place}/h")
    os.mkfifo(f"{place}/p")
    os.makedirs(f"{place}/{os.path.dirname(LONG)}")
    with open(f"{place}/{LONG}", "w") as file:
        file.write("long")
    os.setxattr(f"{place}/f", "user.seed", b"value\0=\n")
    with open(f"{place}/s", "wb") as file:
        file.seek(8192)
        file.write(b"data")
        file.truncate(24576)
    os.chmod(f"{place}/d", 0o2755)
    for folder, folders, files in os.walk(place, topdown=False):
        for name in files + folders:
            os.utime(f"{folder}/{name}", (1000000000, 1000000000), follow_symlinks=False)
    os.utime(place, (1000000000, 1000000000))


def run(*command):
    done = subprocess.run(command, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def written_by_programs():
    with tempfile.TemporaryDirectory() as place:
        tree(place)
        common = ["--sort=name", "--mtime=@1000000000", "--owner=5:5", "--group=6:6", "--numeric-owner"]
        for form in ["gnu", "oldgnu", "posix", "ustar", "v7"]:
            names = ["."] if form in ("gnu", "oldgnu", "posix") else ["d", "f", "h", "l"]
            extra = ["--sparse"] if form in ("gnu", "oldgnu", "posix") else []
            extra += ["--xattrs", "--acls", "--pax-option=delete=atime,delete=ctime"] if form == "posix" else []
            yield f"gnu-tar-{form}", run("tar", "-C", place, "-cf", "-", f"--format={form}", *common, *extra, *names)
        for version in ["0.0", "0.1", "1.0"]:
            options = ["--format=posix", "--sparse", f"--sparse-version={version}", "--pax-option=delete=atime,delete=ctime"]
            yield f"gnu-tar-sparse-{version}", run("tar", "-C", place, "-cf", "-", *options, *common, "s")
        if shutil.which("bsdtar"):
            for form in ["pax", "ustar", "gnutar", "v7"]:
                names = ["."] if form in ("pax", "gnutar") else ["d", "f", "h", "l"]
                yield f"bsdtar-{form}", run("bsdtar", "-C", place, "-cf", "-", f"--format={form}", *names)


def entry(name, kind=tarfile.REGTYPE, data=b"", link="", pax=None, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    info.mode, info.mtime, info.pax_headers = 0o644, 1000000000, pax or {}
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def python_tar(entries, form):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return short(out.getvalue())


DIR, SYM, LNK = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
CHR, BLK, FIFO = tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE

CASES = {
    "plain": [entry("d", DIR, mode=0o755), entry("d/f", data=b"hello"), entry("l", SYM, link="d/f"),
              entry("h", LNK, link="d/f")],
    "devices": [entry("null", CHR, devmajor=1, devminor=3), entry("disk", BLK, devmajor=8), entry("p", FIFO)],
    "setuid": [entry("su", data=b"#!", mode=0o6755, uid=0), entry("t", DIR, mode=0o1777)],
    "whiteouts": [entry("a/b/.wh.c"), entry("a/.wh..wh..opq"), entry("a/new", data=b"x"), entry(".wh.gone"),
                  entry(".wh..wh.plnk/1.2"), entry("a/b/c/again", data=b"y")],
    "opaque-root": [entry(".wh..wh..opq"), entry("./", DIR, mode=0o700), entry("f")],
    "outside": [entry("../out", data=b"x"), entry("a/../../out")],
    "through-symlink": [entry("l", SYM, link="../.."), entry("l/link", data=b"x"), entry("m", SYM, link="/"),
                        entry("m/etc/x", data=b"y"), entry("loop", SYM, link="loop"), entry("q", DIR)],
    "link-outside": [entry("h", LNK, link="../../outside"), entry("g", LNK, link="/outside")],
    "links-first": [entry("b", LNK, link="a"), entry("c", LNK, link="b"), entry("a", data=b"last")],
    "replaced": [entry("x", data=b"one"), entry("x", DIR), entry("x/y", data=b"two"), entry("x", SYM, link="z"),
                 entry("x", data=b"three"), entry("x/y")],
    "replaced-directory": [entry("d", DIR), entry("d/f", data=b"1"), entry("d/e", DIR), entry("d", data=b"2"),
                           entry("d", DIR), entry("d/f", data=b"3")],
    "pax": [entry("f", data=b"x", pax={"SCHILY.xattr.user.a": "b", "mtime": "-1.25", "uid": "70000",
                                       "SCHILY.acl.access": "user::rw-,user:5:r--:5,group::r--,mask::r--,other::---"}),
            entry("d", DIR, pax={"SCHILY.acl.default": "user::rwx,group::r-x,other::---", "atime": "5.5"}),
            entry("o", DIR, pax={"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.user.overlay.redirect": "/d"}),
            entry("r", pax={"SCHILY.xattr.user.containers.override_stat": "0:0:0644:char-1-3"})],
    "long": [entry(LONG, data=b"x"), entry("s", SYM, link="t" * 300), entry("é\n", data=b"y")],
    "big-ids": [entry("f", uid=3000000000, gid=4294967294, mtime=8589934592.5)],
    "deep": [entry("/".join(["a"] * 60) + "/f", data=b"x")],
}


def octal(value, width):
    return f"{value:0{width - 1}o}".encode() + b"\0"


def header(name, kind, size, rest=b"", magic=b"ustar\00000"):
    block = name.ljust(100, b"\0") + octal(0o644, 8) + octal(5, 8) + octal(6, 8) + octal(size, 12)
    block += octal(1000000000, 12) + b" " * 8 + kind + b"\0" * 100 + magic + b"\0" * 64 + octal(0, 8) * 2
    block = (block[:345] + rest).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data):
    return data + b"\0" * (-len(data) % 512)


def records(pairs):
    out = b""
    for key, value in pairs:
        body = b" " + key + b"=" + value + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        out += str(length).encode() + body
    return out


def pax_entry(pairs, name, data, kind=b"0", head=b"x"):
    extended = records(pairs)
    return header(b"PaxHeaders/x", head, len(extended)) + padded(extended) + header(name, kind, len(data)) + padded(data)


def by_hand():
    end = b"\0" * 1024
    sparse = b"\0" * 41 + octal(0, 12) + octal(3, 12) + octal(1000, 12) + octal(2, 12) + b"\0" * 48
    sparse += b"\1" + octal(5000, 12)
    more = (octal(2000, 12) + octal(1, 12)).ljust(512, b"\0")
    yield "gnu-sparse-extended", header(b"s", b"S", 6, sparse, b"ustar  \0") + more + padded(b"abcdef") + end
    map1 = padded(b"2\n0\n3\n1000\n2\n")
    yield "pax-sparse-1.0", pax_entry([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
                                       (b"GNU.sparse.name", b"s"), (b"GNU.sparse.realsize", b"5000")],
                                      b"GNUSparseFile/s", map1 + b"abcde") + end
    yield "pax-sparse-0.1", pax_entry([(b"GNU.sparse.size", b"5000"), (b"GNU.sparse.numblocks", b"2"),
                                       (b"GNU.sparse.map", b"0,3,1000,2")], b"s", b"abcde") + end
    yield "pax-sparse-0.0", pax_entry([(b"GNU.sparse.size", b"5000"), (b"GNU.sparse.offset", b"0"),
                                       (b"GNU.sparse.numbytes", b"3"), (b"GNU.sparse.offset", b"1000"),
                                       (b"GNU.sparse.numbytes", b"2")], b"s", b"abcde") + end
    yield "pax-sparse-hole", pax_entry([(b"GNU.sparse.size", b"5000")], b"s", b"") + end
    yield "pax-global", pax_entry([(b"path", b"g"), (b"mtime", b"1.5")], b"a", b"", head=b"g") + header(b"b", b"5", 0) + end
    yield "pax-odd", pax_entry([(b"path", b"x/\xff\n"), (b"size", b"4"), (b"SCHILY.xattr.user.n", b"\0=\n"),
                                (b"RHT.security.selinux", b"label\0"), (b"comment", b"")], b"a", b"abcd") + end
    yield "gnu-long", header(b"././@LongLink", b"L", 151, magic=b"ustar  \0") + padded(b"n" * 150 + b"\0") \
        + header(b"././@LongLink", b"K", 201, magic=b"ustar  \0") + padded(b"k" * 200 + b"\0") \
        + header(b"n", b"2", 0, magic=b"ustar  \0") + end
    yield "base-256", header(b"f", b"0", 3).replace(octal(3, 12), b"\x80" + b"\0" * 10 + b"\3", 1) + padded(b"abc") + end
    yield "no-end", header(b"f", b"0", 3) + padded(b"abc")
    yield "behind-the-end", header(b"f", b"0", 3) + padded(b"abc") + end + b"anything"
    yield "cut-off", header(b"f", b"0", 3000) + b"abc"
    yield "huge", header(b"f", b"0", 0o77777777777) + b"abc"


def archives():
    for name, data in written_by_programs():
        if data:
            yield name, short(data)
    forms = [("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("ustar", tarfile.USTAR_FORMAT)]
    for name, entries in CASES.items():
        for form_name, form in forms:
            if form_name != "pax" and name not in ("plain", "long", "devices"):
                continue
            try:
                yield f"python-{form_name}-{name}", python_tar(entries, form)
            except ValueError:
                pass  # What the format cannot hold.
    yield from by_hand()


def documents(parts):
    """An archive as the documents in it: see `archive` in src/fuzz_bed.rs."""
    return b"documents\n" + b"\n".join(b"--- " + name.encode() + b"\n" + body for name, body in parts)


def config(layers, **more):
    ids = [f"sha256:@{layer}@" for layer in layers]
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}, **more}).encode()


OCI = "application/vnd.oci.image."


def descriptor(kind, number, **more):
    return {"mediaType": OCI + kind, "digest": f"sha256:@{number}@", "size": f"#{number}#", **more}


def dump(value):
    """JSON in which lengths that are to be filled in are numbers."""
    import re
    return re.sub(r'"(#\d+#)"', r"\1", json.dumps(value)).encode()


def images():
    one = python_tar([entry("d", DIR, mode=0o755), entry("d/f", data=b"one")], tarfile.GNU_FORMAT)
    two = python_tar([entry("d/.wh.f"), entry("g", data=b"two")], tarfile.GNU_FORMAT)
    layer = "blobs/sha256/@~"
    blob = "blobs/sha256/@"
    history = {"history": [{"created_by": "a"}, {"empty_layer": True}, {"created_by": "b"}], "config": {"Env": ["A=b"]}}
    name = {"annotations": {"org.opencontainers.image.ref.name": "latest", "io.containerd.image.name": "docker.io/library/x:y"}}
    manifest = {"schemaVersion": 2, "config": descriptor("config.v1+json", 3),
                "layers": [descriptor("layer.v1.tar", 4), descriptor("layer.v1.tar", 5)]}
    yield "oci", documents([
        ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        ("index.json", dump({"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", 2, **name)]})),
        (blob, dump(manifest)), (blob, config([4, 5], **history)), (layer, one), (layer, two)])
    platform = {"platform": {"architecture": "arm64", "os": "linux", "variant": "v8"}}
    yield "oci-index", documents([
        ("index.json", dump({"schemaVersion": 2, "manifests": [descriptor("index.v1+json", 1)]})),
        (blob, dump({"schemaVersion": 2, "manifests": [
            descriptor("manifest.v1+json", 2, platform={"architecture": "amd64", "os": "linux"}),
            descriptor("manifest.v1+json", 2, platform={"architecture": "unknown", "os": "unknown"}),
            {**descriptor("manifest.v1+json", 9, **platform), "digest": "sha256:" + "0" * 64, "size": 5}]})),
        (blob, dump({**manifest, "layers": manifest["layers"][:1]})), (blob, config([4])), (layer, one)])
    docker = [{"Config": "@1@.json", "RepoTags": ["x:y", "z"], "Layers": ["@2@/layer.tar", "l.tar"]}]
    yield "docker", documents([
        ("manifest.json", dump(docker)), ("@.json", config([2, 3])), ("@/layer.tar~", one), ("l.tar~", two),
        ("repositories", b"{}")])
    yield "docker-symlink", documents([
        ("manifest.json", dump([{"Config": "c.json", "RepoTags": None, "Layers": ["a/layer.tar", "b/layer.tar"]}])),
        ("c.json", config([2, 2])), ("a/layer.tar~", one), ("b/layer.tar", b"-> ../a/layer.tar")])
    yield "docker-no-layers", documents([
        ("manifest.json", dump([{"Config": "c.json", "RepoTags": [], "Layers": None}])), ("c.json", config([]))])
    yield "both", documents([
        ("index.json", dump({"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", 2)]})),
        ("manifest.json", dump([{"Config": "blobs/sha256/@3@", "RepoTags": ["a/b:c"], "Layers": ["blobs/sha256/@4@"]}])),
        (blob, dump({**manifest, "layers": manifest["layers"][:1]})), (blob, config([4])), (layer, one)])
    yield "not-an-image", one
    yield "gzip", gzip.compress(one, mtime=0)


def record_seeds():
    digest, other = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "ab" * 32
    key = digest
    diff = "sha256:" + digest
    stack = {"diff_id": diff, "variant": "chain-" + other, "opaque_root": True}
    values = [
        {"version": 1, "namespace": "user", "id": "0" * 32},
        {"key": key, "diff_id": diff, "diff_size": 5, "inodes": 2, "changeset_size": 2048, "opaque_root": False,
         "explicit_root": True, "created": 1790000000000000000},
        {"chain": diff, "parent": "sha256:" + other, "depth": 2, "run": [stack, {"diff_id": diff}], "below": diff},
        {"id": diff, "chain": diff, "diff_ids": [diff], "loaded": -1},
        {"id": digest, "name": "web", "image": diff, "image_name": "alpine:latest", "chain": diff, "created": 0,
         "mount": {"target": "/mnt/a%25b%FF", "boot_id": "x", "namespace": 4026531841, "volatile": True, "read_only": False}},
        {"name": "alpine:latest", "image": diff},
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff]}},
    ]
    for index, value in enumerate(values):
        yield f"record-{index}", bytes([index]) + json.dumps(value).encode()
    yield "newer", bytes([0]) + b'{"version": 2, "what": "is this"}'
    for index in range(7):
        yield f"broken-{index}", bytes([index]) + b'{"id": [[['


def main():
    for name, data in archives():
        seed("changesets", name, data)
    seed("changesets", "gzip", gzip.compress(python_tar(CASES["plain"], tarfile.PAX_FORMAT), mtime=0))
    for name, data in images():
        seed("images", name, data)
    seed("compression", "plain", b"\7hello, hello, hello")
    seed("compression", "gzip", gzip.compress(b"hello " * 50, mtime=0))
    seed("compression", "gzip-members", gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0) + b"\0" * 20)
    seed("compression", "gzip-bomb", gzip.compress(b"\0" * 20_000_000, mtime=0))
    if shutil.which("zstd"):
        pack = lambda data: subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout
        seed("compression", "zstd", pack(b"hello " * 50))
        seed("compression", "zstd-frames", pack(b"one") + b"\x50\x2a\x4d\x18\3\0\0\0abc" + pack(b"two"))
        seed("changesets", "zstd", pack(python_tar(CASES["plain"], tarfile.PAX_FORMAT)))
    content, raw = b"\2\1f\12", b"\1\5bytes"
    seed("kept", "plain", b"\0" + raw + content.replace(b"\12", b"\n") + b"\2\3d/g\4" + b"\0")
    seed("kept", "runs", b"\0" + b"\3\6sparse\2\5\3\x80\x20\7" + b"\0")
    seed("kept", "moved", b"\1" + b"\2\1f\3" + raw + b"\4\1f\1" + b"\0")
    seed("kept", "outside", b"\0" + b"\2\1l\3" + b"\0")
    for name, data in [("stat", "5:6:0644:char-1-3"), ("stat-short", "0:0:755"), ("redirect", "/a/b"), ("sibling", "old"),
                       ("xattr", "user.overlay.overlay.opaque"), ("trusted", "trusted.overlay.origin"),
                       ("acl", "user::rw-,user:lisa:r-x:1001,group::r--,mask::r-x,other::---"),
                       ("acl-short", "u::rwx\ng::r-x\no:---\nm:rwx\ndefault:u:5:r--")]:
        seed("marks", name, data)
    for index, name in enumerate(["plain", "plain", "kernel", "wild"]):
        body = bytes((index * 7 + step * 37 + step * step) % 256 for step in range(120))
        seed("merged", f"{name}-{index}", bytes([index]) + body)
    mountinfo = rb"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - overlay overlay rw,lowerdir=/a:/b\054c,upperdir=/u,workdir=/w,volatile"
    seed("mounts", "mountinfo", mountinfo + b"\n" + mountinfo.replace(b"master:1 ", b"") + b"\n")
    seed("mounts", "subid", "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nann:100000:65536\n1000:300000:10\nroot:5:4294967295\n")
    seed("mounts", "idmap", "         0       1000          1\n         1     100000      65536\n")
    seed("mounts", "plan", bytes([0, 2, 1, 0, 0, 1, 0, 0]) + b"\5upper\4work\3a:b\3c,d\4e\\\"f")
    hexes = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for index, name in enumerate([
            "alpine", "docker.io/library/alpine:3.18", "localhost:5000/a/b_c__d-e:T.1", "[::1]:80/x", "Host/x@sha256:" + hexes,
            "sha256:" + hexes, hexes, "chain-" + hexes, "layer-" + hexes + ".1", "linux/arm/v7", "Linux/x86_64", "gzip",
            "./a//b/../c/", ".wh.gone", ".wh..wh..opq", ".wh..", "a%25b%FF", "../x", "web_1.2", "docker.io/localhost/x"]):
        seed("names", f"name-{index:02}", name)
    for name, data in record_seeds():
        seed("records", name, data)


main()
