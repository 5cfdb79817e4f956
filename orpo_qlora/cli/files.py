"""The FILE arguments of a command and the options that say how they are read. Floor 6; no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, TypeVar, get_args, get_type_hints

import typer

from orpo_qlora.cli.console import err, job_progress, plain
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.columns import ShapeName
from orpo_qlora.data.examples import example_names, example_path
from orpo_qlora.data.files import hub
from orpo_qlora.data.files.choices import Labelled, PairsFromRanking, ReadChoices
from orpo_qlora.data.files.hub import recorded_source
from orpo_qlora.data.files.sources import ALL, FileSet, SourceFile, parse_cap, parse_share
from orpo_qlora.data.mapping import KEYS as MAPPING_KEYS
from orpo_qlora.data.mapping import complete_mapping
from orpo_qlora.data.readers.arrow import is_saved, split_folder
from orpo_qlora.errors import InputError, ResourceError
from orpo_qlora.jobs.hub import job
from orpo_qlora.methods import method_of
from orpo_qlora.models.devices.machine import this_machine
from orpo_qlora.models.devices.needs import needs_of
from orpo_qlora.presets import Recipe, read_preset, read_recipe, recipe_names

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
RecipeFiles = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE...",
        help=f"As for check; may be left out with a preset that names its data: "
        f"{', '.join(recipe_names())}.",
        show_default=False,
    ),
]
Fixes = Annotated[
    list[str] | None,
    typer.Option("--fix", metavar="ID", help="Fix a finding, by its id; repeatable."),
]
Ranking = Annotated[
    PairsFromRanking | None,
    typer.Option(
        "--pairs-from-ranking",
        metavar="WAY",
        help="Pairs of a ranked row: best_worst, best_rest or all.",
    ),
]
LabelledRows = Annotated[
    Labelled | None,
    typer.Option(
        "--labelled",
        metavar="WAY",
        help="Responses with a good or bad label: pairs, of prompts with both labels; or single, "
        "each on its own, which only the method kto trains on.",
        show_default="single for kto and where there are no pairs, else pairs",
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="KEY=VALUE",
        help=f"How the file is read; repeatable. Keys: {', '.join(MAPPING_KEYS)}. "
        f"Shapes: {', '.join(get_args(ShapeName))}.",
    ),
]
CommonPrefix = Annotated[
    bool,
    typer.Option(
        "--prompt-from-common-prefix",
        help="Confirm that what chosen and rejected both begin with is the prompt.",
    ),
]
HubConfig = Annotated[str, typer.Option("--config-name", help="Config (subset) of a Hub data set.")]
HubSplit = Annotated[
    str, typer.Option("--split", help="Split of a Hub data set or of a saved folder.")
]
HubRevision = Annotated[
    str, typer.Option("--data-revision", help="Branch, tag or commit of a Hub data set.")
]
MaxRows = Annotated[
    int, typer.Option(min=0, help="Take the first rows of a Hub data set only; 0 is all.")
]
MaxBytes = Annotated[
    int, typer.Option(min=1, help="Refuse a Hub data set that takes more bytes than this.")
]
Value = TypeVar("Value")


@dataclass(frozen=True)
class HubOptions:
    """The options that only a Hub data set takes; a saved folder takes the split too."""

    config: str = ""
    split: str = ""
    revision: str = ""
    max_rows: int = 0
    max_bytes: int = hub.MOST_BYTES


def data_path(file: str, options: HubOptions | None = None, *, quiet: bool = False) -> Path:
    """Return the path of a data file, of an example given by name, or of a fetched Hub data set.

    Raises:
        DataError: the Hub has no such data set, or the options do not suit the file.
    """
    options = options or HubOptions()
    if file in example_names():
        return example_path(file)
    path = Path(file).expanduser()
    if not path.exists():
        if hub.looks_like_id(file):
            return _fetched(file, options, quiet=quiet)
        return path
    if path.is_dir() and is_saved(path):
        path, options = split_folder(path, options.split), replace(options, split="")
    if options != HubOptions():
        raise InputError(
            f"{file} is a file on this machine, which has no config, split or revision.",
            hint="Leave out the options for Hub data sets.",
        )
    return path


def locator(files: Sequence[str], options: HubOptions, *, quiet: bool) -> Callable[[str], Path]:
    """Return how to find the path of each FILE argument; see `data_path`.

    The options apply to those files that take them, if any does.
    """
    taking = [file for file in files if _takes_options(file)]

    def locate(file: str) -> Path:
        return data_path(file, options if file in taking or not taking else None, quiet=quiet)

    return locate


def _takes_options(file: str) -> bool:
    path = Path(file).expanduser()
    if file in example_names() or path.is_file():
        return False
    return is_saved(path) if path.exists() else hub.looks_like_id(file)


def recipe_data(
    preset: str | None, config: TrainConfig, options: HubOptions
) -> tuple[str, HubOptions]:
    """Return the Hub data set that a preset names, with its options; print what its model needs.

    Options that are given replace the preset's.

    Raises:
        InputError: the preset names no data, or there is no preset.
        ResourceError: its model cannot be trained on this machine.
    """
    recipe = read_recipe(preset) if preset else None
    if recipe is None or recipe.data is None:
        raise InputError(
            f"The preset {preset} names no data." if preset else "There is no FILE.",
            hint=f"Name a file, an example or a Hub data set, or use a preset that names its data: "
            f"{', '.join(recipe_names())}.",
        )
    if config.model == read_preset(preset or "").get("model"):
        _say_needs(config.model, recipe)
    data = recipe.data
    wanted = replace(
        options,
        config=options.config or data.config,
        split=options.split or data.split,
        revision=options.revision or data.revision,
    )
    return data.id, wanted


def _say_needs(model: str, recipe: Recipe) -> None:
    """Print what a model needs before anything is downloaded; refuse where it cannot work."""
    needs = needs_of(model, recipe.about.parameters_billion, this_machine())
    if needs is None:
        return
    err.print(plain(needs.sentence), soft_wrap=True)
    if needs.warning:
        raise ResourceError(
            needs.warning,
            hint="Nothing was downloaded. Use a smaller model with --model or another machine; to "
            f"train here all the same, name the data: {recipe.data.id if recipe.data else 'FILE'}.",
        )


def _fetched(file: str, options: HubOptions, *, quiet: bool) -> Path:
    """Fetch a Hub data set with a progress bar; return the stored file."""
    request = hub.request_of(
        file, options.config, options.split, options.revision, options.max_rows
    ).model_copy(update={"max_bytes": options.max_bytes})
    with job_progress(quiet=quiet) as on_progress:
        fetched = job.fetch(request, on_progress)
    if fetched.note:
        err.print(plain(fetched.note), soft_wrap=True)
    return fetched.path


@dataclass(frozen=True)
class DataOptions:
    """How the FILE arguments of a command are read; each field is an option of the command."""

    shares: Shares = None
    caps: Caps = None
    sample_seed: SampleSeed = 0
    encodings: Encodings = None
    fixes: Fixes = None
    pairs_from_ranking: Ranking = None
    labelled: LabelledRows = None
    columns: Map = None
    prompt_from_common_prefix: CommonPrefix = False
    config_name: HubConfig = ""
    split: HubSplit = ""
    data_revision: HubRevision = ""
    max_rows: MaxRows = 0
    max_bytes: MaxBytes = hub.MOST_BYTES

    @property
    def are_given(self) -> bool:
        """Whether any differs from its default; a list that is not given may be empty."""
        return any(
            getattr(self, field.name) != field.default
            for field in fields(self)
            if getattr(self, field.name) != []
        )

    def hub_options(self) -> HubOptions:
        """Return the options for Hub data sets."""
        return HubOptions(
            self.config_name, self.split, self.data_revision, self.max_rows, self.max_bytes
        )

    def file_set(
        self,
        files: Sequence[str],
        *,
        quiet: bool,
        hub_options: HubOptions | None = None,
        has_header: bool = True,
        configs: Sequence[TrainConfig] = (),
    ) -> FileSet:
        """Return the files, each as it is to be read; Hub data sets are fetched, with progress.

        Args:
            files: the FILE arguments.
            quiet: whether no progress is shown.
            hub_options: instead of the given options for Hub data sets.
            has_header: whether the first line names columns.
            configs: of the runs that train on them; labelled responses are read to suit all.

        Raises:
            InputError: a value is wrong, or names none or several of the files.
            DataError: the Hub has no such data set.
        """
        choices = ReadChoices(
            has_header=has_header,
            fixes=tuple(self.fixes or ()),
            pairs_from_ranking=self.pairs_from_ranking,
            labelled=self._labelled(configs),
            prompt_from_common_prefix=self.prompt_from_common_prefix,
        )
        return file_set(
            files,
            choices,
            shares=self.shares,
            caps=self.caps,
            encodings=self.encodings,
            sample_seed=self.sample_seed,
            locate=locator(files, hub_options or self.hub_options(), quiet=quiet),
        )

    def recipe_file_set(
        self, files: Sequence[str] | None, preset: str | None, config: TrainConfig, *, quiet: bool
    ) -> FileSet:
        """Return the files with their mapping, or without files the data that the preset names."""
        hub_options = self.hub_options()
        if not files:
            named, hub_options = recipe_data(preset, config, hub_options)
            files = [named]
        data = self.file_set(files, quiet=quiet, hub_options=hub_options, configs=[config])
        return with_mapping(data, self.columns)

    def _labelled(self, configs: Sequence[TrainConfig]) -> Labelled | None:
        if not self.labelled and configs and all(method_of(one).takes_single for one in configs):
            return "single"
        return self.labelled


DEFAULTS = DataOptions()


def with_data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the fields of `DataOptions` in place of its argument `options`."""
    signature = inspect.signature(command, eval_str=True)
    hints = get_type_hints(DataOptions, include_extras=True)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name != "options":
            parameters.append(parameter)
            continue
        for field in fields(DataOptions):
            one = parameter.replace(name=field.name, default=field.default)
            parameters.append(one.replace(annotation=hints[field.name]))

    @wraps(command)
    def run(**values: object) -> None:
        names = {field.name for field in fields(DataOptions)} & values.keys()
        own = {name: values.pop(name) for name in names}
        command(**values, options=DataOptions(**own))  # type: ignore[arg-type]

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


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
