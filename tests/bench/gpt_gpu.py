"""The peer of scripts/gpu-check: GPT-2's training step in PyTorch on one GPU, in bf16, at PyTorch's best.

    gpt_gpu.py eager|compile|max STEPS BATCH CONTEXT [--precision autocast|masters] [--device cpu] [sizes]

Prints the milliseconds of each timed step, one a line; on standard error what was chosen and the peak of memory.

  eager     as it is written                compile   torch.compile of the model with its loss
  max       torch.compile(mode="max-autotune-no-cudagraphs"): minutes to compile
  autocast  f32 parameters, torch.autocast to bf16
  masters   bf16 parameters with f32 masters that AdamW updates, copied in one call each way: lockstep's arithmetic

Fused AdamW; clipping by global norm; scaled_dot_product_attention by whichever of its flash and cuDNN kernels is faster
here, which is measured first; TF32 allowed; the vocabulary padded to 50,304; batches that lie on the device
already, the whole batch at once if the memory allows; the host waits for the device only at the end. Steps are timed by events on the device.
"""

import argparse
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

WARM_UP = 10


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attention(self, x):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(x).split(c, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, c))

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(o.rows, o.width), nn.Embedding(o.context, o.width)
        self.blocks = nn.Sequential(*(Block(o.width, o.heads) for _ in range(o.layers)))
        self.ln_f = nn.LayerNorm(o.width)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        logits = F.linear(self.ln_f(self.blocks(x)), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


class Trainer:
    """A step of training; `parameters` are what AdamW updates."""

    def __init__(self, o):
        self.device = o.device
        self.autocast = o.precision == "autocast"
        model = Gpt(o).to(o.device)
        self.masters, self.rounded = list(model.parameters()), []
        if not self.autocast:
            self.masters = [p.detach().clone() for p in model.parameters()]
            model = model.bfloat16()
            self.rounded = list(model.parameters())
            for p in self.masters:
                p.grad = torch.empty_like(p)
        self.run = model
        if o.mode != "eager":
            self.run = torch.compile(model, mode="max-autotune-no-cudagraphs" if o.mode == "max" else None)
        decay = [p for p in self.masters if p.dim() > 1]
        plain = [p for p in self.masters if p.dim() <= 1]
        groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)

    def step(self, ids, targets, parts):
        loss = 0
        for ids_part, targets_part in zip(ids.chunk(parts), targets.chunk(parts)):
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.autocast):
                part = self.run(ids_part, targets_part) / parts
            part.backward()
            loss += part.detach()
        if not self.autocast:
            torch._foreach_copy_([p.grad for p in self.masters], [p.grad for p in self.rounded])
        nn.utils.clip_grad_norm_(self.masters, 1.0, foreach=True)
        self.optimizer.step()
        if self.autocast:
            self.optimizer.zero_grad(set_to_none=True)
            return loss
        with torch.no_grad():
            torch._foreach_copy_(self.rounded, self.masters)
        for p in self.rounded:
            p.grad = None
        return loss


class Clock:
    """Times between marks: by events on the device, without waiting for it."""

    def __init__(self, device):
        self.cuda = device == "cuda"
        self.marks = []

    def mark(self):
        if not self.cuda:
            self.marks.append(time.perf_counter() * 1000)
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def milliseconds(self):
        pairs = list(zip(self.marks, self.marks[1:]))
        if not self.cuda:
            return [b - a for a, b in pairs]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) for a, b in pairs]


def attention_milliseconds(o, backend):
    """Forward and backward of one attention with `backend`; infinite where it does not take the shapes."""
    shape = (o.batch, o.context, 3 * o.width)
    x = torch.randn(shape, device=o.device, dtype=torch.bfloat16, requires_grad=True)
    clock = Clock(o.device)
    try:
        with sdpa_kernel(backend):
            for i in range(8):
                if i >= 3:
                    clock.mark()
                q, k, v = (y.view(o.batch, o.context, o.heads, -1).transpose(1, 2) for y in x.split(o.width, -1))
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                y.backward(y.detach())
            clock.mark()
        times = sorted(clock.milliseconds())
    except RuntimeError:
        return float("inf")
    return times[len(times) // 2]


def choose_attention(o):
    if o.device != "cuda":
        return SDPBackend.FLASH_ATTENTION
    times = {b: attention_milliseconds(o, b) for b in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)}
    print(", ".join(f"attention {b.name}: {t:.3f} ms" for b, t in times.items()), file=sys.stderr)
    return min(times, key=times.get)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("eager", "compile", "max"))
    for name in ("steps", "batch", "context"):
        parser.add_argument(name, type=int)
    parser.add_argument("--precision", choices=("autocast", "masters"), default="autocast")
    parser.add_argument("--device", default="cuda")
    for name, value in (("layers", 12), ("width", 768), ("heads", 12), ("rows", 50304), ("classes", 256)):
        parser.add_argument("--" + name, type=int, default=value)
    return parser.parse_args()


def train(o, backend, parts):
    """The clock with a mark before and after each timed step, and all losses; the batch in so many parts."""
    trainer = Trainer(o)
    batches = [torch.randint(0, o.classes, (o.batch, o.context + 1), device=o.device) for _ in range(4)]
    clock, losses = Clock(o.device), []
    with sdpa_kernel([backend, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
                     set_priority=True):
        for step in range(WARM_UP + o.steps):
            if step >= WARM_UP:
                clock.mark()
            ids = batches[step % len(batches)]
            losses.append(trainer.step(ids[:, :-1], ids[:, 1:].contiguous(), parts))
        clock.mark()
    return clock, losses


def main():
    o = arguments()
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    backend = choose_attention(o)
    for parts in (1, 2, 4, 8):
        try:
            clock, losses = train(o, backend, parts)
            break
        except torch.OutOfMemoryError:
            print(f"no memory for the batch in {parts}", file=sys.stderr)
            torch.cuda.empty_cache()
    for milliseconds in clock.milliseconds():
        print(f"{milliseconds:.3f}")
    peak = torch.cuda.max_memory_allocated() / 2**30 if o.device == "cuda" else 0
    print(f"torch {torch.__version__}, {o.mode}, {o.precision}, attention {backend.name}, micro-batches {parts}, "
          f"peak {peak:.2f} GiB, loss {losses[0].item():.4f} to {losses[-1].item():.4f}", file=sys.stderr)


main()
