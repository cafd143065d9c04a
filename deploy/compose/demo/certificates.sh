#!/bin/sh
# The operator's certificates, once. "control" is the SuperLink's name on the operator's own network.
set -eu
[ -f /certificates/superexec.secret ] || ipfl certs operator /certificates --host superlink --host control
