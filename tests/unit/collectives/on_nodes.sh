#!/bin/sh
# on_nodes.sh NODES PROGRAM: a rank of mpirun, as if its ranks were spread over NODES hosts:
# each in a UTS namespace with its host's name. Exits 77 (skipped) where that is not allowed.
node=$((OMPI_COMM_WORLD_RANK * $1 / OMPI_COMM_WORLD_SIZE))
user=
unshare --uts true 2>/dev/null || user="--user --map-root-user"
unshare $user --uts hostname "node$node" 2>/dev/null || exit 77
exec unshare $user --uts sh -c 'hostname "$0" && exec "$@"' "node$node" "$2" "$1"
