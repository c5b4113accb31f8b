#!/usr/bin/env bash
# A layer of 100,000 small files: `overlay2 layer apply` and GNU `tar -x` in turn.
#
#   benches/against_tar.sh [DIRECTORY] [RUNS]      (default: a temporary directory, 5 runs)
#
# Prints the seconds of each run, and the median of each. overlay2 also takes two digests and keeps
# what it needs to write the same tar again. Needs python3 and GNU tar.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
place=$(mktemp -d "${1:-${TMPDIR:-/tmp}}/overlay2-bench.XXXXXX")
runs=${2:-5}
trap 'rm -rf "$place"' EXIT
cargo build --quiet --release --features cli
overlay2=$PWD/target/release/overlay2

python3 - "$place/layer.tar" <<'PYTHON'
import io, os, random, sys, tarfile
random.seed(1)
with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as tar:
    for directory in range(1000):
        entry = tarfile.TarInfo(f"d{directory:03}")
        entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, 1700000000
        entry.uid, entry.gid = os.getuid(), os.getgid()
        tar.addfile(entry)
        for file in range(100):
            content = random.randbytes(random.randint(100, 4000))
            entry = tarfile.TarInfo(f"d{directory:03}/f{file:02}")
            entry.size, entry.mode, entry.mtime = len(content), 0o644, 1700000000
            entry.uid, entry.gid = os.getuid(), os.getgid()
            tar.addfile(entry, io.BytesIO(content))
PYTHON

# seconds COMMAND...: how long it takes, on standard output.
seconds() {
  local began=$EPOCHREALTIME
  "$@" >/dev/null
  awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f\n", b - a }'
}

for _ in $(seq "$runs"); do
  rm -rf "$place/store" "$place/tree"
  mkdir "$place/tree"
  ours=$(seconds "$overlay2" --root "$place/store" --durability none layer apply -q "$place/layer.tar")
  theirs=$(seconds tar -x -f "$place/layer.tar" -C "$place/tree")
  echo "overlay2 $ours   tar $theirs"
done | tee "$place/times"
median() { awk "{ print \$$1 }" "$place/times" | sort -n | sed -n "$(((runs + 1) / 2))p"; }
echo "median: overlay2 $(median 2) s, tar $(median 4) s"
