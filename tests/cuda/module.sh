#!/bin/bash
# The module of the cuda device as it was built, and beside it that of NCCL, where there is one: what they export, what they and the
# program link, what code is in the device's, and what is said on a machine without a GPU.
#   module.sh LOCKSTEP MAKE_DATA MODULE LIBRARY REPORT...     reports: ptxas's, one per source file
LOCKSTEP=$1 MAKE_DATA=$2 module=$(realpath "$3") library=$(realpath "$4")
shift 4
reports=("$@")
for i in "${!reports[@]}"; do reports[i]=$(realpath "${reports[i]}"); done
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"

needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

exported() { nm -D --defined-only "$1" | awk '{ print $3 }' | sort | xargs; }
# The drivers of the device and of its link, and what kernels/cuda_stream.h gives links in other modules.
same "what the module exports" 'lks_cuda_device_driver lks_cuda_stream lks_cuda_use_stream lks_cuda_uuid lks_ipc_link_driver' "$(exported "$module")"
check "the module does not want NCCL" [ -z "$(needed "$module" | grep nccl)" ]
nccl=${module%cuda.so}nccl.so
if [ -e "$nccl" ]; then
  same "what NCCL's module exports" lks_nccl_link_driver "$(exported "$nccl")"
  for name in libnccl libcudart liblockstep liblockstep-cuda; do
    check "NCCL's module links $name" grep -q "^$name\.so" <<<"$(needed "$nccl")"
  done
fi
for name in libcudart libcublasLt liblockstep; do
  check "the module links $name" grep -q "^$name\.so" <<<"$(needed "$module")"
done
for binary in "$LOCKSTEP" "$library"; do
  check "${binary##*/} links no CUDA library" test -z "$(needed "$binary" | grep -E '^lib(cuda|cublas|nccl|nv)')"
done

for report in "${reports[@]}"; do
  if ! grep -q 'Compiling entry function' "$report"; then continue; fi
  for architecture in sm_80 sm_90; do
    check "${report##*/}: code for $architecture" grep -q "for '$architecture'" "$report"
  done
done

"$MAKE_DATA" text text.txt 1900
"$LOCKSTEP" prepare text --output data text.txt >/dev/null
cat >tiny.yaml <<'YAML'
model: {name: gpt, layers: 1, width: 16, heads: 2, context: 16}
data: {train: data}
train: {steps: 1, global_batch: 2, seed: 1}
optimizer: {name: adamw, lr: 1e-3}
YAML

# refused NAME PATTERN COMMAND...: status 2 and one line that PATTERN matches.
refused() {
  local name=$1 pattern=$2 status=0
  shift 2
  timeout 60 "$@" >out.txt 2>err.txt || status=$?
  same "$name: status" "$status" 2
  same "$name: one line" "$(wc -l <err.txt)" 1
  check "$name: $(cat err.txt)" grep -Eq "$pattern" err.txt
}

# With a GPU there is still none where none is visible.
refused "no GPU" 'device cuda: (this machine has no NVIDIA driver|CUDA_VISIBLE_DEVICES=none leaves no device|the NVIDIA driver finds no device|.* driver is for CUDA)' \
  env CUDA_VISIBLE_DEVICES=none "$LOCKSTEP" train tiny.yaml --set device.name=cuda --run run
refused "no module" 'this build has no cuda' \
  env LKS_MODULES="$work" "$LOCKSTEP" train tiny.yaml --set device.name=cuda --run run
check "nothing was left behind" test ! -e run
check "auto without a GPU is the cpu" env CUDA_VISIBLE_DEVICES=none "$LOCKSTEP" train tiny.yaml --set device.name=auto --run run

say_result
