"""Generates the `throughline` package from proto/; with --check, only tells whether it is up to date."""

import argparse
import filecmp
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import google.rpc
from grpc_tools import protoc

CONTRACTS = Path(__file__).resolve().parent
GENERATED = CONTRACTS / "src" / "throughline"
PROTO = CONTRACTS.parents[1] / "proto"

# Where imports resolve: here, google/protobuf from grpcio-tools, google/rpc from googleapis-common-protos.
INCLUDES = (PROTO, Path(str(files("grpc_tools") / "_proto")), Path(google.rpc.__path__[0]).parents[1])


def generate(target: Path) -> None:
    """Writes messages, aio stubs and servicers, with their types, under `target`; the same bytes every time.

    Raises SystemExit where a contract does not compile.
    """
    contracts = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.glob("throughline/**/*.proto"))
    if not contracts:
        sys.exit(f"{PROTO} holds no contract")
    beside = Path(sys.executable).parent
    status = protoc.main(
        [
            "protoc",
            *(f"--proto_path={include}" for include in INCLUDES),
            f"--plugin=protoc-gen-mypy={beside / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={beside / 'protoc-gen-mypy_grpc'}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet,only_async:{target}",
            *contracts,
        ]
    )
    if status != 0:
        sys.exit(f"protoc failed with status {status}")
    root = target / "throughline"
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        (folder / "__init__.py").touch()
    (root / "py.typed").touch()


def differences(fresh: Path, committed: Path) -> Iterator[str]:
    """Names every file in which the two trees differ, and how."""
    ours, theirs = _listing(fresh), _listing(committed)
    for name in sorted(ours | theirs):
        if name not in theirs:
            yield f"missing: {name}"
        elif name not in ours:
            yield f"left over: {name}"
        elif not filecmp.cmp(fresh / name, committed / name, shallow=False):
            yield f"out of date: {name}"


def _listing(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def main() -> int:
    """Returns the exit status: 1 where --check finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where files differ")
    check = parser.parse_args().check

    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "throughline"
        found = list(differences(fresh, GENERATED))
        if check:
            for difference in found:
                print(difference)
            if found:
                print("libs/contracts differs from proto: run `make generate` and commit what it wrote")
            return 1 if found else 0
        if found:
            shutil.rmtree(GENERATED, ignore_errors=True)
            shutil.copytree(fresh, GENERATED)
        print(f"libs/contracts: {len(found)} of {len(_listing(GENERATED))} files changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
