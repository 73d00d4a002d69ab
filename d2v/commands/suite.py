"""`d2v finetune` of a suite: one recipe after the other, and one table in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2v.architecture import architecture_of
from d2v.commands import finetune, prepare
from d2v.commands import run as stages
from d2v.commands.options import Options
from d2v.commands.stage import stage_folder
from d2v.commands.suite_table import Done, suite_report, suite_scores
from d2v.config import Loaded, as_yaml, load_recipe
from d2v.engine.run_directory import opened, stage_result
from d2v.errors import D2VError, InterruptedRunError, StoppedError, UsageError
from d2v.hardware import resolve_device
from d2v.recipe import Recipe
from d2v.report import Report
from d2v.suite import PartSettings, SuiteSettings

STAGES = ("prepare", "finetune")
_GOES_ON = (StoppedError.exit_code, InterruptedRunError.exit_code)
"""How processes end that were asked to: the suite ends with them."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One part, ready to run; `source` is None where its folder is not there."""

    title: str
    settings: PartSettings
    source: Path | None
    loaded: Loaded[Recipe]


def run(
    loaded: Loaded[Recipe], options: Options, tell: Callable[[Report], None] = lambda report: None
) -> Report:
    """Prepare and fine-tune every part whose folder is there; what is finished is skipped.

    Args:
        loaded: the suite; what its command line sets, beside `suite` and `name`, every part gets.
        options: for every part.
        tell: called with each part's report, and with the table where a part failed.

    Returns:
        The table.

    Raises:
        UsageError: no part can be run, or a setting does not fit one.
        D2VError: a part failed; the others are done.
    """
    suite = loaded.settings.suite
    assert suite is not None
    parts = [_part(loaded, title, part, suite) for title, part in suite.parts.items()]
    if options.dry_run:
        return _plan(loaded, parts, options)
    there = [part for part in parts if part.source is not None]
    if not there:
        raise UsageError(
            f"suite.source is {suite.source or 'not set'}, and none of its parts is there",
            expected=f"a folder with some of {', '.join(suite.parts)} in it",
            remedy="Set suite.source=FOLDER.",
        )
    missing = [part.title for part in parts if part.source is None]
    with opened(stage_folder(loaded, options, "finetune"), fresh=False) as folder:
        config = as_yaml(loaded, with_origins=False)
        folder.start({}, {}, config, resolve_device(loaded.settings))
        done = [_done(part, options, tell) for part in there]
        report = suite_report(loaded.name, done, missing)
        folder.finish({**suite_scores(done, missing), "report": vars(report)})
    if failed := [part for part in done if part.reason]:
        tell(report)
        raise D2VError(
            f"{len(failed)} of {len(done)} parts failed ({', '.join(p.title for p in failed)})",
            remedy="See the reasons above; the same command goes on with what is not finished.",
        )
    return report


def _part(
    loaded: Loaded[Recipe], title: str, settings: PartSettings, suite: SuiteSettings
) -> _Part:
    """Load a part's recipe with what the suite's command line says. Raises UsageError."""
    source = None if suite.source is None else Path(suite.source).expanduser() / title
    if source is not None and not source.is_dir():
        source = None
    own = [text for text in loaded.overrides if _key(text) not in ("suite", "name")]
    name = f"{loaded.name}/{Path(settings.recipe).stem}"
    place = [] if source is None else [f"data.finetune.source={_quoted(str(source))}"]
    adopted = None if loaded.start is None else architecture_of(loaded.start)
    recipe = load_recipe(settings.recipe, [*own, *place, f"name={name}"], Recipe, adopted)
    if recipe.settings.suite is not None or recipe.settings.finetune is None:
        raise UsageError(
            f"suite.parts.{title}.recipe is {settings.recipe}",
            expected="a recipe with a finetune section and no suite of its own",
        )
    return _Part(title=title, settings=settings, source=source, loaded=recipe)


def _quoted(text: str) -> str:
    """As an override takes it, whatever it holds."""
    return '"' + text.replace('"', r"\"") + '"'


def _key(override: str) -> str:
    """The section that a KEY=VALUE or ~KEY is about."""
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def _done(part: _Part, options: Options, tell: Callable[[Report], None]) -> Done:
    """Run a part; a failure becomes its reason."""
    reason = ""
    try:
        report = stages.run(part.loaded, replace(options, stages=STAGES))
        tell(replace(report, headline=f"{part.title}: {report.headline}"))
    except (StoppedError, InterruptedRunError):
        raise
    except (D2VError, OSError) as error:
        reason = str(error)
    except SystemExit as error:  # of several processes, which have told why
        if error.code in _GOES_ON:
            raise
        reason = f"its processes ended with code {error.code}"
    result: dict[str, Any] = {}
    if not reason:
        result = stage_result(stage_folder(part.loaded, options, "finetune")) or {}
    return Done(
        title=part.title, run=part.loaded.name, figures=part.settings.figures,
        result=result, reason=reason,
    )  # fmt: skip


def _plan(loaded: Loaded[Recipe], parts: list[_Part], options: Options) -> Report:
    """What every part would do, from the settings alone."""
    lines = []
    for part in parts:
        lines += [f"== {part.title}: {part.settings.recipe}", ""]
        for stage in (prepare.run, finetune.run):
            plan = stage(part.loaded, options)
            lines += [plan.headline, plan.text, *plan.remarks, ""]
    where = {part.title for part in parts if part.source is None}
    if where and len(where) < len(parts):
        lines.append(f"No folder, and so left out: {', '.join(sorted(where))}.")
    return Report(
        headline=f"Plan of the suite {loaded.name} (nothing is written)", text="\n".join(lines)
    )
