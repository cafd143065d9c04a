#!/bin/sh
# What the operator does with each request that comes in: admit.sh "NAME NAME …"
set -eu
for name in $1; do
    request=/exchange/$name.request.json
    tries=600
    while [ ! -f "$request" ]; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "no request of $name within 10 minutes: see the log of $name-join" >&2; exit 1; }
        sleep 1
    done
    said=$(ipfl admit "$request" --market /market.toml --certificates /certificates --fleet superlink:9092 \
        --superlink market --kit "/exchange/.$name.kit" --fingerprint "$(cat "/exchange/$name.fingerprint")")
    echo "$said"
    echo "${said##* }" > "/exchange/$name.operator"
    mv "/exchange/.$name.kit" "/exchange/$name.kit.json"
done
