#!/bin/sh
# run.sh INITIAL_MODEL MARKET_TOML: keeps a market going, from the moment its initial model is there.
set -eu
trap 'kill "$!" 2>/dev/null || :; wait "$!" || :; exit 0' TERM
echo "waiting for the initial model, $1"
until [ -f "$1" ]; do
    sleep 5 &
    wait "$!"
done
# Also a ledger without rounds can be resumed.
ipfl run "$2" --superlink market --resume &
wait "$!"
# A container that ends is started again, and has nothing to do.
echo "the market has ended; its ledger stays"
sleep infinity &
wait "$!"
