"""Reads a checkpoint of the tests' fixture without lockstep: readback.py CHECKPOINT DIGEST.

Every number is compared with the formula it was made by, and the digest, the seal and the attributes with
what README.md says of them.
"""
import hashlib
import json
import sys

import h5py
import numpy

path, digest = sys.argv[1:]
groups = ["model", "optimizer/m", "optimizer/v"]
with open(path + "/manifest.json", "rb") as file:
    text = file.read()
manifest = json.loads(text)


def expected(group, tensor, shape, salt):
    i = numpy.arange(int(numpy.prod(shape, dtype=numpy.int64)), dtype=numpy.int64)
    n = (group * 7 + tensor * 13 + i * 31 + salt * 101) % 1009
    return (n / 8 - 60).astype("<f4").reshape(shape)


with h5py.File(path + "/state.h5", "r") as state:
    step = manifest["step"]
    assert state.attrs["step"] == step and state.attrs["format_version"] == 1
    assert state.attrs["seed"] == 2**64 - 1 and state["rng"].attrs["seed"] == 2**64 - 1
    assert state.attrs["run_id"].decode() == manifest["run_id"] == "run-1"
    for key in ["model_fingerprint", "dataset_digest", "arithmetic"]:
        assert state.attrs[key].decode() == manifest[key], key
    assert state["loader"].attrs["position"] == manifest["position"] == 64 * step
    assert state["integrity"].attrs["block_elements"] == 65536
    assert state["integrity"].attrs["block_hash"].decode() == "xxh3-64"
    assert state["config"][()].decode() == manifest["config_yaml"]
    assert sorted(state) == ["config", "integrity", "loader", "model", "optimizer", "rng"]

    entries = []
    for g, group in enumerate(groups):
        names = []
        for t, tensor in enumerate(manifest["layout"]):
            if g > 0 and tensor["role"] == "buffer":
                continue
            dataset = state[group][tensor["name"]]
            values = dataset[()]
            assert dataset.dtype == numpy.dtype("<f4") and dataset.chunks is None
            assert list(dataset.shape) == tensor["shape"], tensor
            assert numpy.array_equal(values, expected(g, t, dataset.shape, step)), tensor
            names.append(tensor["name"])
            full = tensor["name"] if g == 0 else group.split("/")[1] + "/" + tensor["name"]
            shape = "x".join(map(str, dataset.shape)) or "scalar"
            head = b"".join(s.encode() + b"\0" for s in (full, "f32", shape))
            entries.append((g > 0, full.encode(), head + numpy.asarray(values).tobytes()))
            recorded = [x for x in manifest["groups"][g]["tensors"] if x["name"] == tensor["name"]][0]
            assert dataset.id.get_offset() == recorded["offset"]
        assert sorted(state[group]) == sorted(names)

assert hashlib.sha256(b"".join(e[2] for e in sorted(entries))).hexdigest() == digest

hashes = [h for g in manifest["groups"] for t in g["tensors"] for h in t["blocks"]]
root = hashlib.sha256(b"".join(int(h, 16).to_bytes(8, "little") for h in hashes)).hexdigest()
assert root == manifest["root"]
sealed = b"".join(text.splitlines(keepends=True)[:-2])
assert hashlib.sha256(sealed).hexdigest() == manifest["seal"]
print(len(entries), "tensors and", len(hashes), "block hashes agree")
