#!/bin/sh
# What an institution's engineer does, with /exchange in place of e-mail, and of the telephone, which
# it can't replace between strangers: join.sh NAME
set -eu
name=$1
[ ! -f /institution/kit.json ] || exit 0
said=$(ipfl join-request "$name" --dir /institution)
echo "$said"
echo "${said##* }" > "/exchange/$name.fingerprint"
cp "/institution/$name.request.json" "/exchange/.$name.request"
mv "/exchange/.$name.request" "/exchange/$name.request.json"
echo "waiting for the kit"
for _ in $(seq 600); do
    [ ! -f "/exchange/$name.kit.json" ] || exec ipfl join "/exchange/$name.kit.json" --dir /institution \
        --operator "$(cat "/exchange/$name.operator")"
    sleep 1
done
echo "no kit within 10 minutes: see the log of admit" >&2
exit 1
