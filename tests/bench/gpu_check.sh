#!/bin/bash
# scripts/gpu-check, every part to its end with sizes that mean nothing: the device is the emulated one, and nvidia-smi,
# compute-sanitizer and the Python with PyTorch are stand-ins.
#   gpu_check.sh GPU_CHECK LOCKSTEP MAKE_DATA BUILD MODULES
gpu_check=$(realpath "$1") source_root=$(dirname "$(dirname "$(realpath "$1")")") LOCKSTEP=$2 MAKE_DATA=$3 build=$(realpath "$4") modules=$(realpath "$5")
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"
export LKS_MODULES=$modules LKS_EMULATION_RACES=0

mkdir bin temporary
export TMPDIR=$work/temporary
stand_in() { cat >"bin/$1" && chmod +x "bin/$1"; }
stand_in nvidia-smi <<'SH'
#!/bin/bash
case "$*" in
  -L) echo "GPU 0: a stand-in (UUID: GPU-0)" ;;
  *clocks.sm*) while echo "1980, 650.5, 60, 40000"; do sleep 0.1; done ;;
  *) echo "a stand-in, 0.0, 1 MiB" ;;
esac
SH
stand_in hang <<'SH'
#!/bin/bash
exec 9>>"$SANITIZED.held"
flock -s 9
echo $$ >>"$SANITIZED.hang"
exec sleep 300
SH
stand_in compute-sanitizer <<'SH'
#!/bin/bash
[ "$1 $3 $4" = "--tool --error-exitcode 9" ] || exit 3
echo "$2" >>"$SANITIZED"
case $2 in "$SANITIZER_FINDS") exit 9 ;; esac
[ "$2" != "$HANGS" ] || exec hang
shift 4
exec "$@"
SH
# The build: in a folder with nothing but the script.
mkdir -p tree/scripts
cp "$gpu_check" tree/scripts
stand_in meson <<'SH'
#!/bin/bash
[ "$1" = setup ] || exit 3
[ "$HANGS" != setup ] || exec hang
mkdir "$2"
SH
stand_in ninja <<'SH'
#!/bin/bash
[ "$HANGS" != ninja ] || exec hang
echo "a stand-in builds nothing"
SH
# gpt_gpu.py MODE STEPS ...: the step of each mode takes as long as its name.
stand_in python <<'SH'
#!/bin/bash
for ((i = 0; i < $3; ++i)); do echo "${#2}.5"; done
echo "a stand-in, $2, $7" >&2
SH
export PATH=$work/bin:$PATH SANITIZED=$work/sanitized SANITIZER_FINDS=nothing HANGS=nothing

# run NAME STATUS OPTION...: NAME.out is the table.
run() {
  local name=$1 wanted=$2 status=0
  shift 2
  "$gpu_check" --build "$build" --small "$@" >"$name.out" 2>"$name.err" || status=$?
  same "$name: status" "$status" "$wanted"
  [ "$status" = "$wanted" ] || cat "$name.out" "$name.err"
}
# row NAME PATTERN: a row of the table.
row() { check "$1 has the row $2" grep -Eq "$2" "$1.out"; }

run checks 0 --only conformance --only golden --only bits --output table
row checks 'every op, f32 and bf16: squared error  *ok  [0-9]+ s; [1-9][0-9]* checks$'
row checks "losses as the CPU's, to 1e-4  *ok"
row checks 'golden, f32 beside f64: mlp-classification  *ok'
row checks 'bf16: the same bits on 4 ranks, link staged  *ok'
row checks 'bf16: the same bits through NCCL, alone  *ok'
row checks 'link nccl between ranks  *not run  it needs two devices'
check "no row says FAILED" test "$(grep -c FAILED checks.out)" = 0
check "the table's file is what was printed" cmp table checks.out
check "what the checks printed is kept" grep -q '^=== golden, f32 beside f64: mlp-classification: status 0' table.log

run speed 0 --only speed --only profile --python python --steps 3 --rounds 2
for text in 'products, bf16, 32 cubed: TFLOP/s  *[0-9.]+' "copies within the card's memory: GB/s  *[0-9.]+" \
  'lockstep: milliseconds per step  *[0-9.]+  median; rounds [0-9.]+ to [0-9.]+, steps [0-9.]+ to [0-9.]+' \
  'lockstep: MFU, of the measured product rate  *[0-9.]+%' 'lockstep: bytes per parameter  *1[6-9]\.' \
  'lockstep: SM clock, MHz  *1980' 'lockstep: power, W  *650.5  650 to 650; at most 60 C' \
  'PyTorch compile, masters, round 1: milliseconds per step  *7.50  a stand-in, compile, masters' \
  'PyTorch eager: milliseconds per step  *5.50  median; rounds 5.50 to 5.50' 'lockstep over PyTorch compile, [a-z]+  *[0-9.]+'; do
  row speed "$text"
done
for kernel in linear attention_grad update 'all of these' 'nothing of these' step; do row speed "^$kernel  *[0-9]"; done
row speed '^linear .* [0-9]+\.[0-9]{3} +[0-9.]+%$'
same "rounds in turn" "$(grep -oE 'round [0-9]: [A-Za-z]+( [a-z]+)?' speed.err | cut -d' ' -f3- | uniq | tr '\n' ' ')" \
  "lockstep PyTorch eager PyTorch compile lockstep PyTorch eager PyTorch compile "

run sanitizer 0 --only memcheck --only racecheck
row sanitizer 'compute-sanitizer memcheck: softmax  *ok'
row sanitizer 'compute-sanitizer racecheck: squared error  *ok'
SANITIZER_FINDS=racecheck run found 1 --only racecheck
row found 'compute-sanitizer racecheck: softmax  *FAILED  status 9'
SANITIZER_FINDS=memcheck run unable 0 --only racecheck
row unable 'compute-sanitizer  *not run  it fails on a single product'

# Those that hang hold a lock.
released() {
  local left
  flock -w 20 sanitized.held true && return
  while read -r left; do kill "$left" 2>/dev/null || true; done <sanitized.hang
  return 1
}
# stopped SIGNAL STATUS TOOL COUNT COMMAND...: the signal comes while COUNT of the tool hang; none of them outlives it.
mkfifo words
stopped() {
  local signal=$1 wanted=$2 tool=$3 count=$4 status=0 job
  shift 4
  rm -f sanitized.hang
  HANGS=$tool env --default-signal=INT "$@" >"$tool.out" 2>"$tool.err" &
  job=$!
  for ((i = 0; i < 600; ++i)); do
    [ ! -f sanitized.hang ] || [ "$(wc -l <sanitized.hang)" -lt "$count" ] || break
    read -r -t 0.1 <>words || true
  done
  same "$tool: as many are under way" "$(cat sanitized.hang | wc -l)" "$count"
  kill -s "$signal" "$job"
  wait "$job" || status=$?
  same "$tool: status after $signal" "$status" "$wanted"
  check "$tool: nothing runs on" released
  check "$tool: nothing is left behind" test -z "$(ls temporary)"
}
stopped INT 130 memcheck 1 "$gpu_check" --build "$build" --small --only racecheck
stopped TERM 143 racecheck 2 "$gpu_check" --build "$build" --small --only racecheck
stopped TERM 143 setup 1 tree/scripts/gpu-check
stopped INT 130 ninja 1 tree/scripts/gpu-check

run late 1 --only conformance --seconds 1
row late 'every op, f32 and bf16: softmax  *not run  no time left'
run without 0 --only speed --python false --steps 3 --rounds 1
row without 'lockstep: tokens per second'
run misspelt 2 --only speeds
# Its list of cases is that of the programs. (The elementary functions are the processor's.)
cases_of() { sed -n 's/.*tcase_create("\(.*\)").*/\1/p' "$source_root"/tests/conformance/test_*.c | grep -vx 'vector math' | sort; }
# shellcheck disable=SC2154
listed() { eval "$(sed -n '/^cases_[ab]=/p' "$gpu_check")"; printf '%s\n' "${cases_a[@]}" "${cases_b[@]}" | sort; }
same "the cases of the conformance programs" "$(cases_of)" "$(listed)"
check "nothing is left behind" test -z "$(ls temporary)"

say_result
