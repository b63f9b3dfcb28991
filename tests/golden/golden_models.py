"""The models of runtime/models in PyTorch: what they declare, and their loss.

A model is a class with `tensors`, the declarations in order: (name, shape, (kind, number) of the
initial values), buffers marked by the kind "buffer"; and `loss(p, batch, training)`, which gives
the sum of the losses and the count of valid targets. `terms` counts the terms of all sums on the
way from an input to the loss, `rows` what a sample adds to the sum in a weight's gradient. `m`
holds what a mutant changes.
"""

import math

import torch
import torch.nn.functional as F


class Gpt:
    def __init__(self, options, schema, micro_batch, m):
        self.m = m
        self.layers, self.width = options["layers"], options["width"]
        self.heads, self.vocabulary = options["heads"], schema["vocabulary"]
        self.context = self.rows = options["context"]
        multiple = options["vocabulary_multiple"]
        rows = -(-self.vocabulary // multiple) * multiple
        width, hidden = self.width, options["hidden"]
        small, out = 0.02, 0.02 / math.sqrt(2 * self.layers)
        self.tensors = [
            ("wte.weight", (rows, width), ("normal", small)),
            ("wpe.weight", (self.context, width), ("normal", small)),
        ]
        self.norm("h.0.ln_1")
        for i in range(self.layers):
            self.linear(f"h.{i}.attn.qkv", width, 3 * width, small)
            self.linear(f"h.{i}.attn.proj", width, width, out)
            self.norm(f"h.{i}.ln_2")
            self.linear(f"h.{i}.mlp.fc", width, hidden, small)
            self.linear(f"h.{i}.mlp.proj", hidden, width, out)
            self.norm(f"h.{i + 1}.ln_1" if i + 1 < self.layers else "ln_f")
        attention = width // self.heads + self.context
        self.terms = self.layers * (5 * width + attention + hidden) + 2 * width + self.vocabulary

    def norm(self, name):
        self.tensors.append((name + ".weight", (self.width,), ("constant", 1)))
        self.tensors.append((name + ".bias", (self.width,), ("constant", 0)))

    def linear(self, name, inputs, outputs, deviation):
        self.tensors.append((name + ".weight", (outputs, inputs), ("normal", deviation)))
        self.tensors.append((name + ".bias", (outputs,), ("constant", 0)))

    def apply_norm(self, p, name, x):
        if self.m.get("unbiased_layer_norm"):
            var, mean = torch.var_mean(x, -1, unbiased=True, keepdim=True)
            x = (x - mean) / torch.sqrt(var + 1e-5)
            return x * p[name + ".weight"] + p[name + ".bias"]
        epsilon = self.m.get("norm_epsilon", 1e-5)
        return F.layer_norm(x, (self.width,), p[name + ".weight"], p[name + ".bias"], epsilon)

    def attention(self, qkv):
        b, t, _ = qkv.shape
        head = self.width // self.heads
        q, k, v = (x.view(b, t, self.heads, head).transpose(1, 2) for x in qkv.split(self.width, -1))
        scale = 1 if self.m.get("no_attention_scale") else 1 / math.sqrt(head)
        scores = q @ k.transpose(2, 3) * scale
        mask = torch.ones(t, t, dtype=torch.bool).tril()
        probabilities = torch.softmax(scores.masked_fill(~mask, -math.inf), -1)
        return (probabilities @ v).transpose(1, 2).reshape(b, t, self.width)

    def loss(self, p, batch, training):
        def linear(name, x):
            return F.linear(x, p[name + ".weight"], p[name + ".bias"])

        tokens, targets = batch
        gelu = "none" if self.m.get("exact_gelu") else "tanh"
        x = F.embedding(tokens, p["wte.weight"]) + p["wpe.weight"]
        for i in range(self.layers):
            y = self.attention(linear(f"h.{i}.attn.qkv", self.apply_norm(p, f"h.{i}.ln_1", x)))
            x = x + linear(f"h.{i}.attn.proj", y)
            y = linear(f"h.{i}.mlp.fc", self.apply_norm(p, f"h.{i}.ln_2", x))
            x = x + linear(f"h.{i}.mlp.proj", F.gelu(y, approximate=gelu))
        logits = F.linear(self.apply_norm(p, "ln_f", x), p["wte.weight"])
        if not self.m.get("softmax_over_padding"):
            logits = logits[..., : self.vocabulary]
        logits = logits.reshape(-1, logits.shape[-1])
        loss = F.cross_entropy(logits, targets.reshape(-1), ignore_index=-1, reduction="sum")
        return loss, int((targets >= 0).sum())


class Cnn:
    def __init__(self, options, schema, micro_batch, m):
        self.m, self.schema, self.terms = m, schema, 0
        self.rows = schema["height"] * schema["width"]
        self.pixels = micro_batch * self.rows
        self.nearest = math.inf  # the least |input| of a rectifier, in deviations of its tensor
        self.tensors, self.blocks = [], []
        channels = options["channels"][0]
        self.convolution("stem.conv", schema["channels"], channels, 3)
        self.norm("stem.bn", channels)
        for stage, out in enumerate(options["channels"]):
            for block in range(options["blocks"]):
                stride = 2 if stage and not block else 1
                name = f"stage.{stage}.{block}"
                self.pixels //= stride * stride
                self.block(name, channels, out, stride)
                self.blocks.append((name, stride, stride != 1 or channels != out))
                channels = out
        bound = 1 / math.sqrt(channels)
        self.tensors.append(("head.weight", (schema["classes"], channels), ("uniform", bound)))
        self.tensors.append(("head.bias", (schema["classes"],), ("constant", 0)))
        self.terms += self.pixels // micro_batch + channels + schema["classes"]

    def convolution(self, name, inputs, outputs, kernel):
        deviation = math.sqrt(2 / (outputs * kernel * kernel))
        shape = (outputs, kernel, kernel, inputs)
        self.tensors.append((name + ".weight", shape, ("normal", deviation)))
        self.terms += inputs * kernel * kernel

    def norm(self, name, channels):
        self.terms += self.pixels
        for part, number in (("weight", 1), ("bias", 0)):
            self.tensors.append((f"{name}.{part}", (channels,), ("constant", number)))
        for part, number in (("running_mean", 0), ("running_var", 1)):
            self.tensors.append((f"{name}.{part}", (channels,), ("buffer", number)))

    def block(self, name, inputs, outputs, stride):
        self.convolution(name + ".conv1", inputs, outputs, 3)
        self.norm(name + ".bn1", outputs)
        self.convolution(name + ".conv2", outputs, outputs, 3)
        if stride != 1 or inputs != outputs:
            self.convolution(name + ".shortcut", inputs, outputs, 1)
            self.norm(name + ".shortcut_bn", outputs)
        self.norm(name + ".bn2", outputs)

    def relu(self, x):
        nearest = float(x.detach().abs().min() / x.detach().std())
        self.nearest = min(self.nearest, nearest)
        return F.relu(x)

    def apply_norm(self, p, name, x, training):
        """Notes the statistics of training in self.statistics."""
        gain, bias = p[name + ".weight"], p[name + ".bias"]
        epsilon = self.m.get("norm_epsilon", 1e-5)
        mean, variance = p[name + ".running_mean"], p[name + ".running_var"]
        if not training:
            return F.batch_norm(x, mean, variance, gain, bias, False, eps=epsilon)
        var, mean = torch.var_mean(x.detach(), (0, 2, 3), unbiased=not self.m.get("biased_running_var"))
        self.statistics[name + ".running_mean"] = mean
        self.statistics[name + ".running_var"] = var
        if self.m.get("unbiased_batch_norm"):
            var, mean = torch.var_mean(x, (0, 2, 3), unbiased=True, keepdim=True)
            y = (x - mean) / torch.sqrt(var + epsilon)
            return y * gain.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
        return F.batch_norm(x, None, None, gain, bias, True, eps=epsilon)

    def loss(self, p, batch, training):
        def convolution(name, x, stride=1):
            w = p[name + ".weight"].permute(0, 3, 1, 2)
            return F.conv2d(x, w, stride=stride, padding=w.shape[2] // 2)

        def norm(name, x):
            return self.apply_norm(p, name, x, training)

        self.statistics = {}
        images, targets = batch
        shift = self.schema["channel_mean"].view(1, -1, 1, 1)
        scale = 1 / (self.schema["channel_deviation"].view(1, -1, 1, 1) + 1e-3)
        x = (images.permute(0, 3, 1, 2) - shift) * scale
        x = self.relu(norm("stem.bn", convolution("stem.conv", x)))
        for name, stride, projected in self.blocks:
            y = self.relu(norm(name + ".bn1", convolution(name + ".conv1", x, stride)))
            y = convolution(name + ".conv2", y)
            if projected:
                x = norm(name + ".shortcut_bn", convolution(name + ".shortcut", x, stride))
            x = self.relu(norm(name + ".bn2", y) + x)
        logits = F.linear(x.mean((2, 3)), p["head.weight"], p["head.bias"])
        loss = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
        return loss, int((targets >= 0).sum())


class Mlp:
    def __init__(self, options, schema, micro_batch, m):
        self.m, self.classes, self.rows = m, schema["classes"], 1
        self.gelu = options["activation"] == "gelu"
        self.nearest = math.inf
        self.tensors, self.names, self.terms = [], [], self.classes
        width = schema["features"]
        for i, out in enumerate(options["hidden"]):
            self.linear(f"layer.{i}", width, out, 2)
            self.names.append(f"layer.{i}")
            width = out
        self.linear("head", width, self.classes or 1, 1)

    def linear(self, name, inputs, outputs, variance):
        self.terms += inputs
        deviation = math.sqrt(variance / inputs)
        self.tensors.append((name + ".weight", (outputs, inputs), ("normal", deviation)))
        self.tensors.append((name + ".bias", (outputs,), ("constant", 0)))

    def activation(self, x):
        if self.gelu:
            return F.gelu(x, approximate="none" if self.m.get("exact_gelu") else "tanh")
        self.nearest = min(self.nearest, float(x.detach().abs().min() / x.detach().std()))
        return F.relu(x)

    def loss(self, p, batch, training):
        x, targets = batch
        for name in self.names:
            x = self.activation(F.linear(x, p[name + ".weight"], p[name + ".bias"]))
        x = F.linear(x, p["head.weight"], p["head.bias"])
        if self.classes:
            loss = F.cross_entropy(x, targets, ignore_index=-1, reduction="sum")
            return loss, int((targets >= 0).sum())
        valid = ~torch.isnan(targets)
        loss = ((x.view(-1)[valid] - targets[valid]) ** 2).sum()
        return loss, int(valid.sum())


MODELS = {"gpt": Gpt, "cnn": Cnn, "mlp": Mlp}
