#!/bin/bash
# Notices to stop: a file, the metadata services of three clouds in good and bad health, a deadline too near.
# Each is answered with a saved checkpoint and 75, and what is resumed has the undisturbed run's bits.
#   notices.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/tools/common.sh
. "$(dirname "$(realpath "$0")")/../tools/common.sh"
metadata=$(dirname "$(realpath "$0")")/../tools/metadata.py
servers=()
clean_up() {
  local server
  for server in ${servers[@]+"${servers[@]}"}; do kill "$server" 2>/dev/null || true; done
  rm -rf "$work"
}
trap clean_up EXIT
unset http_proxy https_proxy
export http_proxy=http://127.0.0.1:9 HTTP_PROXY=http://127.0.0.1:9 all_proxy=http://127.0.0.1:9 # nobody listens there

"$MAKE_DATA" text text.txt 30000
"$LOCKSTEP" prepare text --output data text.txt >/dev/null
cat >job.yaml <<YAML
model: {name: gpt, layers: 2, width: 32, heads: 2, context: 32}
data: {train: data}
train: {steps: 1000000, global_batch: 32, lanes: 4, seed: 3}
optimizer: {name: adamw, lr: 1e-3}
checkpoint: {every_steps: 0}
YAML

# serve CLOUD TROUBLE...: starts a service; $url is where, $asked what it was asked.
serve() {
  local cloud=$1 port_file=$work/port-$1-$RANDOM
  shift
  asked=$port_file.log
  : >"$asked"
  python3 "$metadata" "$cloud" "$port_file" "$asked" "$@" &
  servers+=($!)
  until [ -s "$port_file" ] || ! kill -0 $!; do sleep 0.01; done
  url=http://127.0.0.1:$(cat "$port_file")
}

newest() { { "$LOCKSTEP" checkpoint list run 2>/dev/null || true; } | awk '{ print $1 }' | sort -n | tail -n 1; } # step

# stops NAME RANKS LOG OPTIONS...: the job goes on until it says 75.
stops() {
  local name=$1 n=$2 log=$3 status=0 before
  shift 3
  before=$(newest)
  (exec_ranks "$n" timeout 300 "$LOCKSTEP" train job.yaml --run run "$@" >"$log" 2>&1) || status=$?
  same "$name: exit status" 75 "$status"
  [ "$status" = 75 ] || tail -n 5 "$log"
  step=$(newest)
  check "$name: a checkpoint of a later step (${before:-0}, $step)" [ "${step:-0}" -gt "${before:-0}" ]
}
says() { grep -aqE -- "$2" "$1" || { cat "$1"; return 1; }; }
says_not() { ! grep -aqE -- "$2" "$1"; }
asks() { grep -qE -- "$1" "$asked" || { cat "$asked"; return 1; }; }
asks_not() { ! asks "$1" >/dev/null; }
polling() { options=(--set "preemption.source=$1" --set "preemption.url=$url" --set preemption.poll_seconds=0.05); }

serve aws 3*none 401 500 garbage empty big hang none
polling aws
stops 'aws' 2 aws.log "${options[@]}"
check 'aws: told' says aws.log 'notice from aws: terminate at 2030-01-02T03:04:05Z'
check 'aws: the time left is told' says aws.log 'a notice to stop, 1[12][0-9] s are left: saving step'
check 'aws: unreachable told once' [ "$(grep -ac 'without an answer' aws.log)" = 1 ]
check 'aws: and that it answers again' says aws.log 'answers again'
check 'aws: a new token after 401' asks '^token 2$'
check 'aws: one rank of the node asks' [ "$(grep -c '^notice' "$asked")" = 1 ]
check 'aws: nothing else is asked' asks_not '^(strange|refused|POST)'

serve gcp none 500 garbage big none none
polling gcp
stops 'gcp' 1 gcp.log "${options[@]}"
check 'gcp: told' says gcp.log 'notice from gcp: preempted'
check 'gcp: about 30 s' says gcp.log 'a notice to stop, (2[0-9]|30) s are left'
check 'gcp: waits for a change' asks 'wait_for_change=true&timeout_sec=1&last_etag=4a5b6c7d'
check 'gcp: nothing else is asked' asks_not '^(strange|refused|POST)'

serve azure 2*none hang garbage empty none
polling azure
stops 'azure' 2 azure.log "${options[@]}"
check 'azure: told' says azure.log 'notice from azure: Preempt, not before Mon, 19 Sep 2016'
check 'azure: events of other machines are not ours, and nothing is acknowledged' asks_not '^(strange|refused|POST)'
check 'azure: three good answers, then the notice' [ "$(grep -cE '^(none|notice) ' "$asked")" = 4 ]

# A file, seen by one rank, and a service that never answers
url=http://127.0.0.1:9
polling aws
(until [ "$(grep -ac grad_norm run/metrics.jsonl)" -gt $((step + 20)) ]; do sleep 0.01; done; touch here) &
stops 'file' 3 file.log --set preemption.file=here "${options[@]}"
check 'file: told' says file.log 'preemption.file here is there'
check 'file: once' [ "$(grep -ac 'preemption.file here' file.log)" = 1 ]

# A deadline that the save will not meet
(until [ "$(find run2/checkpoints -name 'step-*[0-9]' 2>/dev/null | grep -vc partial)" -ge 2 ]; do sleep 0.01; done; touch there) &
status=0
"$LOCKSTEP" train job.yaml --run run2 --set preemption.file=there --set preemption.grace_seconds=0.001 \
  --set checkpoint.every_steps=1 --set checkpoint.busy=wait >late.log 2>&1 || status=$?
same 'too late: exit status' 75 "$status"
check 'too late: said, with the rate' says late.log 'warning: a notice to stop, 0.0 s are left, and saving step [0-9]+ will not end in time: .*iB at .*iB/s take'
rm -f here there

# A wrong base URL is refused; USR2 and the sources live together
status=0
"$LOCKSTEP" train job.yaml --run run3 --set preemption.source=aws --set preemption.url=nowhere >wrong.log 2>&1 || status=$?
same 'wrong url: exit status' 2 "$status"
serve gcp 100000*none
polling gcp
"$LOCKSTEP" train job.yaml --run run "${options[@]}" >usr2.log 2>&1 &
process=$!
until [ "$(grep -ac grad_norm run/metrics.jsonl)" -gt $((step + 5)) ] || ! kill -0 $process 2>/dev/null; do sleep 0.01; done
kill -USR2 $process
status=0
wait $process || status=$?
same 'USR2 beside a quiet source: exit status' 75 "$status"

# The last stretch, and the whole in one
step=$(newest)
end=$((step + 10))
"$LOCKSTEP" train job.yaml --run run --set train.steps=$end >end.log 2>&1 || cat end.log
ranks 2 "$LOCKSTEP" train job.yaml --run straight --set train.steps=$end >straight.log 2>&1 || cat straight.log
same "digest after five stops, at step $end" "$(digest straight)" "$(digest run)"
same 'losses after five stops' "$(losses straight | sha256sum)" "$(losses run | sha256sum)"
check 'the ledger is whole' "$LOCKSTEP" ledger verify run
say_result
