#!/usr/bin/env bash
# Everything that is to be measured on a machine with one GPU, in at most five minutes: `bash bench/gpu.sh`.
#
# Needs torch, transformers, numpy, scipy, pyarrow and pytest; no Ray, no network, no installation of s2l_ray. Parts run
# in the order of their value, and each writes its log and figures to the folder as it ends:
#
#   tests          tests/gpu
#   method-70M     train, score, cluster and select mathmix with a proxy of 70 M parameters (bench.whole_method)
#   scoring        bench.gpu of 70M: scoring beside its peers, k-means, the rate of a matrix product
#   method-160M, method-410M, scoring-160M, scoring-410M
#
#   --device cpu   small settings, to try the script on a machine without a GPU
#   --tokens FILE  tokens of mathmix, from `python -m bench.whole_method --write-tokens FILE --data FOLDER`;
#                  generated rows without it
#   --only PART    one part alone
#   --seconds N    for all parts together (default: 300; 480 on a CPU)
#   --out FOLDER   results (default: bench/results/gpu)
set -uo pipefail
cd "$(dirname "$0")/.."
device=cuda tokens="" only="" seconds="" out=bench/results/gpu
while [ $# -gt 0 ]; do
    case "$1" in
        --device) device=$2 ;; --tokens) tokens=$2 ;; --only) only=$2 ;; --seconds) seconds=$2 ;; --out) out=$2 ;;
        *) echo "unknown option $1; see the head of bench/gpu.sh" >&2; exit 2 ;;
    esac
    shift 2
done
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
mkdir -p "$out"
failed=0

part() { # name, command...
    local name=$1 left=$((seconds - SECONDS)) began=$SECONDS status
    shift
    if [ -n "$only" ] && [ "$only" != "$name" ]; then return; fi
    if [ "$left" -lt 10 ]; then echo "== $name: no time left" | tee -a "$out/summary.txt"; return; fi
    echo "== $name"
    timeout "$left" "$@" > "$out/$name.log" 2>&1
    status=$?
    [ "$status" -eq 0 ] || failed=1
    tail -n 25 "$out/$name.log"
    echo "== $name: status $status, $((SECONDS - began)) s" | tee -a "$out/summary.txt"
}

if [ "$device" = cuda ]; then
    method=() scoring=(--rows 8192) sizes="160M 410M" first=70M
    large=(--micro-batch 64) seconds=${seconds:-300}
else
    method=(--rows 64 --epochs 1 --checkpoints 2 --batch-size 16 --micro-batch 8 --tokens-per-batch 4096 --k 10)
    scoring=(--rows 32 --official-rows 8 --rounds 1 --tokens 4096 --lloyd-rows 100000) sizes="" first=70M
    large=() seconds=${seconds:-480}
fi
[ -z "$tokens" ] || method+=(--tokens "$tokens")
rm -f "$out/summary.txt"

part tests "$PYTHON" -m pytest -q -rs -p no:cacheprovider --noconftest tests/gpu
part "method-$first" "$PYTHON" -m bench.whole_method --device "$device" --size "$first" --results "$out" "${method[@]}"
part scoring "$PYTHON" -m bench.gpu --device "$device" --sizes "$first" --results "$out" "${scoring[@]}"
for size in $sizes; do
    part "method-$size" "$PYTHON" -m bench.whole_method --device "$device" --size "$size" --results "$out" "${method[@]}" "${large[@]}"
    part "scoring-$size" "$PYTHON" -m bench.gpu --device "$device" --sizes "$size" --results "$out/$size" "${scoring[@]}"
done
cat "$out/summary.txt"
exit $failed
