#!/bin/sh
# The console's tokens, in /console: the operator's is made once; console.sh NAME makes an
# institution's and prints it, and the console knows it once it has been restarted.
set -eu
umask 077
if [ ! -f /console/operator-token ]; then
    python -c 'import secrets; print(secrets.token_hex(32))' > /console/.operator-token
    mv /console/.operator-token /console/operator-token
fi
touch /console/tokens
[ $# -eq 0 ] || exec ipfl console token "$1" --tokens /console/tokens
