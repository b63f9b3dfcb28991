#!/bin/bash
# Random ranks, or mpirun, are killed again and again under `lockstep launch`: the run ends with the
# digest of an undisturbed one, its ledger is whole, and nothing is left over.
#   launch.sh LOCKSTEP MAKE_DATA [KILLS [SEED]]
LOCKSTEP=$1 MAKE_DATA=$2 kills=${3:-15}
RANDOM=${4:-1}
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"
mkdir temporary
export TMPDIR=$work/temporary

steps=$((60 + 12 * kills))
"$MAKE_DATA" text text.txt 12000
"$LOCKSTEP" --quiet prepare text --output data text.txt
cat >job.yaml <<YAML
model: {name: gpt, layers: 2, width: 48, heads: 4, context: 64, dropout: 0.1}
data: {train: data}
train: {steps: $steps, global_batch: 24, lanes: 6, micro_batch: 2, seed: 9}
optimizer: {name: adamw, lr: 0.002, clip_norm: 1.0}
checkpoint: {every_steps: 5, keep: 2}
report: {ledger: true}
YAML
"$LOCKSTEP" --quiet train job.yaml --run alone

launcher=
exec_launch() { exec "$LOCKSTEP" launch --max-restarts 1000 "$@" -- train job.yaml --run run; }
gone() { ! grep -qs '^State:.[^ZX]' "/proc/$launcher/status"; }
mpirun_of() { pgrep -P "$launcher" -x mpirun || true; }
ranks_of() { pgrep -P "${1:-0}" -f "^$LOCKSTEP " || true; }
starts() { grep -cs '"arithmetic"' run/run.json || true; }
done_steps() { grep -cs grad_norm run/metrics.jsonl || true; }

# poll SECONDS COMMAND...: until it holds, or the launcher is gone.
poll() {
  local end=$((SECONDS + $1))
  shift
  until "$@" || gone; do
    [ $SECONDS -le $end ] || return 1
    sleep 0.01
  done
}
started() { [ "0$(starts)" -gt "0$1" ]; }
stepped() { [ "0$(done_steps)" -gt "$1" ]; }
running() { [ -n "$(ranks_of "$(mpirun_of)")" ]; }

# kill_one STARTS_BEFORE: waits for the next start, mostly until it has come a few steps further than all before it,
# then kills.
early=0
furthest() { sed -n 's/.*launch: .* after step \([0-9]*\);.*/\1/p' run.log | sort -n | tail -n 1; }
kill_one() {
  local mpirun victims target
  poll 300 running || return 1
  # Every fifth kill meets ranks that have not begun; two in a row would be told from bad luck by nobody.
  if [ $((RANDOM % 5)) = 0 ] && [ $early = 0 ]; then
    early=1
  else
    early=0
    poll 300 started "$1" || return 1
    poll 300 stepped $(($(furthest) + RANDOM % 9)) || return 1
  fi
  note_segments
  mpirun=$(mpirun_of)
  mapfile -t victims < <(echo "$mpirun"; ranks_of "$mpirun")
  target=${victims[RANDOM % ${#victims[@]}]}
  [ -n "$target" ] || return 0
  kill -KILL "$target" 2>/dev/null || return 0
  killed=$((killed + 1))
  [ "$target" != "$mpirun" ] || killed_mpirun=$((killed_mpirun + 1))
  poll 300 changed "$mpirun"
}
changed() { [ "$(mpirun_of)" != "$1" ]; }

# Remembers the shared memory that our ranks have mapped; other tests have theirs.
note_segments() {
  local rank
  for rank in $(ranks_of "$(mpirun_of)"); do
    grep -ohs '/dev/shm/vader_segment[^ ]*' "/proc/$rank/maps" >>segments || true
  done
}
run_ids() { sed -n 's/.*"run_id": "\([0-9a-f]*\)".*/\1/p' alone/run.json run/run.json; }

leftovers() {
  local name
  sort -u segments | while read -r name; do [ ! -e "$name" ] || echo "$name"; done
  for name in $(run_ids); do find /dev/shm -maxdepth 1 -name "lockstep-$name-*-step-*"; done
  for name in $(pgrep -f "^$LOCKSTEP "); do
    [ "$(readlink "/proc/$name/cwd")" != "$work" ] || echo "process $name"
  done
  find "$TMPDIR" -mindepth 1 | head -n 3
}

exec_launch >run.log 2>&1 &
launcher=$!
killed=0 killed_mpirun=0
while [ $killed -lt "$kills" ] && ! gone; do
  kill_one "$(starts)" || break
done
check "the run ends" poll 300 gone
gone || kill -KILL "$launcher"
status=0
wait "$launcher" || status=$?
same "exit status after $killed kills" 0 "$status"
[ "$status" = 0 ] || tail -n 20 run.log
same "kills" "$kills" "$killed"
same "restarts" "$killed" "$(grep -c 'launch: .*going on with' run.log)"
same "digest" "$(digest alone)" "$(digest run)"
check "ledger" "$LOCKSTEP" ledger verify run
left=$(leftovers)
same "left over" none "${left:-none}"
echo "$killed kills, $killed_mpirun of them of mpirun"

# The launcher itself is killed: its mpirun ends, and the next launch clears what it left and goes on.
rm -rf run
exec_launch >again.log 2>&1 &
launcher=$!
check "it trains" poll 300 stepped 12
note_segments
mpirun=$(mpirun_of)
kill -KILL "$launcher"
wait "$launcher" 2>/dev/null || true
mpirun_gone() { ! grep -qs '^State:.[^ZX]' "/proc/$mpirun/status"; }
end=$((SECONDS + 120))
until mpirun_gone || [ $SECONDS -gt $end ]; do sleep 0.01; done
check "mpirun does not outlive the launcher" mpirun_gone
status=0
(exec_launch --ranks 2) >again.log 2>&1 || status=$?
same "exit status after the launcher was killed" 0 "$status"
[ "$status" = 0 ] || tail -n 20 again.log
same "digest after the launcher was killed" "$(digest alone)" "$(digest run)"
left=$(leftovers)
same "left over after the launcher was killed" none "${left:-none}"

# A notice becomes a checkpoint and 75; what cannot be mended is passed on at once.
rm -rf run
exec_launch >notice.log 2>&1 &
launcher=$!
check "it trains" poll 300 stepped 12
kill -TERM "$launcher"
status=0
wait "$launcher" || status=$?
same "exit status after TERM" 75 "$status"
status=0
"$LOCKSTEP" launch -- train job.yaml --run run --set train.seed=10 >refused.log 2>&1 || status=$?
same "a refusal is passed on" 2 "$status"
same "a refusal is not tried again" 0 "$(grep -c 'going on with' refused.log || true)"
status=0
"$LOCKSTEP" launch -- predict run >refused.log 2>&1 || status=$?
same "only train is launched" 2 "$status"

# The user's own list of variables for the ranks, which mpirun does not take beside options.
status=0
OMPI_MCA_mca_base_env_list="${OMPI_MCA_mca_base_env_list:-},UNUSED=1,,LOCKSTEP_TRAIN_STEPS=3" OMPI_MCA_mca_base_env_list_delimiter=, \
  "$LOCKSTEP" launch -- train job.yaml --run listed >listed.log 2>&1 || status=$?
same "exit status with variables in a list" 0 "$status"
[ "$status" = 0 ] || tail -n 20 listed.log
same "the ranks have a listed variable" 3 "$(grep -c grad_norm listed/metrics.jsonl || true)"

# Many at once with one TMPDIR, as the nodes of a cluster may share it: none takes another's new directory for a dead one's.
printf '#!/bin/sh\nexit 2\n' >mpirun.refuses
chmod +x mpirun.refuses
for round in 1 2 3; do
  crowd=()
  for number in {1..60}; do
    timeout 300 "$LOCKSTEP" launch --mpirun "$work/mpirun.refuses" -- train job.yaml --run "crowd-$number" >"crowd-$round-$number.log" 2>&1 &
    crowd+=($!)
  done
  for one in "${crowd[@]}"; do
    status=0
    wait "$one" || status=$?
    echo "$status" >>crowd.statuses
  done
done
same "statuses of many launches at once" '180 2' "$(sort crowd.statuses | uniq -c | xargs)"
left=$(leftovers)
same "left over at the end" none "${left:-none}"
say_result
