#!/usr/bin/env bash
# Runs the tests in two halves, side by side: those that start real markets mostly wait. What trains for
# minutes comes after the other half, which is the shorter one, and without coverage, which slows it. What
# fails of a half is played once more, when less runs beside it, and counts as failed if it fails again. With
# arguments for pytest. What needs a Docker engine is `make test-containers`, and of that the isolation of
# data also here, where there is one.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
log=build/test-e2e.log
real='e2e and not containers and not cluster'
gates='gates and not e2e'
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
    half $bin/python -m pytest -m "$real" "${cache[@]}" "$@" ||
        half $bin/python -m pytest -m "$real" "${cache[@]}" \
            --last-failed --last-failed-no-failures none "$@" || return
    # Whether a hostile client app finds data to read is seen in a container alone. In CI it is one of
    # the container tests, which run beside this.
    if [ -z "${IPFL_NO_SKIPS:-}" ] && docker info >/dev/null 2>&1; then
        half $bin/python -m pytest -m containers tests/deploy/test_data_isolation.py "$@"
    fi
}
real_markets "$@" >$log 2>&1 &
e2e=$!
trap 'kill $e2e 2>/dev/null' EXIT
failed=0
$bin/coverage erase
units="not ($real) and not ($gates) and not containers and not cluster"
units_cache=(-o cache_dir=build/units-cache)
half $bin/coverage run -m pytest -m "$units" "${units_cache[@]}" "$@" || failed=$?
gates_failed=0
half $bin/python -m pytest -m "$gates" "$@" || gates_failed=$?
echo "waiting for the tests of real markets: $log"
wait $e2e || real_failed=$?
trap - EXIT
cat $log
if [ $failed -ne 0 ]; then
    # Now that nothing else runs here: who fails again has failed.
    failed=0
    half $bin/python -m pytest -m "$units" "${units_cache[@]}" \
        --last-failed --last-failed-no-failures none "$@" || failed=$?
fi
exit $((failed ? failed : gates_failed ? gates_failed : ${real_failed:-0}))
