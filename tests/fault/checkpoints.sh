#!/bin/bash
# Damaged checkpoints, numbers that are not finite, and trained models put to wrong use.
#   checkpoints.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/fault/refusals.sh
. "$(dirname "$(realpath "$0")")/refusals.sh"
say_result
