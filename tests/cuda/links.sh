#!/bin/bash
# The links between cuda devices, nccl and ipc, on emulated devices: the same bits as one rank over every link and at
# any number of ranks, node by node too; what is refused; a failing and a silent rank; a job that goes on.
#   links.sh LOCKSTEP MAKE_DATA MODULES      MODULES: the folder of the emulated device, with the links in it
LOCKSTEP=$1 MAKE_DATA=$2
export LKS_MODULES=$3
export LKS_EMULATION_RACES=0 # the kernels' own tests look for them
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"

"$MAKE_DATA" text text.txt 1900
"$LOCKSTEP" prepare text --output data text.txt
cat >job.yaml <<YAML
model: {name: gpt, layers: 1, width: 16, heads: 2, context: 8, dropout: 0.1}
data: {train: data}
device: {name: cuda}
train: {steps: 4, global_batch: 8, lanes: 8, seed: 5}
optimizer: {name: adamw, lr: 0.003, clip_norm: 1.0}
collectives: {bucket_bytes: 4096, timeout_seconds: 100}
YAML

# One rank with a setting of the emulator's: on_rank RANK NAME=VALUE COMMAND...
cat >on_rank <<'SH'
#!/bin/bash
rank=$1 setting=$2
shift 2
[ "$OMPI_COMM_WORLD_RANK" != "$rank" ] || export "${setting?}"
exec "$@"
SH
# Ranks as if on hosts of two ranks each: on_hosts COMMAND...
cat >on_hosts <<'SH'
#!/bin/bash
user=()
unshare --uts true 2>/dev/null || user=(--user --map-root-user)
exec unshare "${user[@]}" --uts bash -c 'hostname "$0" && exec "$@"' "node$((OMPI_COMM_WORLD_RANK / 2))" "$@"
SH
chmod +x on_rank on_hosts

# train RANKS DEVICES RUN OPTIONS...: its status in `status`, what it says in RUN.log.
train() {
  local n=$1 devices=$2 run=$3
  shift 3
  status=0
  LKS_EMULATION_DEVICES=$devices timeout 100 mpirun -n "$n" "${before[@]}" "$LOCKSTEP" train job.yaml --run "$work/$run" \
    "$@" >"$run.log" 2>&1 </dev/null || status=$?
}
before=()

# reaches RANKS DEVICES RUN LINK OPTIONS...: the digest of one rank, over this link.
reaches() {
  train "$1" "$2" "$3" "${@:5}"
  same "$3: exit status" 0 "$status"
  check "$3: link $4" grep -aq "link $4," "$3.log"
  [ "$status" = 0 ] || { tail -n 5 "$3.log"; return 0; }
  same "$3: digest" "$want" "$(digest "$3")"
}

# ends STATUS RUN TEXT: how a run went that was to fail.
ends() {
  same "$2: exit status" "$1" "$status"
  check "$2: says $3" grep -aqE "$3" "$2.log"
  grep -aqE "$3" "$2.log" || tail -n 5 "$2.log"
  check "$2: no process is left" [ -z "$(pgrep -f -- "--run $work/$2 ")" ]
}

train 1 1 one
same 'one rank: exit status' 0 "$status"
want=$(digest one)
for n in 2 3 4; do
  reaches $n 4 "nccl-$n" nccl --set collectives.link=nccl
  check "nccl-$n: in the fixed tree" grep -aq "gradients of $n ranks on 1 node are added in the fixed tree$" "nccl-$n.log"
done
reaches 1 1 nccl-1 nccl --set collectives.link=nccl
reaches 2 1 ipc-2 ipc --set collectives.link=ipc
reaches 4 2 auto-4 ipc
reaches 3 1 staged-3 staged --set collectives.link=staged
LKS_EMULATION_SEED=9 reaches 3 4 other-order nccl

train 2 2 any --set collectives.order=any
same 'any order: exit status' 0 "$status"
check 'any order: it is told' grep -aq "are added in NCCL's own order$" any.log

if unshare --uts true 2>/dev/null || unshare --user --map-root-user --uts true 2>/dev/null; then
  before=(./on_hosts)
  reaches 4 2 hosts nccl
  check 'hosts: node by node' grep -aq 'gradients of 4 ranks on 2 nodes are added in the fixed tree, node by node$' hosts.log
  before=()
else
  echo 'not tested: ranks on two hosts, since this user may make no UTS namespace'
fi

# Where NCCL or its module is missing, devices work all the same.
mkdir without
ln -s "$LKS_MODULES/liblockstep-cuda.so" without/
before=(env "LKS_MODULES=$work/without")
train 2 2 without-nccl --set collectives.link=nccl
ends 2 without-nccl 'this build has no nccl: .*/without/liblockstep-nccl.so is not there'
reaches 2 2 without-auto ipc
before=()

train 2 1 shared --set collectives.link=nccl
ends 2 shared 'ranks 0 and 1 share GPU-[-0-9a-f]+ on '
before=(./on_rank 1 LKS_EMULATION_NCCL_VERSION=22703)
train 2 2 versions
ends 2 versions "rank 1: host .* has NCCL 2\.27\.3, rank 0's host .* has NCCL "

# One rank finds a bad block: it keeps the order of the others' messages, and all end together.
before=()
"$MAKE_DATA" text large.txt 600000
"$LOCKSTEP" prepare text --output bad large.txt >/dev/null
printf '\377\376\375' | dd of="$(find bad -name '*.h5')" bs=1 seek=300000 conv=notrunc 2>/dev/null
for seed in 4 5; do # the block is rank 0's, rank 1's
  train 2 2 "bad-$seed" --set data.train=bad --set "train.seed=$seed"
  ends 65 "bad-$seed" "rank $((seed - 4)): bad/[^ ]* dataset tokens, block 1"
done

train 2 2 infinite --set train.steps=40 --set optimizer.name=sgd --set optimizer.lr=1e6 --set optimizer.clip_norm=0
ends 77 infinite 'step [0-9]+: the (loss of lane|gradient of) .* is not finite'

before=(./on_rank 1 LKS_EMULATION_NCCL_ERROR_AFTER=12)
train 2 2 error --set train.steps=40
ends 76 error 'rank 1 on [^ ]+, NCCL while .*: an emulated error'
before=(./on_rank 0 LKS_EMULATION_NCCL_REFUSE_AFTER=12)
train 2 2 refusal --set train.steps=40
ends 76 refusal 'rank 0 on [^ ]+, NCCL while .*: an emulated refusal'
check 'refusal: no abort within a group' [ -z "$(grep -a 'abort within a group' refusal.log)" ]
# The other does not wait for it until its time is up.
before=(./on_rank 1 LKS_EMULATION_NCCL_UNREACHABLE=1)
train 2 2 unreachable --set collectives.timeout_seconds=1000
ends 76 unreachable 'rank 1 on [^ ]+, NCCL while connecting the ranks: '
# Silent from the start, while gradients and while parameters travel: with one bucket groups take turns.
late='not done after 2 s \(collectives.timeout_seconds\)'
while read -r groups doing text; do
  before=(./on_rank 1 "LKS_EMULATION_NCCL_SILENT_AFTER=$groups")
  train 2 2 "silent-$groups" --set train.steps=40 --set collectives.timeout_seconds=2 --set collectives.bucket_bytes=4194304
  ends 76 "silent-$groups" "rank [01] on [^ ]+, NCCL while $doing .*: $text"
done <<WORDS
0 connecting $late
1 bringing $late
3 sharing $late
5 giving $late
WORDS
before=()

# Killed after its second checkpoint, and resumed by another number of ranks.
mkfifo words
LKS_EMULATION_DEVICES=4 mpirun -n 3 "$LOCKSTEP" train job.yaml --run killed --set checkpoint.every_steps=1 \
  --set train.steps=4000 >killed.log 2>&1 &
job=$!
for ((i = 0; i < 600; ++i)); do
  [ ! -d killed/checkpoints/step-00000002 ] || break
  kill -0 $job 2>/dev/null || break
  read -r -t 0.1 <>words || true
done
kill -KILL "$(pgrep -P $job | head -n 1)"
wait $job || true
step=$(digest killed | sed 's/.*step //')
check "killed at step $step" [ "${step:-0}" -ge 2 ]
train 2 2 killed --set train.steps=40
same 'resumed: exit status' 0 "$status"
check 'resumed: from a step before the last' grep -aqE 'resuming from .*step [0-9]+' killed.log
train 1 1 whole --set train.steps=40
same 'killed at 3 ranks, resumed by 2: digest' "$(digest whole)" "$(digest killed)"
check 'nothing is left in shared memory' [ -z "$(find /dev/shm -name 'lks-nccl-*' -newer job.yaml)" ]
say_result
