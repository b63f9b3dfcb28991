#!/usr/bin/env python3
"""What a checkpoint costs the training: copy, stall, write rate, beside dd's rate on the same disk in the same run.

    stall.py LOCKSTEP MAKE_DATA [DIRECTORY]

Trains a GPT with 30 million parameters on 2 ranks below DIRECTORY (default: the temporary directory) and removes
it again. Every figure is of this run."""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

STEPS, EVERY, RANKS = 60, 20, 2
CONFIG = f"""
model: {{name: gpt, layers: 10, width: 496, heads: 8, context: 32}}
data: {{train: data}}
train: {{steps: {STEPS}, global_batch: 2, lanes: 2}}
checkpoint: {{every_steps: {EVERY}, keep: 1, memory_every_steps: 0}}
"""


def train(lockstep, run, *options):
    """The log of a run on RANKS ranks."""
    command = ['mpirun', '-n', str(RANKS), lockstep, 'train', 'job.yaml', '--run', run, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=580)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def lines_of(run):
    """The steps of metrics.jsonl but the first three, which touch memory for the first time."""
    with open(f'{run}/metrics.jsonl') as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if 'step_seconds' in line and line['step'] > 3]


def dd_rate(state):
    """Bytes a second of dd with fsync, of the same bytes onto the same disk."""
    started = time.monotonic()
    subprocess.run(['dd', f'if={state}', 'of=copy', 'bs=4M', 'conv=fsync', 'status=none'], check=True)
    seconds = time.monotonic() - started
    os.unlink('copy')
    return os.path.getsize(state) / seconds


def mean(values):
    return statistics.mean(values) if values else float('nan')


def report(log, lines, state, dd):
    copy, stall = map(float, re.search(r'took this rank ([\d.]+) s, training waited ([\d.]+) s', log).groups())
    rate = re.search(r'was written at (.*)/s', log).group(1)
    idle = [line['step_seconds'] for line in lines if not line['checkpoint_running_seconds']]
    busy = [line['step_seconds'] for line in lines if line['checkpoint_running_seconds']]
    parameters = re.search(r'gpt with (\d+) parameters', log).group(1)
    staging = re.search(r'checkpoint staging (.*?\))', log).group(1)
    rows = [('parameters, ranks', f'{parameters}, {RANKS}'),
            ('state file', f'{os.path.getsize(state) / 2**20:.0f} MiB'),
            ('staging of a rank', staging),
            ('copy into staging, a save', f'{copy:.4f} s'),
            ('stall of the main thread, copy included', f'{stall:.4f} s'),
            ('stall / copy', f'{stall / copy:.2f}'),
            ('write rate: written, read back and committed', f'{rate}/s'),
            ('dd with fsync, the same bytes', f'{dd[0] / 2**20:.0f} MiB/s before, {dd[1] / 2**20:.0f} MiB/s after'),
            ('a step with no save under way', f'{mean(idle):.4f} s ({len(idle)} steps)'),
            ('a step during a save', f'{mean(busy):.4f} s ({len(busy)} steps)'),
            ('slow-down of those steps', f'{100 * (mean(busy) / mean(idle) - 1):.0f} %')]
    for name, value in rows:
        print(f'{name:46} {value}')


def main():
    lockstep, make_data = map(os.path.realpath, sys.argv[1:3])
    place = tempfile.mkdtemp(prefix='lockstep-stall.', dir=sys.argv[3] if len(sys.argv) > 3 else None)
    try:
        os.chdir(place)
        subprocess.run([make_data, 'text', 'text.txt', '60000'], check=True)
        subprocess.run([lockstep, '--quiet', 'prepare', 'text', '--output', 'data', 'text.txt'], check=True)
        with open('job.yaml', 'w') as file:
            file.write(CONFIG)
        train(lockstep, 'first', '--set', 'train.steps=1')
        state = 'first/checkpoints/step-00000001/state.h5'
        before = dd_rate(state)
        log = train(lockstep, 'run')
        report(log, lines_of('run'), state, (before, dd_rate(state)))
    finally:
        shutil.rmtree(place)


main()
