#!/usr/bin/python3
"""Makes the goldens of this folder: PyTorch in f64. Run by hand; needs torch, numpy, h5py, yaml.

    make_golden.py LOCKSTEP MAKE_DATA [NAME...]

NAME is a job (gpt, cnn, mlp-classification, mlp-regression) or ops; without one, all are made.
lockstep is asked for what a golden takes over from it: the data as prepared, and the ids of each
step's samples. Initial parameters are computed here, and must be the ones that it trains from.
"""

import json
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import torch
import yaml

from golden_ops import make_ops
from golden_store import Store
from golden_training import Training

HERE = os.path.dirname(os.path.abspath(__file__))
JOBS = ["gpt", "cnn", "mlp-classification", "mlp-regression"]

# What a wrong program might compute; the test must tell each from the golden.
MUTANTS = {
    "gpt": {
        "norm epsilon of 1e-6": {"norm_epsilon": 1e-6},
        "unbiased variance in the norms": {"unbiased_layer_norm": True},
        "no 1/sqrt(d) in attention": {"no_attention_scale": True},
        "gelu by erf": {"exact_gelu": True},
        "softmax over the padding": {"softmax_over_padding": True},
        "mean of the micro-batches' means": {"mean_per_micro_batch": True},
        "no bias correction": {"no_bias_correction": True},
        "adam's epsilon of 2e-5": {"adam_epsilon": 2e-5},
        "decay on biases and norms": {"decay_on_biases": True},
        "decay in the gradient": {"other_decay": True},
        "no clipping": {"no_clipping": True},
        "schedule one step late": {"late": -1},
    },
    "cnn": {
        "batch norm epsilon of 1e-6": {"norm_epsilon": 1e-6},
        "unbiased variance in the norms": {"unbiased_batch_norm": True},
        "biased running variance": {"biased_running_var": True},
        "running momentum of 0.11": {"buffer_momentum": 0.11},
        "momentum with dampening": {"dampening": 0.1},
        "decay on biases and norms": {"decay_on_biases": True},
    },
    "mlp-classification": {
        "mean of the micro-batches' means": {"mean_per_micro_batch": True},
        "adam's epsilon of 2e-4": {"adam_epsilon": 2e-4},
        "decoupled decay": {"other_decay": True},
        "decay on biases": {"decay_on_biases": True},
        "no clipping": {"no_clipping": True},
    },
    "mlp-regression": {
        "gelu by erf": {"exact_gelu": True},
        "decay on biases": {"decay_on_biases": True},
        "mean of the micro-batches' means": {"mean_per_micro_batch": True},
    },
}


def read_lines(path):
    return [json.loads(line) for line in open(path)]


class Lockstep:
    """Runs of the program in a directory of their own."""

    def __init__(self, program, make_data, directory):
        self.program, self.directory = program, directory
        self.environment = dict(os.environ, LOCKSTEP=program, MAKE_DATA=make_data)

    def run(self, *command):
        subprocess.run(command, cwd=self.directory, env=self.environment, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def train(self, job, run, *settings):
        options = [x for setting in settings for x in ("--set", setting)]
        self.run(self.program, "train", f"{HERE}/{job}.yaml", "--run", run, *options)

    def ledger(self, run):
        return [line["samples"] for line in read_lines(f"{self.directory}/{run}/ledger.jsonl")]


def check_initial(lockstep, job, training):
    """A learning rate of 0 leaves the initial parameters in the checkpoint."""
    lockstep.train(job, "still", "train.steps=1", "optimizer.lr=0", "schedule.warmup_steps=0")
    state = f"{lockstep.directory}/still/checkpoints/step-00000001/state.h5"
    with h5py.File(state) as file:
        assert sorted(file["model"]) == sorted(training.p), "other tensors than lockstep's"
        for name, p in training.p.items():
            found = file["model"][name][()]
            assert name in training.buffers or np.array_equal(found, p.detach().numpy()), name


def curves(training):
    return {"loss": training.loss, "grad_norm": training.grad_norm,
            "validation_loss": training.validation_loss}


def most_telling(golden, wrong):
    """The tensor of one axis that is farthest from the golden's, for its way in training."""
    def distance(name):
        difference = (wrong.p[name] - golden.p[name]).abs().max().item()
        return difference / max(golden.travel[name], 1e-30)
    return max((name for name, p in golden.p.items() if p.dim() == 1), key=distance)


def make_job(name, lockstep):
    job = yaml.safe_load(open(f"{HERE}/{name}.yaml"))
    lockstep.run(f"{HERE}/data.sh", name)
    lockstep.train(name, "run")
    ledger = lockstep.ledger("run")
    train = lambda mutation=None: Training(job, lockstep.directory, ledger, mutation)
    golden = train()
    check_initial(lockstep, name, golden)
    golden.run()
    nearest = getattr(golden.model, "nearest", np.inf)
    assert nearest > 5e-6, f"{name}: a rectifier {nearest:.1e} from its corner: take another seed"

    store = Store()
    index = curves(golden)
    index.update(terms=golden.terms(), gradient_terms=golden.gradient_terms(), lr=golden.lr,
                 samples=ledger, final={}, gradients={}, mutants={})
    for tensor, p in golden.p.items():
        index["final"][tensor] = store.put(p, np.float32)
        index["final"][tensor]["travel"] = golden.travel[tensor]
    for tensor, gradient in golden.gradients.items():
        index["gradients"][tensor] = store.put(gradient, np.float32)
    for mutant, mutation in MUTANTS[name].items():
        wrong = train(mutation).run()
        index["mutants"][mutant] = entry = curves(wrong)
        telling = most_telling(golden, wrong)
        entry["final"] = {telling: store.put(wrong.p[telling], np.float32)}
    store.save(f"{HERE}/{name}", index)


def main(program, make_data, *names):
    torch.set_num_threads(1)
    for name in names or JOBS + ["ops"]:
        if name == "ops":
            make_ops(f"{HERE}/ops")
            continue
        with tempfile.TemporaryDirectory() as directory:
            make_job(name, Lockstep(os.path.abspath(program), os.path.abspath(make_data), directory))
        print(f"{name}: made")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
