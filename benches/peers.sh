#!/usr/bin/env bash
# The command beside those of its peers that are installed, on one image: its layers unpacked into an
# empty store, containers made, mounted and removed, changes committed, the image removed.
#
#   benches/peers.sh IMAGE [RUNS] [CHANGED]      (default: 7 runs, 1,000 changed files)
#
# IMAGE is an OCI layout, or an archive that `overlay2 load` reads. All take turns, in another order
# each time; printed are medians and ratios as a Markdown table. Needs root and python3. Peers: podman,
# buildah, containerd (its own daemon), skopeo, umoci, bsdtar, GNU tar, fuse-overlayfs.
#
#   PEERS="podman tar"   only these         PEERS_PLACE=DIR   where all stores lie (default: /var/tmp)
#   OVERLAY2_BIN=FILE    a built command; else it is built
#
# benches/tree_image.py makes an image of 100,000 files from a tree on disk.
set -uo pipefail
cd "$(dirname "$(realpath "$0")")/.."
[[ $# -ge 1 ]] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
[[ $EUID -eq 0 ]] || { echo "peers.sh: containers of the peers need root" >&2; exit 2; }
image=$(realpath "$1") runs=${2:-7} changed=${3:-1000}
# In lower case, as peers want it of what they take for a name.
place=$(realpath "${PEERS_PLACE:-/var/tmp}")/overlay2-peers.$$
mkdir "$place" || exit 1
daemon=

# drop BEGINNING: deletes what begins so, and unmounts what a peer left mounted there, deepest first.
drop() {
  awk -v place="$1" 'index($5, place) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
    while read -r target; do umount -l "$target"; done
  rm -rf "$1"*
}

clean_up() {
  [[ -z $daemon ]] || { kill "$daemon" && wait "$daemon"; } 2>/dev/null
  drop "$place"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if [[ -z ${OVERLAY2_BIN:-} ]]; then
  cargo build --quiet --release --features cli || exit 1
  OVERLAY2_BIN=${CARGO_TARGET_DIR:-target}/release/overlay2
fi
overlay2=$(realpath "$OVERLAY2_BIN")

# ours STORE ARGUMENTS...: our command.
ours() { "$overlay2" --root "$1" --durability "$durability" "${@:2}"; }
durability=none

# What all of them read: a layout with compressed layers, and the same as one file.
layout=$place/layout
if [[ -d $image ]]; then
  cp -r "$image" "$layout"
else
  mkdir "$layout"
  name=$(ours "$place/convert" load -q -i "$image" | head -1 | sed 's/^Loaded image: //')
  ours "$place/convert" save -q --compression gzip "$name" | tar -x -C "$layout" || exit 1
  rm -rf "$place/convert"
fi
python3 - "$layout" >"$place/blobs" <<'PYTHON'
# The index is given one tag, so that each peer finds the same image; printed are the layers.
import json, sys
layout = sys.argv[1]
index = json.load(open(f"{layout}/index.json"))
manifest = index["manifests"][0]
manifest["annotations"] = {"org.opencontainers.image.ref.name": "peers",
                           "io.containerd.image.name": "images.local/measured:peers"}
index["manifests"] = [manifest]
json.dump(index, open(f"{layout}/index.json", "w"))
blob = lambda digest: f"{layout}/blobs/{digest.replace(':', '/')}"
for layer in json.load(open(blob(manifest["digest"])))["layers"]:
    print(blob(layer["digest"]))
PYTHON
[[ -s $place/blobs ]] || { echo "peers.sh: $image is no image with layers" >&2; exit 1; }
tar -C "$layout" -cf "$place/image.tar" .
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$place/policy.json"
python3 - "$place/changes" "$changed" <<'PYTHON'
import os, random, sys
random.seed(1)
for number in range(int(sys.argv[2])):
    directory = f"{sys.argv[1]}/d{number // 100}"
    os.makedirs(directory, exist_ok=True)
    open(f"{directory}/f{number}", "wb").write(random.randbytes(random.randint(200, 8000)))
PYTHON

# timed STEP WHO COMMAND...: runs it, and notes the seconds that it took.
timed() {
  local step=$1 who=$2 began status
  shift 2
  began=$EPOCHREALTIME
  "$@" >"$place/out" 2>"$place/err" </dev/null
  status=$?
  local ended=$EPOCHREALTIME
  if ((status)); then
    echo "peers.sh: $who, $step: $(tail -1 "$place/err")" >&2
    return 1
  fi
  awk -v a="$began" -v b="$ended" -v step="$step" -v who="$who" \
    'BEGIN { printf "%s\t%s\t%.6f\n", step, who, b - a }' >>"$place/times"
}
told() { cat "$place/out"; }
change() { cp -r "$place/changes" "$1/changes"; }

# until_told WHO COMMAND...: the seconds until it says what it removed.
until_told() {
  local who=$1 began=$EPOCHREALTIME line
  shift
  exec 3< <("$@")
  read -r line <&3
  awk -v a="$began" -v b="$EPOCHREALTIME" -v who="$who" \
    'BEGIN { printf "remove, until it is told\t%s\t%.6f\n", who, b - a }' >>"$place/times"
  exec 3<&-
  wait $! 2>/dev/null
}

measure_overlay2() {
  local store=$1 who=${2:-overlay2} merged
  timed unpack "$who" ours "$store" load -q -i "$layout" || return
  local name=images.local/measured:peers
  life() {
    ours "$store" create --name life "$name" && ours "$store" mount life &&
      ours "$store" unmount life && ours "$store" rm life
  }
  timed life "$who" life
  ours "$store" create --name changed "$name" >/dev/null
  merged=$(ours "$store" mount changed)
  change "$merged"
  fuse_overlayfs "$store"
  upper_by_tar "$store"
  timed diff "$who" ours "$store" diff --tar -o "$place/diff.tar" changed
  timed commit "$who" ours "$store" commit -q changed committed:1
  ours "$store" unmount changed >/dev/null
  ours "$store" rm changed >/dev/null
  ours "$store" rmi committed:1 >/dev/null
  timed remove "$who" ours "$store" rmi "$name"
  # Once more, for the moment when the image is gone.
  ours "$store" load -q -i "$layout" >/dev/null
  until_told "$who" "$overlay2" --root "$store" --durability "$durability" rmi "$name"
}

measure_overlay2_durable() {
  durability=full
  measure_overlay2 "$1" "overlay2, durable"
  durability=none
}

# Over the same layers, and the same UpperDir, as part of our own turn.
graph() {
  ours "$1" inspect changed | python3 -c \
    "import json, sys; print(json.load(sys.stdin)[0]['GraphDriver']['Data']['$2'])"
}
fuse_overlayfs() {
  wanted fuse-overlayfs && [[ $durability == none ]] || return 0
  local lower base=$place/fuse
  lower=$(graph "$1" LowerDir)
  life() {
    mkdir -p "$base"/{upper,work,merged} &&
      fuse-overlayfs -o "lowerdir=$lower,upperdir=$base/upper,workdir=$base/work" "$base/merged" &&
      umount "$base/merged" && rm -rf "$base"
  }
  timed life fuse-overlayfs life
}
upper_by_tar() {
  wanted tar && [[ $durability == none ]] || return 0
  local upper
  upper=$(graph "$1" UpperDir)
  digest() { tar -C "$upper" -cf "$place/upper.tar" . && sha256sum "$place/upper.tar"; }
  timed diff "GNU tar, sha256sum" digest
}

# podman and buildah share their store's form.
measure_podman() {
  local store=(podman --root "$1" --runroot "$1.run" --storage-driver overlay) name merged
  timed unpack podman "${store[@]}" pull -q --signature-policy "$place/policy.json" \
    "oci:$layout:peers" || return
  name=$("${store[@]}" images -q | head -1)
  life() {
    "${store[@]}" create --name life "$name" true && "${store[@]}" mount life &&
      "${store[@]}" unmount life && "${store[@]}" rm life
  }
  timed life podman life
  "${store[@]}" create --name changed "$name" true >/dev/null
  merged=$("${store[@]}" mount changed)
  change "$merged"
  timed commit podman "${store[@]}" commit -q changed committed
  "${store[@]}" unmount changed >/dev/null
  "${store[@]}" rm changed >/dev/null
  "${store[@]}" rmi committed >/dev/null
  timed remove podman "${store[@]}" rmi -f "$name"
}

measure_buildah() {
  local store=(buildah --root "$1" --runroot "$1.run" --storage-driver overlay) name merged
  timed unpack buildah "${store[@]}" pull -q --signature-policy "$place/policy.json" \
    "oci:$layout:peers" || return
  name=$("${store[@]}" images -q | head -1)
  life() {
    "${store[@]}" from --pull-never --name life "$name" && "${store[@]}" mount life &&
      "${store[@]}" umount life && "${store[@]}" rm life
  }
  timed life buildah life
  "${store[@]}" from --pull-never --name changed "$name" >/dev/null
  merged=$("${store[@]}" mount changed)
  change "$merged"
  timed commit buildah "${store[@]}" commit -q --signature-policy "$place/policy.json" \
    --disable-compression changed committed
  "${store[@]}" rm changed >/dev/null
  "${store[@]}" rmi committed >/dev/null 2>&1
  timed remove buildah "${store[@]}" rmi -f "$name"
}

measure_skopeo() {
  timed unpack skopeo skopeo --policy "$place/policy.json" copy -q "oci:$layout:peers" \
    "containers-storage:[overlay@$1+$1.run]images.local/measured:peers"
}

measure_umoci() {
  cp -r "$layout" "$1"
  timed unpack umoci umoci unpack --image "$1:peers" "$1.bundle" || return
  change "$1.bundle/rootfs"
  timed commit umoci umoci repack --image "$1:changed" "$1.bundle"
}

measure_containerd() {
  local ctr=(ctr --address "$1/sock") top merged=$place/merged
  mkdir -p "$1" "$merged"
  cat >"$1/config.toml" <<CONFIG
version = 2
root = "$1/root"
state = "$1/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$1/sock"
CONFIG
  containerd --config "$1/config.toml" >"$1.log" 2>&1 &
  daemon=$!
  for _ in {1..100}; do
    "${ctr[@]}" version >/dev/null 2>&1 && break
    sleep 0.1
  done
  if timed unpack containerd "${ctr[@]}" image import "$place/image.tar"; then
    # The one snapshot that is no other's parent.
    top=$("${ctr[@]}" snapshot ls | awk 'NR > 1 { seen[$1]; if (NF > 2) parent[$2] }
      END { for (key in seen) if (!(key in parent)) print key }')
    life() {
      "${ctr[@]}" snapshot prepare life "$top" &&
        "${ctr[@]}" snapshot mounts "$merged" life | sh && umount "$merged" &&
        "${ctr[@]}" snapshot rm life
    }
    timed life containerd life
    "${ctr[@]}" snapshot prepare changed "$top" >/dev/null
    "${ctr[@]}" snapshot mounts "$merged" changed | sh
    change "$merged"
    timed diff containerd "${ctr[@]}" snapshot diff changed
    umount "$merged"
    "${ctr[@]}" snapshot rm changed
    timed remove containerd "${ctr[@]}" image rm --sync "$("${ctr[@]}" image ls -q | head -1)"
  fi
  { kill "$daemon" && wait "$daemon"; } 2>/dev/null
  daemon=
}

# each_layer PROGRAM DIR: unpacks each layer into a directory of its own.
each_layer() {
  local number=0 blob
  while read -r blob; do
    mkdir -p "$2/$((++number))"
    "$1" -xpf "$blob" -C "$2/$number" || return
  done <"$place/blobs"
}
measure_bsdtar() {
  timed unpack bsdtar each_layer bsdtar "$1" && timed remove "rm -rf" rm -rf "$1"
}
measure_tar() { timed unpack "GNU tar" each_layer tar "$1"; }

wanted() { [[ " ${PEERS:-$1} " == *" $1 "* ]] && command -v "$1" >/dev/null; }
peers=(overlay2 overlay2_durable)
for peer in podman buildah skopeo umoci containerd bsdtar tar; do
  if wanted "$peer"; then peers+=("$peer"); fi
done
for ((run = 0; run < runs; run++)); do
  for ((turn = 0; turn < ${#peers[@]}; turn++)); do
    peer=${peers[(run + turn) % ${#peers[@]}]}
    # All of the image is in memory, and what others wrote is not.
    cat "$place/image.tar" "$layout"/blobs/*/* >/dev/null
    sync
    "measure_$peer" "$place/$peer.$run"
    drop "$place/$peer.$run"
    echo "run $((run + 1)) of $runs: $peer" >&2
  done
done

# Without the helper that fuse-overlayfs names first.
version() { "$@" 2>/dev/null | grep -v ^fusermount | grep -o '[0-9][0-9]*\.[0-9][0-9.]*' | head -1; }
echo "$(wc -l <"$place/blobs") layers, $(du -sm "$layout" | cut -f1) MB compressed; $changed changed" \
  "files; medians of $runs interleaved runs; $(nproc) processors, Linux $(uname -r)," \
  "$(stat -f -c %T "$place")"
for peer in podman buildah skopeo umoci containerd bsdtar tar fuse-overlayfs; do
  if wanted "$peer"; then printf '%s %s; ' "$peer" "$(version "$peer" --version)"; fi
done
echo
python3 - "$place/times" <<'PYTHON'
import statistics, sys
names = {"unpack": "unpack into an empty store", "life": "create, mount, unmount, remove a container",
         "diff": "the changes as a tar", "commit": "the changes committed",
         "remove": "remove the image, until its space is back",
         "remove, until it is told": "remove the image, until it is told"}
times = {}
for line in open(sys.argv[1]):
    step, who, seconds = line.rstrip("\n").split("\t")
    times.setdefault(step, {}).setdefault(who, []).append(float(seconds))
print("\n| what | who | median | times ours |\n|---|---|---|---|")
for step, name in names.items():
    medians = {who: statistics.median(all) for who, all in times.get(step, {}).items()}
    ours = medians.get("overlay2")
    for who, median in sorted(medians.items(), key=lambda pair: pair[1]):
        ratio = f"{median / ours:.2f}" if ours else "-"
        print(f"| {name} | {who} | {median * 1000:.1f} ms | {ratio} |")
PYTHON
