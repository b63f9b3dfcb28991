"""The peer of scripts/bench: GPT-2's step in PyTorch, data-parallel over gloo, a thread per process.

    RANK=0 WORLD_SIZE=2 gpt_step.py STORE STEPS      once per rank; STORE is a file they all see

Prints, on rank 0, the seconds of each step: forward, backward with DDP's overlapped reduction,
clipping by global norm, AdamW. The same sizes as scripts/bench gives lockstep.
"""

import math
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

LAYERS, WIDTH, HEADS, CONTEXT, ROWS, SAMPLES = 12, 768, 12, 64, 50304, 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc, self.out = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def attention(self, x, mask):
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in self.qkv(x).split(WIDTH, -1))
        scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS) + mask
        y = torch.softmax(scores, -1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, t, WIDTH))

    def forward(self, x, mask):
        x = x + self.attention(self.ln_1(x), mask)
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(ROWS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -math.inf).triu(1))
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight
        for block in self.blocks:
            x = block(x, self.mask)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, ROWS), targets.reshape(-1))


def main(store, steps):
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    torch.manual_seed(rank)
    model = nn.parallel.DistributedDataParallel(Gpt(), gradient_as_bucket_view=True)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
    seconds = []
    for _ in range(steps):
        data = torch.randint(0, 256, (SAMPLES // size, CONTEXT + 1))
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=False)
        model(data[:, :-1], data[:, 1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    dist.barrier()
    if rank == 0:
        print(*(f"{s:.6f}" for s in seconds))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
