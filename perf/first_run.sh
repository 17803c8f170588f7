#!/usr/bin/env bash
# All that waits for a GPU, in order: proofs first, then figures.
#
#     perf/first_run.sh                  every step
#     perf/first_run.sh versions tests   or in four calls of less than ten minutes each: this,
#     perf/first_run.sh sanitize         this,
#     perf/first_run.sh speed            this,
#     perf/first_run.sh precisions training    and this
#     perf/first_run.sh -o DIR bench     one step by its name, into a folder of one's own
#     perf/first_run.sh -l               the steps, with their limits in seconds
#
# A folder (-o, or OUT, or first_run) receives what each step says in a file of its name, results, and summary.txt. A
# step that fails, or is stopped at its limit, does not keep the next from running; one that lacks a GPU or a tool is
# skipped and says so. Exit code 1 if a step failed. PYTHON names the interpreter (python3).
#
# shellcheck disable=SC2329  # steps are called by their names
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
folder=${OUT:-first_run}
SKIPPED=77

declare -A LIMITS=(
    [versions]=40 [tests]=540
    [memcheck]=210 [racecheck]=210 [initcheck]=140
    [versus]=110 [bench]=260 [modes]=240 [training]=240 [scaling]=130 [profile]=70
)
ORDER=(versions tests memcheck racecheck initcheck versus bench modes training scaling profile)
declare -A GROUPS_OF=(
    [sanitize]="memcheck racecheck initcheck" [speed]="versus bench scaling profile" [precisions]="modes" [all]="${ORDER[*]}"
)

# Every product, every length, spaced samples and sums, on layers small enough for a tool that slows them a hundredfold.
SMALL="every_tile or pointwise_products or every_length or backward_and_spectral or strided or dilated"
OURS="numba_fftconv" # in the mangled name of each kernel
ONE_LAYER='
import numba_fftconv, torch
x, w = torch.randn(128, 64, 64, 64, device="cuda"), torch.randn(64, 64, 9, 9, device="cuda")
numba_fftconv.conv2d(x, w)
torch.cuda.synchronize()
'

# ---- what steps are made of

limited() { timeout --kill-after=10 "${LIMITS[$step]}" "$@"; }

skip() {
    echo "skipped: $*"
    return "$SKIPPED"
}

need_gpu() { nvidia-smi -L >/dev/null 2>&1 || skip "nvidia-smi finds no GPU"; }

# The path of a tool of the CUDA toolkit, which is often beside the PATH, or in a wheel.
tool() {
    command -v "$1" && return
    local wheels found
    wheels=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia
    for found in /usr/local/cuda/bin/"$1" /opt/nvidia/nsight-compute/*/"$1" "$wheels"/*/compute-sanitizer/"$1"; do
        [[ -x $found ]] && echo "$found" && return
    done
    return 1
}

# Without torch's memory pool every array has bounds of its own.
sanitize() {
    need_gpu || return
    local sanitizer
    sanitizer=$(tool compute-sanitizer) || { skip "compute-sanitizer is not installed"; return; }
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 limited "$sanitizer" --tool "$1" "${@:2}" --target-processes application-only \
        --report-api-errors no --error-exitcode 9 --print-limit 20 \
        "$python" -m pytest -m gpu -p no:cacheprovider -k "$SMALL" tests/test_gpu*.py
}

benchmark() { need_gpu && limited "$python" perf/bench.py --device cuda --json "$folder" "$@"; }

# ---- steps

versions() {
    git log -1 --format='commit %H' 2>/dev/null
    nvidia-smi || echo "no nvidia-smi"
    nvidia-smi --query-gpu=name,driver_version,power.limit,clocks.max.sm,memory.total --format=csv 2>/dev/null
    uname -a
    limited "$python" -c '
import sys
from importlib.metadata import distributions
print("python", sys.version)
print(*sorted({f"{each.name}=={each.version}" for each in distributions()}, key=str.lower), sep="\n")
'
}

tests() { need_gpu && limited "$python" -m pytest -m gpu -p no:cacheprovider -rsfE tests; }

memcheck() { sanitize memcheck --kernel-name "kns=$OURS"; }

racecheck() { sanitize racecheck --kernel-name "kns=$OURS"; }

# Of all kernels: what others write is initialised too.
initcheck() { sanitize initcheck; }

versus() {
    [[ -f perf/versus_nvcc.py ]] || { skip "there is no perf/versus_nvcc.py"; return; }
    limited "$python" perf/versus_nvcc.py 'transform_t32*' 'product_64x64*'
}

bench() { benchmark fbfft --parts layers memory launch --seconds 2; }

# Products on tensor cores; a step that is stopped has left the files of those before it.
modes() {
    need_gpu || return
    local precision
    for precision in tf32x3 bf16x3 tf32; do
        benchmark fbfft --parts layers --seconds 1 --precision "$precision" || return
    done
}

training() { benchmark fbfft --parts training --seconds 2; }

scaling() { benchmark --parts scaling --passes forward --seconds 2; }

# Clocks are left as the benchmark has them.
profile() {
    need_gpu || return
    local profiler
    profiler=$(tool ncu) || { skip "ncu is not installed"; return; }
    limited "$profiler" --set full --clock-control none --kernel-name-base mangled \
        --kernel-name 'regex:(transform|product)_kernel' --launch-count 3 "$python" -c "$ONE_LAYER"
}

# ---- all of them

run() {
    local start=$SECONDS code result last
    echo "---- $step"
    "$step" 2>&1 | tee "$folder/$step.txt"
    code=${PIPESTATUS[0]}
    case $code in
    0) result=ok ;;
    "$SKIPPED") result=skipped ;;
    124 | 137) result="stopped at ${LIMITS[$step]} s" ;;
    *) result="failed ($code)" ;;
    esac
    [[ $result == ok || $result == skipped ]] || failed=1
    last=$(grep -v '^[[:space:]]*$' "$folder/$step.txt" | tail -1 | cut -c 1-90)
    rows+=("$(printf '%-10s %-18s %5s s   %s' "$step" "$result" $((SECONDS - start)) "$last")")
}

usage() { awk 'NR == 1 { next } /^#/ && !/shellcheck/ { sub(/^# ?/, ""); print; next } { exit }' "$0"; }

while getopts "o:lh" option; do
    case $option in
    o) folder=$OPTARG ;;
    l)
        for step in "${ORDER[@]}"; do echo "$step ${LIMITS[$step]}"; done
        exit
        ;;
    h) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
done
shift $((OPTIND - 1))

steps=()
for word in "${@:-all}"; do
    named=${GROUPS_OF[$word]:-$word}
    for step in $named; do
        if [[ -z ${LIMITS[$step]:-} ]]; then
            echo "no step is called $step: give ${!GROUPS_OF[*]} ${ORDER[*]}" >&2
            exit 2
        fi
        steps+=("$step")
    done
done

mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 2
cd "$root" || exit 2
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=0
rows=()
for step in "${steps[@]}"; do run; done
printf '%s\n' "${rows[@]}" >"$folder/summary.txt"
echo "---- summary, in $folder"
cat "$folder/summary.txt"
exit $failed
