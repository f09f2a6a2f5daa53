"""Write the model of a run as ONNX, .pt2 or a folder of transformers, and check what was written."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sprig.cli.console import Screen
from sprig.cli.options import CommonOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4  # largest difference allowed, relative to the largest output
PROBE = 3  # inputs of the check; not the number traced with, so a fixed batch size would show


def run(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    common: CommonOptions,
    *,
    format: Annotated[
        str, typer.Option("--format", help="onnx, pt2 or transformers.", metavar="FORMAT")
    ] = "onnx",
    out: Annotated[
        str | None,
        typer.Option("--out", help="What to write; model.FORMAT in the run when not given."),
    ] = None,
) -> None:
    """Export, load again, compare."""
    from sprig.cli.session import example_of, load_data, prepare, reopen
    from sprig.core.errors import InputError, StoreError

    screen = Screen(json=common.json)
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    prepare(common)
    opened = reopen(folder)
    target = Path(out) if out is not None else Path(folder) / f"model.{format}"
    if not target.parent.is_dir():
        raise StoreError(f"cannot write {target}: the folder {target.parent} does not exist")
    loaded = opened.result()
    if format == PRETRAINED:
        written = write_pretrained(loaded.model, target)
        screen.say(f"{written}: loads with from_pretrained, without sprig; every tensor agrees")
        screen.give({"folder": written, "format": format})
        return
    data = load_data(opened.data, loaded, split="calibration", seed=opened.seed, views=1)
    example = example_of(data)
    if not isinstance(example, tuple):
        raise InputError(
            f"the data gives inputs by name ({', '.join(example)}); export takes positional ones: load the run with "
            "sprig.load and call torch.export or torch.onnx with them"
        )
    with screen.bars() as bars:
        bars("export", 0, 2)
        temp = target.with_name(f".tmp-{target.name}")
        try:
            dynamic = WRITERS[format](loaded.model, example, temp)
            bars("export", 1, 2)
            probe = tuple(_probe(e, PROBE if dynamic else len(e)) for e in example)
            difference = compare(loaded.model, probe, READERS[format](temp, probe))
            temp.replace(target)
        finally:
            temp.unlink(missing_ok=True)
    agrees = difference <= TOLERANCE
    word = "agrees" if agrees else "DISAGREES"
    screen.say(
        f"{target}: {target.stat().st_size / 1e6:,.2f} MB, "
        f"{'any batch size' if dynamic else f'batch size {len(example[0])} only'}\n"
        f"{word} with the module: largest difference {difference:.2e} of the largest output "
        f"(allowed {TOLERANCE:.0e})"
    )
    screen.give(
        {
            "file": target,
            "format": format,
            "bytes": target.stat().st_size,
            "dynamic_batch": dynamic,
            "difference": difference,
            "tolerance": TOLERANCE,
            "agrees": agrees,
        }
    )
    if not agrees:
        raise typer.Exit(1)


def write_pt2(model: "nn.Module", example: tuple[Any, ...], path: Path) -> bool:
    """An exported program; True when it takes any batch size."""
    import torch

    program, dynamic = captured(model, example)
    with path.open("wb") as file:  # by handle: a name that does not end in .pt2 is warned about
        torch.export.save(program, file)
    return dynamic


def read_pt2(path: Path, probe: tuple[Any, ...]) -> list["Tensor"]:
    """The outputs of the file that was written."""
    import torch

    with path.open("rb") as file:
        module = torch.export.load(file).module()
    with torch.no_grad():
        return flat(module(*probe))


def write_onnx(model: "nn.Module", example: tuple[Any, ...], path: Path) -> bool:
    """ONNX by way of the exported program; True when it takes any batch size."""
    import contextlib
    import io
    import warnings

    import torch

    from sprig.core.errors import InputError

    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError("ONNX export needs: pip install torch-sprig[onnx]") from error
    program, dynamic = captured(model, example)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter speaks of its own internals
        made = torch.onnx.export(program, dynamo=True, verbose=False, optimize=True)
    assert made is not None
    made.save(str(path))
    return dynamic


def read_onnx(path: Path, probe: tuple[Any, ...]) -> list["Tensor"]:
    """The outputs of ONNX Runtime on the file that was written."""
    import torch

    from sprig.core.errors import InputError

    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("checking ONNX needs: pip install torch-sprig[onnx]") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, probe, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feeds)]


def write_pretrained(model: "nn.Module", folder: Path) -> Path:
    """A folder that transformers loads by itself; read back, and held against the module."""
    import contextlib

    import torch

    from sprig.core.errors import InputError, StoreError
    from sprig.models.pretrained import save_pretrained

    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; this format is a folder")
    kind: Any = type(model)
    with contextlib.suppress(ImportError):  # a model of somebody else's is refused below
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    again = kind.from_pretrained(save_pretrained(model, folder), local_files_only=True)
    wanted, found = model.state_dict(), again.state_dict()
    if wanted.keys() != found.keys() or not all(torch.equal(wanted[k], found[k]) for k in wanted):
        raise StoreError(
            f"what {kind.__name__}.from_pretrained reads from {folder} is another model"
        )
    return folder


PRETRAINED = "transformers"
WRITERS = {"onnx": write_onnx, "pt2": write_pt2}
READERS = {"onnx": read_onnx, "pt2": read_pt2}
FORMATS = (*WRITERS, PRETRAINED)


def captured(model: "nn.Module", example: tuple[Any, ...]) -> tuple[Any, bool]:
    """The exported program, for any batch size if the model allows that."""
    import torch

    sizes = tuple({0: torch.export.Dim.DYNAMIC} for _ in example)
    with torch.no_grad():
        try:
            program = torch.export.export(
                model, example, dynamic_shapes=(sizes,) if _starred(model) else sizes
            )
            return program, _free(program)
        except (
            Exception
        ):  # the model computes with its batch size; the exporter has many ways to say so
            return torch.export.export(model, example), False


def _starred(model: "nn.Module") -> bool:
    """Whether `forward` takes its inputs as *args, which the exporter counts as one argument."""
    import inspect

    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL in kinds


def _free(program: Any) -> bool:
    """Whether the batch size stayed a symbol."""
    import torch

    shapes = [
        n.meta["val"].shape
        for n in program.graph.nodes
        if n.op == "placeholder" and "val" in n.meta
    ]
    return any(len(s) and isinstance(s[0], torch.SymInt) for s in shapes)


def _probe(example: "Tensor", count: int) -> "Tensor":
    """`count` inputs like the example, each another mixture of its samples."""
    import torch

    parts = [example[i % len(example)] * (1.0 - 0.1 * i) for i in range(count)]
    return torch.stack(parts).to(example.dtype)


def compare(model: "nn.Module", probe: tuple[Any, ...], found: list["Tensor"]) -> float:
    """Largest difference over all outputs, relative to the largest output."""
    import torch

    with torch.no_grad():
        wanted = flat(model(*probe))
    if [tuple(w.shape) for w in wanted] != [tuple(f.shape) for f in found]:
        return float("inf")
    worst = 0.0
    for want, have in zip(wanted, found, strict=True):
        scale = float(want.abs().max()) or 1.0
        worst = max(worst, float((want.double() - have.double()).abs().max()) / scale)
    return worst


def flat(output: Any) -> list["Tensor"]:
    """The tensors of a model's answer, in order."""
    from sprig.core.batches import tensors

    return list(tensors(output if not hasattr(output, "_asdict") else tuple(output)))
