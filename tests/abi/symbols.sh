#!/usr/bin/env bash
# The library shows exactly the functions that its header declares: no symbol of ours, or of what is linked in.
set -euo pipefail
library=$1
header=$2

shown=$(nm -D --defined-only "$library" | awk '$2 != "A" {sub(/@.*/, "", $3); print $3}' | sort)
declared=$(grep -oE '\bcmpool_[a-z_]+\(' <(grep -vE '^ *//' "$header") | tr -d '(' | sort -u)
[[ -n $declared ]] || { echo "no functions found in $header" && exit 1; }
if ! diff <(echo "$declared") <(echo "$shown"); then
    echo "expected what $header declares (<), saw what $library shows (>)"
    exit 1
fi
readelf -d "$library" | grep -q 'SONAME.*\[libcmpool\.so\.[0-9]*\]' || { echo "no soname" && exit 1; }
echo "$(wc -l <<<"$shown") functions, nothing else"
