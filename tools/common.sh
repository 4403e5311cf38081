# shellcheck shell=bash disable=SC2034
# What the scripts beside this file share; they source it, nobody runs it.
#
#   say TEXT            a progress line, named after the script
#   die TEXT            a failure: says why and what to do, then exit 1
#   usage_error TEXT    a wrong command line: exit 2
#   jobs_max            how many compilers fit this machine's processors and free memory
#   quiet LOG COMMAND   runs COMMAND with its output in LOG, and shows its end only when it failed

script_name=$(basename "$0")
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s: %s\n' "$script_name" "$*"; }

die() {
    printf '%s: %s\n' "$script_name" "$*" >&2
    exit 1
}

usage_error() {
    printf '%s: %s; try tools/%s --help\n' "$script_name" "$*" "$script_name" >&2
    exit 2
}

# One sanitized compilation of a large source takes up to this much.
readonly kCompilerKiB=$((1536 * 1024))

jobs_max() {
    local processors free_kib fitting
    processors=$(nproc)
    free_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
    fitting=$((${free_kib:-0} / kCompilerKiB))
    ((fitting >= 1)) || fitting=1
    echo $((fitting < processors ? fitting : processors))
}

quiet() {
    local log=$1
    shift
    if "$@" >"$log" 2>&1; then return 0; fi
    printf '%s: this failed: %s\n' "$script_name" "$*" >&2
    printf '%s: the end of %s:\n' "$script_name" "$log" >&2
    tail -n 60 "$log" >&2
    return 1
}
