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

half $bin/python -m pytest -m 'e2e and not containers and not cluster' "$@" >$log 2>&1 &
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
