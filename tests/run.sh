#!/usr/bin/env bash
# Runs the tests in two halves, side by side: those that start real markets mostly wait. With
# arguments for pytest. What needs a Docker engine is `make test-containers`.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
log=build/test-e2e.log
mkdir -p build

half() { # pytest says 5 when it is given no test, by -k for one
    "$@"
    local status=$?
    [ $status -eq 5 ] || return $status
}

real_markets() {
    # Processes of real markets share the machine with all the rest: what fails is played once more,
    # and counts as failed if it does so again. Both are in the log.
    local cache=(-o cache_dir=build/e2e-cache)
    half $bin/python -m pytest -m 'e2e and not containers and not cluster' "${cache[@]}" "$@" ||
        half $bin/python -m pytest -m 'e2e and not containers and not cluster' "${cache[@]}" \
            --last-failed --last-failed-no-failures none "$@"
}
real_markets "$@" >$log 2>&1 &
e2e=$!
trap 'kill $e2e 2>/dev/null' EXIT
failed=0
$bin/coverage erase
half $bin/coverage run -m pytest -m 'not e2e and not containers and not cluster' "$@" || failed=$?
echo "waiting for the tests of real markets: $log"
wait $e2e || failed=$?
trap - EXIT
cat $log
exit $failed
