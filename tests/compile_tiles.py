"""Compiles the kernels of `fast.tiles` for an H100, also where there is no GPU."""

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unnas.fast import tiles

SIZES = dict(SIDE=3, STRIDE=2, DILATION=1, P=64, C=16, D=16, R=128, N=16, COUNT=3)
FLAGS = dict(RELU=True, LEARNED=True, LARGEST=True, MOMENTUM=0.1, EPS=1e-5, KIND=tl.float32)
MAPS = {"x", "y", "z", "g", "v", "dx", "dz", "dv"}
OTHER = {"tracked": "*i64", "places": "*i8", "maps": ("*bf16",) * 3}
NUMBERS = {"pixels", "channels", "height", "width", "out_height", "out_width", "rounds", "parts"}
NUMBERS |= {"columns", "start", "each", "fewer", "inputs", "outputs", "numbers", "k", "count"}


def kind(name: str) -> str | tuple[str, ...]:
    """The type of an argument under mixed precision."""
    if name in NUMBERS:
        return "i32"
    return OTHER.get(name, "*bf16" if name in MAPS else "*fp32")


def build(kernel) -> None:
    """Compile `kernel` with the values of the tables above."""
    constants = {name: (SIZES | FLAGS)[name] for name in kernel.arg_names if name.isupper()}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else kind(name) for name in names}
    constants = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constants)
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_stages=1))


if __name__ == "__main__":
    for name, kernel in vars(tiles).items():
        if name.endswith("_kernel"):
            build(kernel)
            print(name)
