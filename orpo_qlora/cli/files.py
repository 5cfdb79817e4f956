"""The FILE arguments of a command and their `--share`, `--cap` and `--encoding`. Floor 6."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from orpo_qlora.cli.options import data_path
from orpo_qlora.data.examples import example_names
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.files.hub import recorded_source
from orpo_qlora.data.files.sources import ALL, FileSet, SourceFile, parse_cap, parse_share
from orpo_qlora.data.mapping import complete_mapping
from orpo_qlora.errors import InputError

DataFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help=f"CSV, JSON lines, JSON, Parquet or Arrow with prompt, chosen and rejected; a folder "
        f"of save_to_disk; a data set of the Hub, as owner/name; or an example: "
        f"{', '.join(example_names())}. Several become one data set.",
    ),
]
Shares = Annotated[
    list[str] | None,
    typer.Option("--share", metavar="FILE=SHARE", help="Take a part of a file's pairs: b.csv=0.25"),
]
Caps = Annotated[
    list[str] | None,
    typer.Option("--cap", metavar="FILE=PAIRS", help="Take at most so many of a file: b.csv=500"),
]
Encodings = Annotated[
    list[str] | None,
    typer.Option(
        "--encoding",
        metavar="[FILE=]NAME",
        help="Character encoding of a file that is not Unicode.",
    ),
]
SampleSeed = Annotated[
    int, typer.Option(help="Decides which pairs a share or a cap takes.", metavar="N")
]
Value = TypeVar("Value")


def file_set(
    files: Sequence[str],
    choices: ReadChoices,
    *,
    shares: Sequence[str] | None = None,
    caps: Sequence[str] | None = None,
    encodings: Sequence[str] | None = None,
    sample_seed: int = 0,
    locate: Callable[[str], Path] = data_path,
) -> FileSet:
    """Return the files that a command names, each with its share or cap and its encoding.

    Args:
        files: the FILE arguments.
        choices: how every file is read.
        shares: as typed, “FILE=0.25”; the file may be left out if there is only one.
        caps: as typed, “FILE=500”.
        encodings: as typed, “FILE=NAME”.
        sample_seed: decides which pairs a share or a cap takes.
        locate: returns the path of the file that an argument names; called once for each.

    Raises:
        InputError: a value is wrong, or names none or several of the files.
    """
    quotas = _by_file("--share", shares, files, parse_share)
    for file, cap in _by_file("--cap", caps, files, parse_cap).items():
        if file in quotas:
            raise InputError(f"{file} has both a share and a cap.", hint="Give it one of them.")
        quotas[file] = cap
    named = _by_file("--encoding", encodings, files, lambda text, _: text)
    sources = []
    for file in files:
        path = locate(file).absolute()
        # A file that is named otherwise than its argument, such as a saved folder's split.
        has_name = path.name == Path(file).name or file in example_names() or recorded_source(path)
        source = "" if has_name else file
        own = choices.model_copy(update={"encoding": named.get(file, "")})
        quota = quotas.get(file, ALL)
        sources.append(SourceFile(path=str(path), source=source, choices=own, quota=quota))
    return FileSet(files=tuple(sources), sample_seed=sample_seed, fixes=choices.fixes)


def with_mapping(
    data: FileSet, columns: Sequence[str] | None, named: Mapping[str, str] | None = None
) -> FileSet:
    """Return the file with the mapping of `--map` and of named columns, completed from the file.

    Raises:
        InputError: a text is no KEY=VALUE, a key or shape is unknown, or there are several files.
        NeedsColumns: the file has no such column, or a part is missing.
    """
    chosen = dict(named or {})
    for text in columns or ():
        key, sign, value = text.partition("=")
        if not sign:
            raise InputError(f"--map {text} has no “=”.", hint="Write --map KEY=VALUE.")
        chosen[key] = value
    if not any(chosen.values()):
        return data
    if len(data.files) > 1:
        raise InputError(
            "Columns can be chosen for one file at a time.",
            hint="Check that file alone with these options: its columns are remembered.",
        )
    only = data.files[0]
    mapping = complete_mapping(Path(only.path), only.choices, chosen)
    return data.with_choices({0: only.choices.model_copy(update={"mapping": mapping})})


def _by_file(
    option: str,
    texts: Sequence[str] | None,
    files: Sequence[str],
    parse: Callable[[str, str], Value],
) -> dict[str, Value]:
    """Return the value of an option for each file that it names, by FILE argument."""
    found: dict[str, Value] = {}
    for text in texts or ():
        name, equals, value = text.rpartition("=")
        if not equals and len(files) == 1:
            name = files[0]
        elif not equals:
            raise InputError(
                f"{option} {text} does not name one of the files.",
                hint=f"Write {option} {files[0]}={text}.",
            )
        file = _named_file(option, name, files)
        if file in found:
            raise InputError(f"{option} is given twice for {file}.", hint="Give it once.")
        found[file] = parse(value, file)
    return found


def _named_file(option: str, name: str, files: Sequence[str]) -> str:
    """Return the FILE argument that is meant by itself or by its last part."""
    if name in files:
        return name
    meant = [file for file in files if name and Path(file).name == name]
    if len(meant) == 1:
        return meant[0]
    fact = "several" if meant else "none"
    raise InputError(
        f"{option} {name} names {fact} of the files.", hint=f"Files: {', '.join(files)}."
    )
