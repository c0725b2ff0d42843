"""Makes the checkpoint and array files beside this script with PyTorch and NumPy; run it again to change them."""
import collections
import os

import numpy
import torch

ramp = torch.arange(24, dtype=torch.float32).reshape(4, 6)
state = collections.OrderedDict()
state["plain"] = ramp
state["transposed"] = ramp.t()
state["slice"] = ramp[1:3, 2:5]
state["column"] = ramp[:, 3]
state["expanded"] = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1).expand(3, 4)
state["permuted"] = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4).permute(2, 0, 1)
state["scalar"] = torch.tensor(2.5)
state["empty"] = torch.zeros(0, 3)
state["half"] = torch.tensor([1.0, -0.5, 65504.0, 6e-8]).half()
state["bfloat"] = torch.tensor([1.0, -0.5, 3e38, 1e-40]).bfloat16()
state["long"] = torch.tensor([-1, 1 << 40])
state["int"] = torch.tensor([-7, 7], dtype=torch.int32)
state["char"] = torch.tensor([-128, 127], dtype=torch.int8)
state["byte"] = torch.tensor([0, 255], dtype=torch.uint8)
state["bool"] = torch.tensor([True, False, True])
state["parameter"] = torch.nn.Parameter(torch.tensor([4.0, 5.0]))
state._metadata = {"version": 1}
torch.save(state, "views.bin")

torch.save(
    {
        "model": state,
        "epoch": 3,
        "loss": 0.25,
        "big": 1 << 40,
        "negative": -(1 << 40),
        "names": ["a", ("b", None, True)],
        "steps": {1: torch.tensor([9.0])},
    },
    "nested.bin",
)
torch.save({"w": torch.ones(2)}, "legacy.bin", _use_new_zipfile_serialization=False)


class Evil:
    def __reduce__(self):
        return os.system, ("echo executed",)


torch.save({"w": torch.ones(2), "evil": Evil()}, "evil.bin")
numpy.save("float32.npy", numpy.arange(6, dtype="<f4").reshape(2, 3))
numpy.save("float64.npy", numpy.linspace(0, 1, 5))
numpy.save("int64.npy", numpy.array([[1, -2], [3, 1 << 40]]))
numpy.save("fortran.npy", numpy.asfortranarray(numpy.ones((2, 3), "<f4")))
