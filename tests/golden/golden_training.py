"""A job's data as lockstep's ledger delivers them, and its steps, in f64."""

import json
import math

import h5py
import numpy as np
import torch

from golden_models import MODELS
from golden_random import initial


class Dataset:
    def __init__(self, directory, context):
        manifest = json.load(open(f"{directory}/manifest.json"))
        with h5py.File(f"{directory}/shard-00000.h5") as shard:
            arrays = {name: shard[name][()] for name in shard}
        self.kind, self.schema, self.context = manifest["kind"], dict(manifest["schema"]), context
        for name in ("channel_mean", "channel_deviation"):
            if name in manifest.get("statistics", {}):
                values = np.array(manifest["statistics"][name], np.float32)
                self.schema[name] = torch.from_numpy(values.astype(np.float64))
        if self.kind == "text":
            self.set_windows(arrays["tokens"].astype(np.int64))
        else:
            inputs = arrays["images" if self.kind == "images" else "features"]
            target = arrays["labels" if self.kind == "images" else "target"]
            whole = target.dtype.kind == "i"
            self.inputs = torch.from_numpy(inputs.astype(np.float64))
            self.targets = torch.from_numpy(target.astype(np.int64 if whole else np.float64))

    def set_windows(self, tokens):
        context, count = self.context, -(-(len(tokens) - 1) // self.context)
        padded = np.full(count * context + 1, -1)
        padded[: len(tokens)] = tokens
        inputs = np.maximum(padded[:-1], 0).reshape(count, context)
        self.inputs = torch.from_numpy(inputs)
        self.targets = torch.from_numpy(padded[1:].reshape(count, context))

    def batch(self, ids):
        return self.inputs[ids], self.targets[ids]

    def __len__(self):
        return len(self.inputs)


def schedule_factor(schedule, step, steps):
    warmup = schedule.get("warmup_steps", 0)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    r = min(1, (step - warmup) / (steps - warmup))
    final = schedule.get("final_fraction", 0.1)
    if schedule["name"] == "constant":
        return 1
    if schedule["name"] == "linear":
        return 1 - (1 - final) * r
    return final + (1 - final) * (1 + math.cos(math.pi * r)) / 2


class Uncorrected(torch.optim.Optimizer):
    """A mutant: AdamW without the correction of its moments."""

    def __init__(self, groups, lr, betas, eps, weight_decay):
        super().__init__(groups, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m, v = self.state[p].setdefault("mv", (torch.zeros_like(p), torch.zeros_like(p)))
                b1, b2 = group["betas"]
                m.mul_(b1).add_(p.grad, alpha=1 - b1)
                v.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * m / (v.sqrt() + group["eps"]))


def make_optimizer(options, parameters, m):
    """PyTorch's own; decay on parameters of two or more axes alone."""
    decayed = lambda p: p.dim() >= 2 or m.get("decay_on_biases")
    groups = [
        {"params": [p for p in parameters if decayed(p)]},
        {"params": [p for p in parameters if not decayed(p)], "weight_decay": 0},
    ]
    common = {"lr": options["lr"], "weight_decay": options["weight_decay"]}
    if options["name"] == "sgd":
        dampening = m.get("dampening", 0)
        return torch.optim.SGD(groups, momentum=options["momentum"], dampening=dampening, **common)
    common["betas"] = (options["beta1"], options["beta2"])
    common["eps"] = m.get("adam_epsilon", options["epsilon"])
    if m.get("no_bias_correction"):
        return Uncorrected(groups, **common)
    decoupled = (options["name"] == "adamw") != bool(m.get("other_decay"))
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(groups, **common)


class Training:
    """One job. `ledger` has the sample ids of each step, in lane order."""

    def __init__(self, job, directory, ledger, mutation=None):
        self.m, self.job, self.ledger = mutation or {}, job, ledger
        context = job["model"].get("context", 0)
        self.data = Dataset(f"{directory}/data/train", context)
        self.validation = Dataset(f"{directory}/data/validation", context)
        self.size = job["train"]["micro_batch"]
        model = MODELS[job["model"]["name"]]
        self.model = model(job["model"], self.data.schema, self.size, self.m)
        self.p, self.buffers = {}, []
        for index, (name, shape, (kind, number)) in enumerate(self.model.tensors):
            if kind == "buffer":
                self.buffers.append(name)
            values = initial("constant" if kind == "buffer" else kind, number,
                             job["train"]["seed"], index, shape)
            self.p[name] = torch.from_numpy(values).requires_grad_(kind != "buffer")
        self.parameters = [p for p in self.p.values() if p.requires_grad]
        self.optimizer = make_optimizer(job["optimizer"], self.parameters, self.m)
        self.loss, self.grad_norm, self.lr, self.gradients = [], [], [], None
        self.travel = {name: 0.0 for name in self.p}  # sum over steps t of t max|update|

    def terms(self):
        return self.model.terms

    def gradient_terms(self):
        """The way to the loss and back, and the sum over a batch's rows."""
        rows = self.job["train"]["global_batch"] * self.model.rows
        return 2 * self.model.terms + rows

    def backward(self, ids):
        """Gradients of the mean loss over the valid targets of the batch; gives that loss."""
        total, targets = 0.0, 0
        size = self.size
        self.statistics = {name: 0.0 for name in self.buffers}
        for start in range(0, len(ids), size):
            loss, count = self.model.loss(self.p, self.data.batch(ids[start : start + size]), True)
            if self.m.get("mean_per_micro_batch"):
                loss = loss / max(count, 1) * size
            loss.backward()
            total, targets = total + loss.item(), targets + count
            for name in self.buffers:
                self.statistics[name] += self.model.statistics[name] * size / len(ids)
        if self.m.get("mean_per_micro_batch"):
            targets = len(ids)
        for p in self.parameters:
            p.grad /= targets
        return total / targets

    def step(self, number):
        options, schedule = self.job["optimizer"], self.job["schedule"]
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        self.loss.append(self.backward(self.ledger[number]))
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in self.parameters))
        self.grad_norm.append(norm)
        if number == 0:
            self.gradients = {n: p.grad.clone() for n, p in self.p.items() if p.requires_grad}
        clip = options.get("clip_norm", 0)
        if 0 < clip < norm and not self.m.get("no_clipping"):
            for p in self.parameters:
                p.grad *= clip / norm
        factor = schedule_factor(schedule, number + self.m.get("late", 0), self.job["train"]["steps"])
        self.lr.append(options["lr"] * factor)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr[-1]
        before = {name: p.detach().clone() for name, p in self.p.items()}
        self.optimizer.step()
        momentum = self.m.get("buffer_momentum", 0.1)
        for name in self.buffers:
            self.p[name] = (1 - momentum) * self.p[name] + momentum * self.statistics[name]
        for name, p in self.p.items():
            self.travel[name] += (number + 1) * float((p.detach() - before[name]).abs().max())

    def run(self):
        for number in range(self.job["train"]["steps"]):
            self.step(number)
        with torch.no_grad():
            everything = self.validation.batch(list(range(len(self.validation))))
            loss, count = self.model.loss(self.p, everything, False)
        self.validation_loss = loss.item() / count
        return self
