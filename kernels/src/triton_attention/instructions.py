"""What a compiled kernel issues: machine instructions of its loops and of the code around them, by class.

Reads the listing of `cuobjdump -sass`, any architecture from sm_80 on. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

WARP = 32
# Raise it where `read_instructions` reads a listing otherwise: caches of compiled code keep what it said.
READER = 1


@dataclass(frozen=True)
class Mix:
    """Instructions that one warp issues in one pass over a stretch of code.

    Attributes:
        issued: all of them, an issue slot each.
        fma: on the lanes that multiply and add, floats and integers; two for packed pairs.
        alu: on the other lanes: compare, select, minimum, shift, logic, conversion.
        mufu: on the special function units: exp2, reciprocal.
        tensor_flops: of mma.sync and wgmma, by the shapes in the listing; a warp's quarter of a warpgroup's.
        wgmma: instructions of a warpgroup.
        tcgen05: instructions of Blackwell's tensor cores, whose shapes are not in the listing;
            `tcgen05_shared` of them read their first operand from shared memory.
        shared_bytes: through the port of shared memory: loads, stores, copies from global memory, shuffles,
            and the operands of wgmma that lie there (a warp's quarter).
        global_bytes: asked of L1 and L2.
        tensor_memory: registers that each lane moves to or from Blackwell's tensor memory.
        shuffles, barriers, local: exchanges within the warp, waits for others, spilled registers.
    """

    issued: float = 0
    fma: float = 0
    alu: float = 0
    mufu: float = 0
    tensor_flops: float = 0
    wgmma: float = 0
    tcgen05: float = 0
    tcgen05_shared: float = 0
    shared_bytes: float = 0
    global_bytes: float = 0
    tensor_memory: float = 0
    shuffles: float = 0
    barriers: float = 0
    local: float = 0

    def __add__(self, other: Mix) -> Mix:
        return Mix(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Mix)))

    def __mul__(self, factor: float) -> Mix:
        return Mix(*(getattr(self, f.name) * factor for f in fields(Mix)))


@dataclass(frozen=True)
class Instructions:
    """`loops`: innermost loops with products, in the order of the code; `straight`: everything else."""

    loops: tuple[Mix, ...]
    straight: Mix

    def as_dict(self) -> dict[str, Any]:
        """For JSON; classes of which there are none are left out."""
        return {"loops": [_short(loop) for loop in self.loops], "straight": _short(self.straight)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Instructions:
        return cls(tuple(Mix(**loop) for loop in data["loops"]), Mix(**data["straight"]))


def _short(mix: Mix) -> dict[str, float]:
    return {name: value for name, value in asdict(mix).items() if value}


@dataclass(frozen=True)
class _Line:
    address: int
    predicated: bool
    opcode: str
    operands: str


_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@\S+ )?\s*([A-Z][A-Za-z0-9_.]*)\s*([^;]*);")
_PRODUCT = re.compile(r"(UTC)?[HIQDO]G?MMA\b")
_SHAPE = re.compile(r"HGMMA\.(\d+)x(\d+)x(\d+)")
FMA = {"FFMA", "FMUL", "FADD", "IMAD", "FFMA2", "FMUL2", "FADD2", "HFMA2", "HADD2", "HMUL2"}
PACKED = {"FFMA2", "FMUL2", "FADD2"}
ALU = {
    "IADD3", "IADD", "VIADD", "LOP3", "ISETP", "FSETP", "FSEL", "SEL", "FMNMX", "FMNMX3", "IMNMX", "VIMNMX",
    "VIMNMX3", "PRMT", "F2FP", "LEA", "SHF", "PLOP3", "MOV", "CS2R", "SGXT", "I2FP", "IABS", "BMSK",
}  # fmt: skip


def read_instructions(listing: str) -> Instructions:
    """The instruction mix of the one kernel in `listing`."""
    lines = [
        _Line(int(m[1], 16), m[2] is not None, m[3], m[4].strip())
        for m in map(_LINE.search, listing.splitlines())
        if m
    ]
    spans = _loops(lines)
    loops = tuple(_mix(line for line in lines if a <= line.address <= b) for a, b in spans)
    outside = (line for line in lines if not any(a <= line.address <= b for a, b in spans))
    return Instructions(loops, _mix(outside))


def _loops(lines: list[_Line]) -> list[tuple[int, int]]:
    """First and last address of the innermost loops that hold a product."""
    exits = [line.address for line in lines if line.opcode == "EXIT" and not line.predicated]
    products = [line.address for line in lines if _PRODUCT.match(line.opcode)]
    spans = set()
    for line in lines:
        target = re.search(r"0x([0-9a-f]+)$", line.operands) if line.opcode.startswith("BRA") else None
        if target is None or int(target[1], 16) >= line.address:
            continue
        start, stop = int(target[1], 16), line.address
        # Waits are moved behind the end of the kernel; their way back is no loop.
        if any(start <= e <= stop for e in exits) or not any(start <= p <= stop for p in products):
            continue
        spans.add((start, stop))
    return sorted(s for s in spans if not any(s[0] <= o[0] and o[1] <= s[1] for o in spans - {s}))


def _mix(lines: Iterable[_Line]) -> Mix:
    counts = dict.fromkeys((f.name for f in fields(Mix)), 0.0)
    for line in lines:
        name = line.opcode.split(".")[0]
        counts["issued"] += 1
        if name in FMA:
            counts["fma"] += 2 if name in PACKED else 1
        elif name in ALU:
            counts["alu"] += 1
        elif name == "MUFU":
            counts["mufu"] += 1
        elif name == "HMMA":
            counts["tensor_flops"] += _warp_product(line.opcode)
        elif name == "HGMMA":
            rows, columns, depth = map(int, _SHAPE.match(line.opcode).groups())  # type: ignore[union-attr]
            counts["wgmma"] += 1
            counts["tensor_flops"] += 2 * rows * columns * depth / 4
            # Operands after the accumulator: a descriptor is of shared memory, a register is not.
            first = rows if re.match(r"R\d+, gdesc", line.operands) else 0
            size = 4 if "TF32" in line.opcode else 2
            counts["shared_bytes"] += (first + columns) * depth * size / 4
        elif name.startswith("UTC") and _PRODUCT.match(name):
            counts["tcgen05"] += 1
            counts["tcgen05_shared"] += line.operands.startswith("gdesc")
        elif name == "SHFL":
            counts["shuffles"] += 1
            counts["shared_bytes"] += 4 * WARP
        elif name in ("LDS", "STS", "ATOMS"):
            counts["shared_bytes"] += WARP * _width(line.opcode)
        elif name in ("LDSM", "STSM"):
            tiles = re.search(r"88\.(\d)", line.opcode)
            counts["shared_bytes"] += 4 * WARP * (int(tiles[1]) if tiles else 1)
        elif name == "LDGSTS":
            counts["shared_bytes"] += WARP * _width(line.opcode)
            counts["global_bytes"] += WARP * _width(line.opcode)
        elif name in ("LDG", "STG"):
            counts["global_bytes"] += WARP * _width(line.opcode)
        elif name in ("LDTM", "STTM"):
            registers = re.search(r"\.x(\d+)", line.opcode)
            counts["tensor_memory"] += int(registers[1]) if registers else 1
        elif name in ("LDL", "STL"):
            counts["local"] += 1
        elif name in ("BAR", "WARPGROUP") or line.opcode.startswith("SYNCS.PHASECHK"):
            counts["barriers"] += name != "WARPGROUP" or ".DEPBAR" in line.opcode
    return Mix(**counts)


def _warp_product(opcode: str) -> float:
    """FLOPs of one mma.sync: HMMA.16816 is 16 x 8 x 16, HMMA.1688 half as deep."""
    depth = 16 if "16816" in opcode else 8 if "1688" in opcode else 4
    return 2 * 16 * 8 * depth


def _width(opcode: str) -> int:
    """Bytes that each lane moves."""
    parts = opcode.split(".")
    if "128" in parts:
        return 16
    if "64" in parts:
        return 8
    return next((size for kind, size in (("8", 1), ("16", 2)) if {f"U{kind}", f"S{kind}"} & set(parts)), 4)
