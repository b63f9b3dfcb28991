#!/bin/bash
# lockstep doctor on one machine: each thing is broken, its row turns, and the line that it prints mends it.
#   host.sh LOCKSTEP MAKE_DATA SHIFT_CLOCK SLOW_DISK VERSION FAKE_NVML
LOCKSTEP=$1 MAKE_DATA=$2
shift_clock=$(realpath "$3") slow_disk=$(realpath "$4") version=$(realpath "$5") fake_nvml=$(realpath "$6")
here=$(dirname "$(realpath "$0")")
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"
# shellcheck source=tests/doctor/rows.sh
. "$here/rows.sh"
server=
sleeper=
trap '[ -z "$server$sleeper" ] || kill $server $sleeper 2>/dev/null || true; rm -rf "$work"' EXIT
PATH="$work/bin:$(dirname "$LOCKSTEP"):$PATH"
mkdir bin fake runs

"$MAKE_DATA" text text.txt 20000
"$LOCKSTEP" --quiet prepare text --output data --split validation=0.1 text.txt
cat >job.yaml <<'YAML'
model: {name: gpt, layers: 2, width: 64, heads: 4, context: 64}
data: {train: data/train, validation: data/validation}
train: {steps: 4, global_batch: 24, lanes: 6, micro_batch: 2, seed: 3}
checkpoint: {every_steps: 10, keep: 3}
YAML

# Rank 1 runs what rank1.env says first: its own broken environment.
cat >bin/rank <<RANK
#!/bin/bash
[ "\$OMPI_COMM_WORLD_RANK" != 1 ] || . "$work/rank1.env"
exec "\$@"
RANK
chmod +x bin/rank
: >rank1.env
two() { start=(mpirun -n 2 "$work/bin/rank"); }
one() { start=(); }
mend_rank1() { # NAME SUBJECT: the line is typed in where rank 1 is started
  local line
  line=$(row "$2" mend)
  check "$1: a line that mends it" [ -n "$line" ]
  printf '%-34s %s\n' "$1" "$line"
  echo "$line" >>rank1.env
}

# --- All is well ---------------------------------------------------------------------------
two
doctor_run job.yaml --run runs/job
for subject in plan hosts world network rdma clock versions arithmetic gpu memory 'per rank' shm run 'write rate' locks disk notice epoch; do
  same "healthy: $subject" ok "$(row "$subject" status)"
done
check "nothing is left in the run directory" [ -z "$(ls -A runs)" ]
# What it says of memory is what the trainer plans, and not much more.
mpirun -n 2 "$LOCKSTEP" train job.yaml --run trained 2>train.log || cat train.log
check "memory need" python3 - out.json train.log <<'PY'
import json, re, sys
report = json.load(open(sys.argv[1]))
number, unit = re.search(r'memory per node: ([0-9.]+) (\w+) for', open(sys.argv[2]).read()).groups()
trainer = float(number) * {'KiB': 2**10, 'MiB': 2**20, 'GiB': 2**30}[unit]
plan = report['facts']['plan']
said = plan[0]['shared_bytes'] + sum(p[k] for p in plan for k in (
    'activations_bytes', 'validation_bytes', 'optimizer_bytes', 'staging_bytes', 'private_bytes', 'ring_bytes', 'copies_bytes'))
print('memory per node: doctor', round(said), 'trainer', round(trainer))
sys.exit(not 0.95 * trainer <= said <= 1.6 * trainer)
PY
"$LOCKSTEP" doctor --only cores >table.txt || true
check "the table" grep -Eq '^(ok|warn)  +cores ' table.txt
"$LOCKSTEP" doctor --only nonsense 2>err.txt && check "an unknown check is refused" false
check "an unknown check is refused" grep -q 'there is no such check' err.txt
mpirun -n 3 "$LOCKSTEP" doctor --only nonsense 2>err.txt && check "an unknown check is refused by ranks" false
same "an unknown check is refused once" 1 "$(grep -c 'there is no such check' err.txt)"
one
turns "a run directory where none can be made" run fail '/proc cannot be written to' --only run --run /proc/nope
turns "a name that is not UTF-8" hosts fail 'no\\xff: No such file' --only hosts --hosts $'no\xff'
two

# --- World size, singletons, hosts ---------------------------------------------------------
SLURM_NTASKS=4 turns "fewer ranks than SLURM_NTASKS" world fail '2 ranks, but SLURM_NTASKS asks for 4' --only world
line=$(row world mend)
printf '%-34s %s\n' "world" "$line"
SLURM_NTASKS=4 eval "$line" >table.txt 2>err.txt || true
check "as many as SLURM_NTASKS" grep -q '^ok  *world  *4 ranks, as SLURM_NTASKS says' table.txt

printf '#!/bin/bash\n[ "$1" = --mpi=pmix ] && shift && exec mpirun -n 2 "$@"\n' >bin/srun
chmod +x bin/srun
one
export SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2
turns "srun singletons" world fail 'MPI does not connect them' --only world
line=$(row world mend)
printf '%-34s %s\n' "srun singletons" "$line"
eval "$line" >table.txt 2>err.txt || true
unset SLURM_PROCID SLURM_STEP_ID SLURM_STEP_NUM_TASKS
check "connected by srun" grep -q '^ok  *world  *2 ranks' table.txt

printf 'localhost slots=1\nno-such-host.invalid\n' >hosts.txt
printf '#!/bin/bash\nexit 255\n' >bin/ssh
chmod +x bin/ssh
turns "a host that does not answer" hosts fail 'no-such-host.invalid does not answer' --only hosts --hosts hosts.txt
mend "a host that does not answer" hosts
is_ok "without it" hosts --only hosts --hosts hosts.txt
rm bin/ssh

# --- Versions, arithmetic, clocks ----------------------------------------------------------
two
echo "export LD_PRELOAD=$version" >rank1.env
turns "another Open MPI" versions fail 'Open MPI is 3.1.6 .* 4\.' --only versions
same "another Open MPI: of rank" 1 "$(row versions ranks)"
check "another HDF5" grep -q 'HDF5 is 1.8.10' out.json
mend_rank1 "another Open MPI" versions
is_ok "without it" versions --only versions

cp "$version" fake/libnccl.so.2
echo "export LD_LIBRARY_PATH=$work/fake" >rank1.env
turns "another NCCL" versions fail 'NCCL is 2.16.2' --only versions
mend_rank1 "another NCCL" versions
is_ok "without it" versions --only versions

echo 'export ONEDNN_MAX_CPU_ISA=SSE41' >rank1.env
turns "another instruction set" arithmetic fail 'computes other bits' --only arithmetic
same "another instruction set: of rank" 1 "$(row arithmetic ranks)"
mend_rank1 "another instruction set" arithmetic
is_ok "with the same" arithmetic --only arithmetic

printf '#!/bin/bash\n[ "$1" = makestep ] && echo "export LKS_CLOCK_SHIFT=0" >>%q\n' "$work/rank1.env" >bin/chronyc
chmod +x bin/chronyc
printf 'export LD_PRELOAD=%s\nexport LKS_CLOCK_SHIFT=-60\n' "$shift_clock" >rank1.env
turns "a stale clock" clock warn 'the clock is 60 s behind' --only clock
mend "a stale clock" clock
is_ok "set right" clock --only clock
printf 'export LD_PRELOAD=%s\nexport LKS_CLOCK_SHIFT=4000\n' "$shift_clock" >rank1.env
turns "a clock an hour ahead" clock fail 'the clock is 4000 s ahead' --only clock
mend "a clock an hour ahead" clock
is_ok "set right" clock --only clock

printf 'export LD_PRELOAD=%s\nexport LKS_FREE_LOCKS=1\n' "$version" >rank1.env
LD_PRELOAD=$version LKS_FREE_LOCKS='' turns "locks that do not reach" locks warn 'is not seen here' --only run --run runs/job
line=$(row locks mend)
same "locks: the line" 'unset LD_PRELOAD' "$line"
echo "$line" >>rank1.env
is_ok "locks that do" locks --only run --run runs/job
: >rank1.env

# --- Cores ---------------------------------------------------------------------------------
cores=$(nproc)
if [ "$cores" -le 8 ]; then
  start=(mpirun -n $((cores + 1)))
  (
    unset OMPI_MCA_mpi_yield_when_idle
    turns "more ranks than cores" cores warn 'do not give theirs away' --only cores
    mend "more ranks than cores" cores
    turns "more ranks, that yield" cores warn 'each step takes longer' --only cores
    line=$(row cores mend)
    printf '%-34s %s\n' "more ranks, that yield" "$line"
    read -ra start <<<"$line"
    is_ok "as many as cores" cores --only cores
    echo "$checks $failures" >counts
  )
  read -r checks failures <counts
fi
if [ "$cores" -ge 2 ]; then
  start=(mpirun -n 2)
  (
    unset OMPI_MCA_hwloc_base_binding_policy
    export OMPI_MCA_hwloc_base_cpu_list=0 OMPI_MCA_hwloc_base_binding_policy=core:overload-allowed
    turns "two ranks on one core" cores warn '2 ranks are bound to 1 core' --only cores
    mend "two ranks on one core" cores
    is_ok "a core each" cores --only cores
    echo "$checks $failures" >counts
  )
  read -r checks failures <counts
fi

# --- Memory --------------------------------------------------------------------------------
one
doctor_run job.yaml --only memory
micro=$(python3 - out.json <<'PY'
import json, sys
per_sample = json.load(open(sys.argv[1]))['facts']['plan'][0]['activations_bytes'] / 2
total = next(int(l.split()[1]) for l in open('/proc/meminfo') if l.startswith('MemTotal')) * 1024
print(16 * int(0.6 * total / per_sample / 16))
PY
)
big=(--set train.lanes=1 --set train.global_batch="$micro" --set train.micro_batch="$micro")
# Six tenths of the machine's memory; validation needs as much again.
turns "a micro-batch too large" memory fail "the host's ranks need" job.yaml --only memory "${big[@]}"
mend "a micro-batch too large" memory
is_ok "a smaller one" memory job.yaml --only memory "${big[@]}"
more=()

# --- Time ----------------------------------------------------------------------------------
start=(env LD_PRELOAD="$version" LKS_SYNC_MS=3000)
turns "checkpoints too often" checkpoint warn '; one is due every' job.yaml --only run --only speed --run runs/job \
  --set checkpoint.every_steps=1
mend "checkpoints too often" checkpoint
is_ok "less often" checkpoint job.yaml --only run --only speed --run runs/job --set checkpoint.every_steps=1
more=()
one

# --- Notices -------------------------------------------------------------------------------
metadata() { # TROUBLE...
  rm -f port
  python3 "$here/../tools/metadata.py" aws port asked.log "$@" &
  server=$!
  until [ -e port ]; do kill -0 "$server" && sleep 0.02; done
}
metadata hang
notices=(job.yaml --only notice --set preemption.source=aws --set "preemption.url=http://127.0.0.1:$(cat port)")
turns "an endpoint that hangs" notice fail 'does not tell of notices' "${notices[@]}"
mend "an endpoint that hangs" notice
is_ok "none is asked" notice "${notices[@]}"
more=()
kill "$server"
metadata '9*none'
is_ok "an endpoint that answers" notice job.yaml --only notice --set preemption.source=aws \
  --set "preemption.url=http://127.0.0.1:$(cat port)"
kill "$server"
server=
turns "nowhere for preemption.file" notice warn 'is not there' job.yaml --only notice --set preemption.file="$work/told/notice"
mend "nowhere for preemption.file" notice
is_ok "a folder for preemption.file" notice job.yaml --only notice --set preemption.file="$work/told/notice"

# --- GPUs ----------------------------------------------------------------------------------
mkdir nvml
cp "$fake_nvml" nvml/libnvidia-ml.so.1
two
sed -i 's/^exec/export LD_LIBRARY_PATH="$LKS_FAKE:$LD_LIBRARY_PATH"\nexec/' bin/rank
export LKS_FAKE=$work/nvml LKS_NVML=$work/gpus.txt
gpus() { printf '%s\n' "$@" >gpus.txt; }
gpus 'GPU-1 81920 80000 1 0 0 0' 'GPU-2 81920 80000 1 0 0 0'
is_ok "a GPU each" gpu --only gpu
CUDA_VISIBLE_DEVICES=1 turns "one GPU for two ranks" gpu fail 'has the same GPU as rank 0 .*GPU-2' --only gpu
(
  export CUDA_VISIBLE_DEVICES=1
  mend "one GPU for two ranks" gpu
  is_ok "all GPUs visible" gpu --only gpu
  echo "$checks $failures" >counts
)
read -r checks failures <counts
start=("$work/bin/rank")
cat >bin/nvidia-smi <<'SMI'
#!/bin/bash
# -r -i N: errors gone. -i N -e 1: ECC on.
case "$*" in
  '-r -i '*) awk -v n="$3" 'NR == n + 1 { $5 = 0 } 1' "$LKS_NVML" >"$LKS_NVML.new" ;;
  '-i '*' -e 1') awk -v n="$2" 'NR == n + 1 { $4 = 1 } 1' "$LKS_NVML" >"$LKS_NVML.new" ;;
  '-i '*' -q -d '*) awk -v n="$2" 'NR == n + 1 { $6 = 0 } 1' "$LKS_NVML" >"$LKS_NVML.new" ;;
  *) exit 2 ;;
esac
mv "$LKS_NVML.new" "$LKS_NVML"
SMI
chmod +x bin/nvidia-smi
gpus 'GPU-1 81920 80000 1 7 0 0' 'GPU-2 81920 80000 1 0 0 0'
turns "memory errors" gpu fail 'GPU 0 .* 7 uncorrected' --only gpu
mend "memory errors" gpu
is_ok "reset" gpu --only gpu
gpus 'GPU-1 81920 80000 0 0 0 0' 'GPU-2 81920 80000 1 0 0 0'
turns "ECC off" gpu warn 'GPU 0 .* ECC is off' --only gpu
mend "ECC off" gpu
is_ok "ECC on" gpu --only gpu
gpus 'GPU-1 81920 80000 1 0 64 0' 'GPU-2 81920 80000 1 0 0 0'
turns "a hot GPU" gpu warn 'throttled: too hot' --only gpu
mend "a hot GPU" gpu # whose owner cools it
is_ok "cooled" gpu --only gpu
sleep 600 &
sleeper=$!
gpus "GPU-1 81920 80000 1 0 0 $sleeper" 'GPU-2 81920 80000 1 0 0 0'
turns "somebody's process" gpu warn '40 GiB of 80 GiB free' --only gpu
mend "somebody's process" gpu
wait "$sleeper" 2>/dev/null || true
sleeper=
is_ok "gone" gpu --only gpu
rm gpus.txt
turns "a GPU is wanted" gpu fail 'device.name is cuda' job.yaml --only gpu --set device.name=cuda
mend "a GPU is wanted" gpu
is_ok "on the CPU" gpu job.yaml --only gpu --set device.name=cuda
more=()
unset LKS_FAKE LKS_NVML

# --- A check that hangs --------------------------------------------------------------------
two
printf 'export LD_PRELOAD=%s\nexport LKS_SLOW_DISK_MS=30000\n' "$slow_disk" >rank1.env
turns "a disk that hangs" run fail 'did not end within 1 s' --only run --only clock --run runs/job --limit 1
same "a disk that hangs: of rank" 1 "$(row run ranks)"
same "a disk that hangs: the next check" ok "$(row clock status)"
say_result
