"""Every op of the graph by itself: its output, and the gradients of a loss of it.

A case is a name with a function of its inputs. The inputs are drawn here; x, a, b and the like are
differentiated. Where the op is not a loss, the loss is sum((y - target)^2) / K, K being y's
last axis, as the op squared_error has it. ops.c builds the same graphs.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from golden_random import key_of, uniform
from golden_store import Store

DROPOUT = 2  # LKS_RNG_DROPOUT
SEED, POSITIONS = 11, [5, 1234567890123]  # ops.c has them too


class Case:
    """Inputs are f32 numbers as f64; `terms` is the longest sum in the op or its gradients."""

    def __init__(self, name):
        self.random = np.random.default_rng(list(name.encode()))
        self.inputs, self.fields, self.constants, self.buffers = {}, {}, {}, {}
        self.statistics, self.terms, self.loss, self.eval = {}, 1, None, False

    def draw(self, *shape, low=None, high=None):
        values = self.random.standard_normal(shape)
        if low is not None:
            values = self.random.uniform(low, high, shape)
        return torch.from_numpy(values.astype(np.float32).astype(np.float64))

    def input(self, name, *shape, **limits):
        self.inputs[name] = self.draw(*shape, **limits).requires_grad_()
        return self.inputs[name]

    def constant(self, name, *shape, **limits):
        self.constants[name] = self.draw(*shape, **limits)
        return self.constants[name]

    def field(self, name, values, dtype):
        self.fields[name] = np.array(values, dtype)
        return torch.from_numpy(self.fields[name].astype(np.float64 if dtype == np.float32 else np.int64))


def linear(function, bias):
    def build(case):
        x, w = case.input("x", 2, 5, 16), case.input("w", 10, 16)
        b = case.input("b", 10) if bias else None
        case.terms = 16
        return function(F.linear(x, w, b))
    return build


def attention(heads, kv_heads, causal):
    def build(case):
        batch, context, head = 2, 6, 5
        qkv = case.input("qkv", batch, context, (heads + 2 * kv_heads) * head)
        sizes = [heads * head, kv_heads * head, kv_heads * head]
        q, k, v = (x.view(batch, context, -1, head).transpose(1, 2) for x in qkv.split(sizes, -1))
        k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(head)
        if causal:
            mask = torch.ones(context, context, dtype=torch.bool).tril()
            scores = scores.masked_fill(~mask, -math.inf)
        case.terms = head + 2 * context
        return (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(batch, context, -1)
    return build


def norm(kind, bias, residual=False):
    def build(case):
        x, width = case.input("x", 2, 3, 16), 16
        s = x + case.input("r", 2, 3, width) if residual else x
        gain = case.input("gain", width)
        offset = case.input("bias", width) if bias else torch.zeros(width, dtype=torch.float64)
        case.terms = 2 * width
        if kind == "layer":
            y = F.layer_norm(s, (width,), gain, offset, 1e-3)
        else:
            y = s / torch.sqrt((s * s).mean(-1, keepdim=True) + 1e-3) * gain
        return y * s if residual else y
    return build


def embedding(case):
    ids = case.field("ids", [[0, 6, 3, 3, 1], [2, 2, 5, 0, 4]], np.int32)
    case.terms = 3
    return F.embedding(ids, case.input("table", 7, 4)) + case.input("place", 5, 4)


def cross_entropy(case):
    targets = case.field("targets", [[6, 3, -1, 1, 2], [2, 5, 0, 4, -7]], np.int32)
    logits = case.input("logits", 2, 5, 10)
    case.terms = 7
    targets = torch.where(targets < 0, -1, targets).reshape(-1)
    case.loss = F.cross_entropy(logits[..., :7].reshape(-1, 7), targets, ignore_index=-1, reduction="sum")


def squared_error(case):
    rows = [[0.5, -1, 2], [1, math.nan, 0]]
    target = case.field("values", rows, np.float32)
    x = case.input("x", 2, 3)
    case.terms = 3
    case.loss = ((x - target)[0] ** 2).sum() / 3


def conv2d(stride, padding, groups, kernel, bias):
    def build(case):
        x, w = case.input("x", 2, 6, 5, 4), case.input("w", 6, *kernel, 4 // groups)
        b = case.input("b", 6) if bias else None
        y = F.conv2d(x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2), b, stride, padding, 1, groups)
        case.terms = max(w[0].numel(), y[:, 0].numel(), 6 * kernel[0] * kernel[1])
        return y.permute(0, 2, 3, 1)
    return build


def batch_norm(residual, relu, evaluate=False):
    def build(case):
        shape = (2, 4, 3, 5)
        x = case.input("x", *shape)
        r = case.input("r", *shape) if residual else 0
        gain, bias = case.input("gain", 5), case.input("bias", 5)
        mean = case.draw(5)
        variance = case.draw(5, low=0.5, high=2)
        case.buffers = {"mean": mean, "variance": variance}
        case.terms, case.eval = 24, evaluate
        nchw = x.permute(0, 3, 1, 2)
        if evaluate:
            y = F.batch_norm(nchw, mean, variance, gain, bias, False, eps=1e-3)
        else:
            y = F.batch_norm(nchw, None, None, gain, bias, True, eps=1e-3)
            unbiased, batch_mean = torch.var_mean(x.detach(), (0, 1, 2), unbiased=True)
            case.statistics = {"mean": batch_mean, "variance": unbiased}
        y = y.permute(0, 2, 3, 1) + r
        return F.relu(y) if relu else y
    return build


def pool(kind):
    def build(case):
        x = case.input("x", 2, 6, 5, 2).permute(0, 3, 1, 2)
        case.terms = 9
        if kind == "max":
            y = F.max_pool2d(x, 3, 2, 1)
        else:
            y = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return y.permute(0, 2, 3, 1)
    return build


def global_mean(case):
    case.terms = 20
    return case.input("x", 2, 4, 5, 3).mean((1, 2))


def image(case):
    pixels = case.field("image", case.random.integers(0, 256, (2, 4, 3, 2)), np.uint8)
    shift = case.constant("shift", 2, low=100, high=150)
    scale = case.constant("scale", 2, low=0.01, high=0.02)
    return (pixels - shift) * scale * case.input("w", 4, 3, 2)


def dropout(case):
    key = key_of(SEED, DROPOUT, 0)
    rate = float(np.float32(0.4))
    keep = np.stack([uniform(key, 21, p) >= rate for p in POSITIONS]).reshape(2, 3, 7)
    return case.input("x", 2, 3, 7) * torch.from_numpy(keep) / (1 - rate)


def unary(function, low=-3.0):
    return lambda case: function(case.input("x", 2, 11, low=low, high=3.0))


def binary(function, *shape):
    return lambda case: function(case.input("a", 2, 3, 4), case.input("b", *shape, low=0.6, high=1.4))


def matmul(transpose_a, transpose_b):
    def build(case):
        a = case.input("a", *((2, 20, 3) if transpose_a else (2, 3, 20)))
        b = case.input("b", *((2, 5, 20) if transpose_b else (2, 20, 5)))
        case.terms = 20
        return (a.transpose(1, 2) if transpose_a else a) @ (b.transpose(1, 2) if transpose_b else b)
    return build


def softmax(causal):
    def build(case):
        x = case.input("x", 2, 6, 6)
        case.terms = 6
        if causal:
            x = x.masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), -math.inf)
        return torch.softmax(x, -1)
    return build


def summed(case, y, terms):
    case.terms = terms
    return y


GELU = lambda x: F.gelu(x, approximate="tanh")

CASES = {
    "linear": linear(lambda x: x, True),
    "linear_plain": linear(lambda x: x, False),
    "linear_relu": linear(F.relu, True),
    "linear_gelu": linear(GELU, True),
    "attention": attention(2, 2, False),
    "attention_causal": attention(2, 2, True),
    "attention_grouped": attention(4, 2, True),
    "norm_layer": norm("layer", True),
    "norm_layer_plain": norm("layer", False),
    "norm_rms": norm("rms", False),
    "norm_residual": norm("layer", True, True),
    "embedding": embedding,
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
    "conv2d": conv2d(1, 1, 1, (3, 3), True),
    "conv2d_strided": conv2d(2, 0, 1, (3, 2), False),
    "conv2d_grouped": conv2d(2, 1, 2, (3, 3), False),
    "conv2d_point": conv2d(2, 0, 1, (1, 1), False),
    "batch_norm": batch_norm(False, False),
    "batch_norm_relu": batch_norm(False, True),
    "batch_norm_residual": batch_norm(True, False),
    "batch_norm_residual_relu": batch_norm(True, True),
    "batch_norm_evaluate": batch_norm(False, False, True),
    "pool_max": pool("max"),
    "pool_mean": pool("mean"),
    "global_mean": global_mean,
    "image": image,
    "dropout": dropout,
    "relu": unary(F.relu),
    "gelu": unary(GELU),
    "silu": unary(F.silu),
    "tanh": unary(torch.tanh),
    "sigmoid": unary(torch.sigmoid),
    "exp": unary(torch.exp),
    "log": unary(torch.log, 0.1),
    "sqrt": unary(torch.sqrt, 0.1),
    "square": unary(torch.square),
    "reciprocal": unary(torch.reciprocal, 0.1),
    "affine": unary(lambda x: -1.5 * x + 0.25),
    "add": binary(torch.add, 2, 3, 4),
    "add_suffix": binary(torch.add, 3, 4),
    "subtract_suffix": binary(torch.sub, 3, 4),
    "multiply_suffix": binary(torch.mul, 3, 4),
    "divide": binary(torch.div, 2, 3, 4),
    "divide_suffix": binary(torch.div, 3, 4),
    "matmul": matmul(False, False),
    "matmul_transposed_a": matmul(True, False),
    "matmul_transposed_b": matmul(False, True),
    "matmul_transposed_both": matmul(True, True),
    "softmax": softmax(False),
    "softmax_causal": softmax(True),
    "reduce_sum": lambda c: summed(c, c.input("x", 2, 5, 4).sum(1), 5),
    "reduce_mean": lambda c: summed(c, c.input("x", 2, 4, 5).mean(2), 5),
    "permute": lambda c: c.input("x", 2, 3, 4, 5).permute(2, 0, 3, 1),
    "reshape": lambda c: c.input("x", 2, 6).view(2, 2, 3).transpose(1, 2).reshape(2, 6),
    "slice": lambda c: c.input("x", 2, 5, 4)[:, 1:4],
    "concatenate": lambda c: torch.cat([c.input("a", 2, 3, 4), c.input("b", 2, 1, 4)], 1),
}


def make_case(name, store):
    case = Case(name)
    y = CASES[name](case)
    entry = {"terms": case.terms, "eval": case.eval}
    if case.loss is None:
        target = case.draw(*y.shape)
        case.loss = ((y - target) ** 2).sum() / y.shape[-1]
        entry["target"] = store.put(target, np.float32)
        entry["output"] = store.put(y, np.float32)
    case.loss.backward()
    entry["loss"] = case.loss.item()
    fields = {n: store.put(v, v.dtype.type) for n, v in case.fields.items()}
    inputs = {n: store.put(x, np.float32) for n, x in case.inputs.items()}
    constants = {n: store.put(x, np.float32) for n, x in case.constants.items()}
    buffers = {n: store.put(x, np.float32) for n, x in case.buffers.items()}
    gradients = {n: store.put(x.grad, np.float32) for n, x in case.inputs.items()}
    gradients.update({n: store.put(x, np.float32) for n, x in case.statistics.items()})
    return dict(entry, fields=fields, inputs=inputs, constants=constants, buffers=buffers,
                gradients=gradients)


def make_ops(path):
    store = Store()
    store.save(path, {name: make_case(name, store) for name in CASES})
