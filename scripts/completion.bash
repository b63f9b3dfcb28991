# Completion of lockstep for bash.
# shellcheck shell=bash
_lockstep() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at=1 words=
  COMPREPLY=()
  while [[ ${COMP_WORDS[at]} == --verbose || ${COMP_WORDS[at]} == --quiet ]]; do at=$((at + 1)); done
  if [ "$COMP_CWORD" -le "$at" ]; then
    words='train prepare dataset checkpoint evaluate generate predict config ledger launch doctor --verbose --quiet --version --help'
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    return
  fi
  case $prev in
    --resume) words='auto must never' ;;
    --format) words='json csv' ;;
    --task) words='auto classification regression' ;;
    --separator) words='none nul newline' ;;
    --split) words='validation=' ;;
    --print) words='slurm slurm-srun k8s' ;;
    --only) words='plan hosts world network rdma clock versions arithmetic cores gpu memory shm memlock run disk notice speed' ;;
    --limit|--prompt|--tokens|--temperature|--top-k|--seed|--shuffle|--shard-bytes|--target|--types|--missing|--ignore|--max-categories|--classes|--delimiter)
      return ;;
  esac
  if [ -n "$words" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    return
  fi
  case ${COMP_WORDS[at]} in
    train) words='--set --run --resume --take-over --profile' ;;
    prepare)
      words='--output --split --shuffle --shard-bytes --force --classes --target --task --types --missing --ignore --max-categories --delimiter --separator'
      [ "$COMP_CWORD" = $((at + 1)) ] && words='text images table --help' ;;
    dataset)
      words='--json'
      [ "$COMP_CWORD" = $((at + 1)) ] && words='show verify --help' ;;
    checkpoint)
      words='--json --best --config --set'
      [ "$COMP_CWORD" = $((at + 1)) ] && words='list show verify digest diff --help' ;;
    ledger)
      words='--json'
      [ "$COMP_CWORD" = $((at + 1)) ] && words='verify --help' ;;
    evaluate) words='--json --best --set' ;;
    generate) words='--best --set --prompt --tokens --temperature --top-k --seed' ;;
    predict) words='--best --set --format --tokens --temperature --top-k --seed' ;;
    launch) words='--hosts --ranks --min-ranks --max-restarts --backoff --probe-seconds --wait-seconds --stall-seconds --mpirun --print --nodes --ranks-per-node --gpus-per-node --name --partition --time --sbatch --image --volume --memory --rdma --namespace train' ;;
    doctor) words='--set --run --hosts --only --limit --json' ;;
    config) words='--set --json' ;;
  esac
  if [[ $cur == -* || $words == *--help ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words --help" -- "$cur")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
  fi
}
complete -o filenames -F _lockstep lockstep
