#!/bin/bash
# What scripts/k8s ships and what `launch --print k8s` writes is what the MPI Operator and Kubernetes take, any misspelt key
# would be noticed, and texts of a user come out as they went in.
#   manifest.sh LOCKSTEP MAKE_DATA SOURCE CACHE     CACHE keeps the package with the schemas
source=$3 cache=$4
here=$source/tests/k8s
python=
for one in python3 /usr/bin/python3; do
  if [ -z "$python" ] && "$one" -c 'import jsonschema, yaml; jsonschema.Draft202012Validator' 2>/dev/null; then python=$one; fi
done
if [ -z "$python" ]; then
  echo 'skipped: no python3 with jsonschema and yaml: scripts/setup --tests installs them'
  exit 77
fi
mkdir -p "$cache"
schemas=$(find "$cache" -name 'kubernetes_validate-*.whl' | head -n 1)
if [ -z "$schemas" ]; then
  timeout 120 "$python" -m pip download --quiet --disable-pip-version-check --retries 1 --timeout 15 --no-deps --require-hashes \
    -r "$here/requirements.txt" --dest "$cache" >"$cache/pip.log" 2>&1 || true
  schemas=$(find "$cache" -name 'kubernetes_validate-*.whl' | head -n 1)
fi
if [ -z "$schemas" ]; then
  echo "skipped: the package with the Kubernetes schemas cannot be downloaded: $(tail -n 1 "$cache/pip.log")"
  exit 77
fi
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/tools/common.sh
. "$source/tests/tools/common.sh"

manifest() { "$python" "$here/manifest.py" "$@"; }
print_k8s() { "$LOCKSTEP" launch --print k8s "$@"; }
get() { manifest get "$@"; }
worker=spec/mpiReplicaSpecs/Worker/template/spec
launcher=spec/mpiReplicaSpecs/Launcher/template/spec

# --- What is shipped

base=$source/scripts/k8s/base/mpijob.yaml
check 'mpijob.yaml is valid' manifest check "$schemas" "$base"
check 'a misspelt key of mpijob.yaml is refused' manifest misspell "$schemas" "$base"
same 'mpijob.yaml is where it is looked for' "$base" "$(realpath "$source/scripts/k8s/mpijob.yaml")"
check 'volume.yaml is valid' manifest check "$schemas" "$source/scripts/k8s/volume.yaml"
check 'shell.yaml is valid' manifest check "$schemas" "$source/scripts/k8s/shell.yaml"
check 'a misspelt key of shell.yaml is refused' manifest misspell "$schemas" "$source/scripts/k8s/shell.yaml"
manifest overlay "$source/scripts/k8s/base" >base.yaml
check 'the base of the kustomization is mpijob.yaml' manifest same base.yaml "$base"
manifest overlay "$source/scripts/k8s/overlays/cpu" >cpu.yaml
check 'the CPU variant is valid' manifest check "$schemas" cpu.yaml
check 'a misspelt key of the CPU variant is refused' manifest misspell "$schemas" cpu.yaml
check 'the CPU variant asks for no GPU, no RDMA, no capability' [ "$(grep -cE 'nvidia|rdma|IPC_LOCK' cpu.yaml)" = 0 ]
if command -v kubectl >/dev/null && kubectl kustomize "$source/scripts/k8s/overlays/cpu" >kubectl.yaml 2>kubectl.log; then
  check 'kustomize builds the same CPU variant' manifest same kubectl.yaml cpu.yaml
else
  echo 'not done: kustomize itself (no kubectl); the overlay was merged by manifest.py'
fi
sed 's/^kind: ConfigMap$/&\nkind: ConfigMap/' "$base" >twice.yaml
check 'a repeated key is refused' [ "$(manifest check "$schemas" twice.yaml >log 2>&1; echo $?)" = 1 ]
check 'and named' grep -q 'kind twice' log
sed 's/restartPolicy: OnFailure/restartPolicy: Sometimes/' "$base" >enum.yaml
check 'a value that the operator does not know is refused' [ "$(manifest check "$schemas" enum.yaml >log 2>&1; echo $?)" = 1 ]

# --- What is printed

get "$base" ConfigMap data/gpt.yaml | "$python" -c 'import json, sys; sys.stdout.write(json.load(sys.stdin))' >gpt.yaml
print_k8s --nodes 2 --gpus-per-node 8 --memory 64Gi --rdma rdma/hca_shared_devices_a --name lockstep -- train gpt.yaml >printed.yaml
check 'printing the example gives mpijob.yaml' manifest same printed.yaml "$base"
check 'no mark is left' [ "$(grep -c '#[=:?]' printed.yaml)" = 0 ]

cat >job.yaml <<'YAML'
model: {name: gpt, layers: 1, width: 16, heads: 2, context: 16}
data: {train: data/train, validation: data/validation}
train: {steps: 4, global_batch: 16, lanes: 16}
YAML
valid() { # NAME OPTIONS...
  local name=$1
  shift
  check "$name: is printed" print_k8s "$@" >"$name.yaml"
  check "$name: is valid" manifest check "$schemas" "$name.yaml"
}
valid one --nodes 1 -- train job.yaml
valid cores --nodes 4 --ranks-per-node 4 --namespace ml --image registry.local:5000/team/lockstep:1.2@sha256:0123 --volume team.data -- train job.yaml
valid gpus --nodes 2 --gpus-per-node 8 -- train ./job.yaml --run runs/x
valid memory --nodes 2 --memory 512Mi --name on -- train job.yaml
valid rdma --nodes 2 --rdma example.com/roce.v2 --wait-seconds 30 --min-ranks 2 -- train job.yaml
for name in one cores gpus memory rdma; do
  check "$name: a misspelt key is refused" manifest misspell "$schemas" "$name.yaml"
done
same 'cores: nodes' 4 "$(get cores.yaml MPIJob spec/mpiReplicaSpecs/Worker/replicas)"
same 'cores: slots' 4 "$(get cores.yaml MPIJob spec/slotsPerWorker)"
same 'cores: what a worker asks for' '{"requests": {"cpu": "4"}}' "$(get cores.yaml MPIJob $worker/containers/0/resources)"
same 'cores: image' '"registry.local:5000/team/lockstep:1.2@sha256:0123"' "$(get cores.yaml MPIJob $launcher/containers/0/image)"
same 'cores: volume' '"team.data"' "$(get cores.yaml MPIJob $worker/volumes/0/persistentVolumeClaim/claimName)"
same 'cores: namespace' '"ml"' "$(get cores.yaml ConfigMap metadata/namespace)"
same 'gpus: limits' '{"nvidia.com/gpu": 8}' "$(get gpus.yaml MPIJob $worker/containers/0/resources/limits)"
same 'a name that YAML would take for a truth value' '"on"' "$(get memory.yaml MPIJob metadata/name)"
same 'rdma: limits' '{"example.com/roce.v2": 1}' "$(get rdma.yaml MPIJob $worker/containers/0/resources/limits)"
same 'rdma: capability' '["IPC_LOCK"]' "$(get rdma.yaml MPIJob $worker/containers/0/securityContext/capabilities/add)"
same 'rdma: options of launch' \
  '["launch", "--hosts", "/etc/mpi/hostfile", "--wait-seconds", "30", "--min-ranks", "2", "--", "train", "/etc/lockstep/job.yaml"]' \
  "$(get rdma.yaml MPIJob $launcher/containers/0/args)"
same 'gpus: arguments of train' \
  '["launch", "--hosts", "/etc/mpi/hostfile", "--wait-seconds", "600", "--", "train", "/etc/lockstep/job.yaml", "--run", "runs/x"]' \
  "$(get gpus.yaml MPIJob $launcher/containers/0/args)"

# Texts of a user come out as they went in, whatever YAML would make of them.
"$python" - <<'PY'
import json
plain = "data: {train: t, validation: v}\ntrain: {steps: 4, global_batch: 16, lanes: 16}\nmodel: {name: gpt}\n"
texts = {
    "comment-first": "# ---\n" + plain,
    "no-end": plain.rstrip("\n"),
    "ends": plain + "\n\n",
    "blank-first": "\n\n" + plain,
    "indented-first": "  # indented\n" + plain,
    "returns": plain.replace("\n", "\r\n"),
    "words": plain + "# \ttab, trailing   \n#= x #: y #? z\n# '\"\\ @nodes@ {{x}} %s\n",
    "letters": plain + "# Grüße, 模型, \U0001f600\n",
    "breaks": plain + "# next line \u0085# separator \u2028# end\n",
    "mark-first": "\ufeff" + plain,
}
for name, text in texts.items():
    open(f"{name}.yaml", "w", encoding="utf-8", newline="").write(text)
json.dump(texts, open("texts.json", "w"))
PY
for name in comment-first no-end ends blank-first indented-first returns words letters breaks mark-first; do
  check "$name: is printed" print_k8s --nodes 1 -- train $name.yaml >text.yaml
  get text.yaml ConfigMap "data/$name.yaml" | "$python" -c 'import json, sys; sys.stdout.buffer.write(json.load(sys.stdin).encode())' >back
  check "$name: the configuration's text comes back" cmp "$name.yaml" back
done
odd=(--set 'model.name=gpt' --set "report.ledger=chain" --run $'runs/a b: c\t"#\'{}[],&*!|>%@`é\n$(PATH) $$ $x')
# $ is doubled: Kubernetes would take $(PATH) for a variable, and $$ for $.
print_k8s --nodes 1 -- train job.yaml "${odd[@]}" >odd.yaml
"$python" -c 'import json, sys; print(json.dumps(["launch", "--hosts", "/etc/mpi/hostfile", "--wait-seconds", "600", "--", "train", "/etc/lockstep/job.yaml"] + [word.replace("$", "$$") for word in sys.argv[1:]], ensure_ascii=False))' "${odd[@]}" >wanted
same 'odd arguments come back' "$(cat wanted)" "$(get odd.yaml MPIJob $launcher/containers/0/args)"

# --- What is refused: status 2, one line that names it

refused() { # WHAT OPTIONS...
  local what=$1 status=0
  shift
  print_k8s "$@" >refused.out 2>refused.err || status=$?
  same "$what: status" 2 "$status"
  same "$what: one line" 1 "$(grep -vc 'warning: ' refused.err)"
  check "$what: is named" grep -qF -- "$what" refused.err
  check "$what: nothing is printed" [ ! -s refused.out ]
}
refused --nodes -- train job.yaml
refused --namespace --nodes 1 --namespace Ml -- train job.yaml
refused --namespace --nodes 1 --namespace a_b -- train job.yaml
refused --namespace --nodes 1 --namespace -a -- train job.yaml
refused --namespace --nodes 1 --namespace "$(printf 'a%.0s' {1..64})" -- train job.yaml
refused --name --nodes 1 --name 'a"b' -- train job.yaml
refused --name --nodes 1 --name 9lives -- train job.yaml
refused --volume --nodes 1 --volume 'a..b' -- train job.yaml
refused --volume --nodes 1 --volume $'a\nb: c' -- train job.yaml
refused --image --nodes 1 --image 'a b' -- train job.yaml
refused --image --nodes 1 --image '' -- train job.yaml
refused --memory --nodes 1 --memory 12Q -- train job.yaml
refused --memory --nodes 1 --memory 0 -- train job.yaml
refused --memory --nodes 1 --memory 64 -- train job.yaml
refused --memory --nodes 1 --memory 99999999999Ti -- train job.yaml
refused --rdma --nodes 1 --rdma hca -- train job.yaml
refused --rdma --nodes 1 --rdma 'x/y: 1' -- train job.yaml
refused --hosts --nodes 1 --hosts here -- train job.yaml
refused --partition --nodes 1 --partition p -- train job.yaml
refused missing.yaml --nodes 1 -- train missing.yaml
refused UTF-8 --nodes 1 -- train job.yaml --run $'\xff'
cp job.yaml 'j ob.yaml'
refused 'j ob.yaml' --nodes 1 -- train 'j ob.yaml'
say_result
