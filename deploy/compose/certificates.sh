#!/bin/sh
# The operator's certificates, and to each service what it needs of them and no more: ca.key stays in
# /authority. What is given goes to ipfl certs operator: certificates.sh --host NAME … [--renew]
set -eu
ipfl certs operator /authority "$@"
cd /authority
cp ca.pem server.pem /certificates/
cp superexec.secret /superexec/
cp ca.pem server.key superexec.secret server.pem /superlink-certificates/
