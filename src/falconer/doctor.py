"""`falconer doctor`: checks of hardware, versions, kernels, 4-bit layers, embedded files, the hub and the disk."""

import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from falconer import __version__, runtime
from falconer.consoles import counted
from falconer.data.sources import SAMPLE, load_dialogues
from falconer.errors import FalconerError
from falconer.model.tokenizer import EMBEDDED_MODEL, load_tokenizer

Verdict = Literal["OK", "warn", "FAIL"]
STYLES: Mapping[Verdict, str] = MappingProxyType({"OK": "bold green", "warn": "bold yellow", "FAIL": "bold red"})
# A run with falcon-mini takes about 20 MB; a 7B model takes 15 GB in the hub's cache.
LEAST_DISK_GIB, AMPLE_DISK_GIB = 0.2, 2.0
# The process of the quickstart grows to 3.3 GiB.
LEAST_MEMORY_GIB = 4.0
# NF4's own error on normally distributed weights is about 0.09 (QLoRA, arXiv:2305.14314); more means wrong results.
MOST_NF4_ERROR = 0.15
# In a tiny random model the error is 6 % in FP8 and 0.5 % in bf16; wrong attention or positions give far more.
MOST_PATH_ERROR = 0.1
# bf16's rounding of the result and of the values that 4 bits stand for is 0.2 %.
MOST_ROWS_ERROR = 0.01


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the output: the subject, what was found, and what to do about it ("" if nothing)."""

    verdict: Verdict
    subject: str
    found: str
    advice: str = ""


def examine(console: Console) -> bool:
    """Print all findings line by line; return whether a run can start."""
    console.print(Text(f"falconer {__version__}, Python {platform.python_version()}, {platform.platform()}"))
    findings = []
    for title, group in (
        ("Hardware", hardware()), ("Versions", versions()), ("Computation", computation()),
        ("Embedded", embedded()), ("Hub and disk", surroundings()),
    ):  # fmt: skip
        console.print(Text(f"\n{title}", style="bold"))
        for finding in group:
            console.print(_line(finding))
            findings.append(finding)
    num_bad = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in STYLES}
    console.print()
    if num_bad["FAIL"]:
        console.print(Text(f"{num_bad['FAIL']} of {len(findings)} checks failed.", style=STYLES["FAIL"]))
    elif num_bad["warn"]:
        console.print(Text(f"Everything works, with {counted(num_bad['warn'], 'warning')} in {len(findings)} checks."))
    else:
        console.print(Text("Everything works.", style=STYLES["OK"]))
    return not num_bad["FAIL"]


def hardware() -> Iterator[Finding]:
    """Look at CPU, memory and GPUs."""
    capabilities = torch.cpu.get_capabilities()
    names = [name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2", "neon") if capabilities.get(name)]
    cpu = f"{capabilities.get('cpu_name', platform.machine())}, {counted(torch.get_num_threads(), 'thread')}"
    yield Finding("OK", "CPU", f"{cpu}; {', '.join(names) or 'no vector extensions that torch knows of'}")
    free, total = runtime.memory_gib(torch.device("cpu"))
    memory = f"{free:.1f} of {total:.1f} GiB free"
    if free < LEAST_MEMORY_GIB:
        yield Finding("warn", "memory", memory, "Close other programs: the quickstart takes about 3.3 GiB.")
    else:
        yield Finding("OK", "memory", memory)
    yield from _gpus()


def versions() -> Iterator[Finding]:
    """Compare the installed libraries with the ranges that this version of falconer supports."""
    from packaging.requirements import Requirement
    from transformers.utils.versions import require_version

    try:
        required = metadata.requires("falconer") or []
    except metadata.PackageNotFoundError:
        yield Finding(
            "warn",
            "falconer",
            "not installed as a package, so versions can't be compared",
            "pip install --no-deps -e .",
        )
        return
    for requirement in map(Requirement, required):
        # Those of an extra, or of another operating system.
        if requirement.marker and not requirement.marker.evaluate():
            continue
        package, wanted = requirement.name, str(requirement.specifier)
        installed = runtime.metadata_version(package)
        try:
            require_version(package + wanted)
        except (ImportError, metadata.PackageNotFoundError):
            yield Finding("FAIL", package, f"{installed}, but {wanted} is needed", f'pip install "{package}{wanted}"')
        else:
            yield Finding("OK", package, f"{installed:<12} supported: {wanted}")


def computation() -> Iterator[Finding]:
    """Find the device and precision that a run would use, and try the fast path and 4-bit layers on that device."""
    device = runtime.pick_device("auto")
    precision = runtime.pick_precision("auto", device)
    yield Finding("OK", "device", str(device))
    yield Finding("OK", "precision", f"{precision.name}: {precision.reason}")
    yield _try_fast_path(device, precision)
    yield _try_nf4(device, precision.dtype)
    if device.type == "cuda":
        yield _try_few_rows(device)


def embedded() -> Iterator[Finding]:
    """Load the embedded tokenizer and dialogues."""
    assets = resources.files("falconer") / "assets"
    try:
        tokenizer, _ = load_tokenizer(EMBEDDED_MODEL)
        size = _size_mb(assets / EMBEDDED_MODEL / "model.safetensors")
        yield Finding("OK", EMBEDDED_MODEL, f"{size:.1f} MB of weights, {len(tokenizer):,} tokens")
        splits = {split: load_dialogues(SAMPLE, split=split) for split in ("train", "valid", "test")}
        counts = ", ".join(f"{len(loaded.dialogues):,} {split}" for split, loaded in splits.items())
        yield Finding("OK", SAMPLE, f"dialogues: {counts}")
    except (FalconerError, OSError) as error:
        yield Finding("FAIL", "embedded", " ".join(str(error).split()), "Install falconer again.")


def surroundings() -> Iterator[Finding]:
    """Check whether the hub can be reached, and the free space on the disk of the current folder."""
    if runtime.is_offline():
        yield Finding("OK", "hub", "not contacted because HF_HUB_OFFLINE is set; local folders and the cache are used")
    elif runtime.hub_is_reachable():
        yield Finding("OK", "hub", "reachable")
    else:
        advice = "Embedded, local and cached models work. Falcon-7B needs the hub or a local folder."
        yield Finding("warn", "hub", "not reachable", advice)
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 2**30
    disk = f"{free:,.1f} GiB free in {here}"
    if free < LEAST_DISK_GIB:
        yield Finding("FAIL", "disk", disk, "Free some space, or work in another folder.")
    elif free < AMPLE_DISK_GIB:
        yield Finding("warn", "disk", disk, "This is enough for falcon-mini. Falcon-7B takes 15 GB in the hub's cache.")
    else:
        yield Finding("OK", "disk", disk)


def _gpus() -> Iterator[Finding]:
    driver = runtime.nvidia_driver()
    if not torch.cuda.is_available():
        if driver:
            build = f"torch {torch.__version__} (CUDA {torch.version.cuda or 'not built in'})"
            yield Finding(
                "warn", "GPU", f"there is a driver ({driver}), but {build} sees no GPU",
                "Install a CUDA build of torch that this driver supports, and check CUDA_VISIBLE_DEVICES.",
            )  # fmt: skip
        else:
            yield Finding("OK", "GPU", "none: falcon-mini trains on the CPU in minutes; Falcon-7B needs a GPU")
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, total = runtime.memory_gib(torch.device("cuda", number))
        capability = f"{properties.major}.{properties.minor}"
        text = f"{properties.name}, {free:.1f} of {total:.1f} GiB free, compute capability {capability}"
        text += f", driver {driver or 'unknown'}, CUDA {torch.version.cuda}"
        if properties.major < 8:
            advice = (
                "It does not support bf16, so the precision is fp32, which is slow. bf16 needs capability 8.0 or later."
            )
            yield Finding("warn", f"GPU {number}", text, advice)
        else:
            yield Finding("OK", f"GPU {number}", text)


def _try_nf4(device: torch.device, dtype: torch.dtype) -> Finding:
    advice = "Reinstall bitsandbytes for this device, or use model.quantization=none."
    try:
        error, has_gradient = _nf4_error(device, dtype)
    # Whatever a native library raises on a machine that it does not support, 4-bit layers don't work here.
    except Exception as failure:
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        return Finding("FAIL", "NF4", f"bitsandbytes fails on {device}: {reason}", advice)
    text = f"a 64 x 64 layer on {device}: its output differs by {100 * error:.0f} % from the unquantised layer's"
    if not has_gradient:
        return Finding("FAIL", "NF4", f"{text}, but no gradient reaches its input", advice)
    return Finding("OK" if error <= MOST_NF4_ERROR else "FAIL", "NF4", text, "" if error <= MOST_NF4_ERROR else advice)


def _try_few_rows(device: torch.device) -> Finding:
    """Multiply few rows with a 4-bit weight by the CUDA kernel, and compare with the dequantised weight."""
    from falconer.kernels import reference
    from falconer.kernels.nf4_rows import RowProducts
    from falconer.model.bnb import bnb
    from falconer.model.falcon.frozen_linear import nf4_of

    generator = torch.Generator().manual_seed(0)
    weight, x_MK = (torch.randn(rows, 192, generator=generator) for rows in (96, 3))
    layer = bnb.nn.Linear4bit(192, 96, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
    try:
        packed, x_MK = nf4_of(layer.to(device)), x_MK.to(device, torch.bfloat16)
        (found,) = RowProducts(device, True, runtime.kernel_cache()).products([(x_MK, packed)])
        expected = x_MK.double() @ reference.dequantise(packed, torch.float32).double().T
        error = float((found.double() - expected).norm() / expected.norm())
    # Whatever the compiler, the driver or bitsandbytes raises, the kernel can't be used.
    except Exception as failure:
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        text = f"the CUDA kernel for 1 to 16 rows of 4-bit weights can't be used: {reason}"
        return Finding("warn", "few rows", text, "Replies from 4-bit weights are generated more slowly, by Triton's.")
    text = f"the CUDA kernel for 1 to 16 rows of 4-bit weights: its result differs by {100 * error:.1g} %"
    if not error <= MOST_ROWS_ERROR:
        return Finding("FAIL", "few rows", text, "Set model.path=generic, and report this.")
    return Finding("OK", "few rows", text)


def _try_fast_path(device: torch.device, precision: runtime.Precision) -> Finding:
    """Build a small Falcon with the 7B's layout, and compare the fast path with the model's own forward."""
    from falconer.model.falcon.attach import enable
    from falconer.model.falcon.layout import why_generic
    from falconer.model.random_falcon import FALCON_7B, untrained_falcon

    shape = FALCON_7B | {"vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = untrained_falcon(shape, device, precision.dtype, nf4=False)
    reason = why_generic(model)
    if reason:
        return Finding(
            "warn", "path", f"generic path for Falcon too: {reason}", "Training works, but is several times slower."
        )
    ids = torch.arange(64, device=device).unsqueeze(0)
    fp8 = runtime.has_fp8(device)
    how = "Triton kernels" if device.type == "cuda" else "plain torch"
    how += ", base matmuls in FP8" if fp8 else ""
    try:
        with torch.inference_mode():
            expected = model(input_ids=ids, use_cache=False).logits.float()
            enable(model, fp8=fp8)
            found = model(input_ids=ids, use_cache=False).logits.float()
    # Whatever a compiler or a driver raises, the kernels don't work here.
    except Exception as failure:
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        text = f"the fast path fails on {device}: {reason}"
        return Finding("FAIL", "path", text, "Set model.path=generic.")
    error = float((found - expected).norm() / expected.norm())
    text = f"fast path ({how}): its logits differ by {100 * error:.1g} % from the model's own"
    if not error <= MOST_PATH_ERROR:
        return Finding("FAIL", "path", text, "Set model.path=generic, and report this.")
    return Finding("OK", "path", text)


def _nf4_error(device: torch.device, dtype: torch.dtype) -> tuple[float, bool]:
    """Return the relative error of a 4-bit layer's output, and whether a gradient reaches its input."""
    from falconer.model.bnb import bnb

    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(64, 64, generator=generator) for _ in range(2))
    layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=dtype, compress_statistics=True, quant_type="nf4")
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
    layer = layer.to(device)
    given = x.to(device, dtype, copy=True).requires_grad_()
    found = layer(given)
    found.float().sum().backward()
    exact = x.double() @ weight.double().T
    error = float((found.detach().double().cpu() - exact).norm() / exact.norm())
    return error, given.grad is not None and bool(given.grad.abs().sum() > 0)


def _size_mb(file: Traversable) -> float:
    with resources.as_file(file) as path:
        return path.stat().st_size / 1e6


def _line(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=4)
    table.add_column(width=20)
    table.add_column(overflow="fold")
    table.add_row(Text(finding.verdict, style=STYLES[finding.verdict]), Text(finding.subject), Text(finding.found))
    if finding.advice:
        table.add_row("", "", Text(f"→ {finding.advice}", style=STYLES[finding.verdict].removeprefix("bold ")))
    return table
