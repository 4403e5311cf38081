#!/usr/bin/env bash
# Each script prints its usage on --help and exits 0; it refuses an unknown argument with one sentence
# on stderr that names the argument and the way to help, exits 2, and has done nothing by then.
set -euo pipefail

tools=$1
failures=0
complain() {
    printf '%s\n' "$*"
    failures=$((failures + 1))
}

for script in setup test quickstart prove-clean package-check cross-aarch64 tidy; do
    [[ -x $tools/$script ]] || {
        complain "tools/$script is missing or not executable"
        continue
    }
    bash -n "$tools/$script" || complain "tools/$script does not parse"

    code=0
    said=$("$tools/$script" --help 2>&1 </dev/null) || code=$?
    ((code == 0)) || complain "tools/$script --help: exit $code, expected 0"
    [[ $said == "usage: tools/$script"* ]] || complain "tools/$script --help says: $said"

    code=0
    said=$("$tools/$script" --no-such-flag 2>&1 >/dev/null </dev/null) || code=$?
    ((code == 2)) || complain "tools/$script --no-such-flag: exit $code, expected 2"
    expected="$script: unknown argument \"--no-such-flag\"; try tools/$script --help"
    [[ $said == "$expected" ]] || complain "tools/$script --no-such-flag says: $said"
done

listed=$("$tools/setup" --list)
[[ $(sort <<<"$listed" | uniq -d) == "" ]] || complain "tools/setup lists a package twice"

((failures == 0)) || exit 1
echo "every script explains itself"
