"""Golden files: NAME.json, and NAME.bin with the numbers of its tensors, little-endian.

A tensor in the JSON is {"shape", "dtype": "f32" | "f64" | "i32" | "u8", "at": byte offset}.
"""

import json

import numpy as np
import torch

NAMES = {np.float32: "f32", np.float64: "f64", np.int32: "i32", np.uint8: "u8"}


class Store:
    def __init__(self):
        self.bytes = bytearray()

    def put(self, values, dtype):
        if isinstance(values, torch.Tensor):
            values = values.detach().numpy()
        self.bytes += bytes(-len(self.bytes) % 8)
        entry = {"shape": list(values.shape), "dtype": NAMES[dtype], "at": len(self.bytes)}
        self.bytes += np.ascontiguousarray(values, dtype).tobytes()
        return entry

    def save(self, path, index):
        with open(path + ".json", "w") as file:
            json.dump(index, file, indent=None, separators=(",", ":"))
            file.write("\n")
        with open(path + ".bin", "wb") as file:
            file.write(self.bytes)
