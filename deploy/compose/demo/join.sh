#!/bin/sh
# What an institution's engineer does, with /exchange in place of e-mail: join.sh NAME
set -eu
name=$1
[ ! -f /institution/kit.json ] || exit 0
ipfl join-request "$name" --dir /institution
cp "/institution/$name.request.json" "/exchange/.$name.request"
mv "/exchange/.$name.request" "/exchange/$name.request.json"
echo "waiting for the kit"
for _ in $(seq 600); do
    [ ! -f "/exchange/$name.kit.json" ] || exec ipfl join "/exchange/$name.kit.json" --dir /institution
    sleep 1
done
echo "no kit within 10 minutes: see the log of admit" >&2
exit 1
