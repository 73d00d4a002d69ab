"""Proves: a sweep trains every cell once, goes on after any end, and tells what failed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit

from d2v.commands.ablate_local import LocalStarter, share_of, start_process
from d2v.commands.ablate_run import Runner, no_other_children
from d2v.commands.ablate_slurm import SlurmStarter, run_in_job
from d2v.commands.ablate_state import Job, jobs_of
from d2v.config import load_recipe
from d2v.engine.run_directory import opened
from d2v.engine.signals import StopRequest
from d2v.errors import D2VError
from d2v.recipe import Recipe
from tests.ablate_case import (
    ABLATE,
    ONE_AXIS,
    Warm,
    desk_fixture,
    scores,
    set_up,
    swept,
    wait_until,
)
from tests.hostile_case import d2v, left, refused, worked
from tests.process_case import last_step

__all__ = ["desk_fixture"]

SHORT = (ONE_AXIS, "ablate.seeds=[0]")
TOP_1 = ABLATE / "cells/top_k-1-b21ba1/seed0"


@pytest.fixture(name="finished_once", scope="module")
def finished_once_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk on which a short sweep is done."""
    desk = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        set_up(desk, patch)
        worked(d2v("ablate", "my.yaml", *SHORT, "-q"))
    return desk


@pytest.fixture(name="finished")
def finished_fixture(finished_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; the data lie where they were prepared."""
    desk = tmp_path / "desk"
    shutil.copytree(finished_once, desk)
    set_up(desk, monkeypatch)
    return desk


def test_sweep__leaves_everything_and_goes_on_where_it_may(desk: Path) -> None:
    plan = worked(d2v("ablate", "my.yaml", "--dry-run"), "0/2", "time unknown").output
    assert "3 cells with seeds 0, 1: 6 trainings, 0 of them done" in plan
    assert left(Path("runs")) == []
    worked(d2v("ablate", "my.yaml", *SHORT, "--jobs", "2"), "top_k-1-b21ba1 seed 0 is done")
    rows = scores()
    assert [row[-2] for row in rows] == ["status", "done", "done"]
    found = json.loads((ABLATE / "result.json").read_text())
    assert found["cells"][0]["mean"] is not None
    assert found["untrained"]["mean"] is not None
    assert (ABLATE / "plots/objective.top_k.png").stat().st_size > 5000
    assert "Shown: " in (ABLATE / "summary.md").read_text()
    # Each is an ordinary run of its own recipe, on the shared data.
    assert len(list(Path("runs").rglob("train-*.tar"))) == 1
    alone = d2v("run", TOP_1 / "config.yaml", "--stages", "pretrain,probe")
    worked(alone, "already finished")
    kept = load_recipe(str(TOP_1 / "config.yaml"), [], Recipe).settings
    assert (kept.objective.top_k, kept.seed, kept.ablate) == (1, 0, None)
    untrained = [
        "same encoder, untrained" in json.loads(path.read_text())["scores"]
        for path in sorted(ABLATE.glob("cells/*/seed0/probe/result.json"))
    ]
    assert untrained == [True, False]  # the base alone
    worked(d2v("ablate", "my.yaml", *SHORT), "already finished")
    # Once it came to its end, more may be compared; what it is compared with may not change.
    refused(d2v("ablate", "my.yaml", *SHORT, "objective.beta=1"), "objective.beta 2.0", "--fresh")
    before = {path: path.stat().st_mtime_ns for path in ABLATE.rglob("*.safetensors")}
    more = worked(d2v("ablate", "my.yaml", ONE_AXIS, "ablate.seeds=[0,1]"), "base seed 1")
    assert "seed 0 begins" not in more.output
    after = {path: path.stat().st_mtime_ns for path in ABLATE.rglob("*.safetensors")}
    assert before.items() <= after.items()
    assert scores()[1] == rows[1]


def test_recipe_edited_in_the_middle__is_refused(finished: Path) -> None:
    (ABLATE / "result.json").unlink()  # as if it were under way
    for edit in (
        "ablate.axes.objective.top_k=[1]",
        "ablate.seeds=[0,1]",
        "modality.mask.ratio=0.3",
    ):
        refused(d2v("ablate", "my.yaml", *SHORT, edit), edit.split(".")[1].split("=")[0], "--fresh")
    worked(d2v("ablate", "my.yaml", *SHORT, "pretrain.log_every=1"), "already finished")


def test_sweep_of_an_older_d2v__goes_on_where_new_settings_have_their_defaults(
    finished: Path,
) -> None:
    (ABLATE / "result.json").unlink()
    path = ABLATE / "started.json"
    started = json.loads(path.read_text())
    for key in ("ablate.mode", "modality.frontend.patch_init", "encoder.init_std"):
        del started["settings"][key]
    path.write_text(json.dumps(started))
    worked(d2v("ablate", "my.yaml", *SHORT), "already finished")
    (ABLATE / "result.json").unlink()
    refused(d2v("ablate", "my.yaml", *SHORT, "ablate.mode=grid"),
            "ablate.mode 'one_at_a_time', now it is 'grid'")  # fmt: skip


def test_collapse_is_a_result_and_failure_is_none__and_the_sweep_goes_on(finished: Path) -> None:
    rate = "ablate.axes.pretrain.optimizer.learning_rate=[1.0e+30]"
    batch = "ablate.axes.pretrain.batch_size=[999]"
    one = worked(d2v("ablate", "my.yaml", *SHORT, rate), "1 collapsed", "in 1 of 1 seeds")
    assert one.output.count(" begins;") == 1
    result = d2v("ablate", "my.yaml", *SHORT, rate, batch)
    refused(result, "1 of 4 trainings failed (batch_size-999", "log.txt", code=1)
    rows = {row[0].partition("-")[0]: row for row in scores()[1:]}
    assert [rows[name][-2] for name in ("base", "top_k", "learning_rate", "batch_size")] == [
        "done", "done", "collapsed", "failed",
    ]  # fmt: skip
    assert "999" in rows["batch_size"][-1]
    assert "failed: batch_size-999" in result.stdout
    assert json.loads((ABLATE / "result.json").read_text())["report"]["rows"]
    again = d2v("ablate", "my.yaml", *SHORT, rate, batch)  # only what failed is tried again
    assert (again.exit_code, again.stdout.count(" begins;")) == (1, 1)


def test_sweep_in_use__is_refused(desk: Path) -> None:
    with opened(ABLATE, fresh=False):
        refused(d2v("ablate", "my.yaml"), "Another process is using")


def test_prepared_data__is_made_again_only_for_cells_that_change_it(desk: Path) -> None:
    worked(d2v("ablate", "my.yaml", "~ablate.axes", "+ablate.axes={prepare.val_fraction: [0.4]}",
               "ablate.seeds=[0]", "-q"))  # fmt: skip
    tars = sorted(path.parts[2] for path in Path("runs").rglob("train-*.tar"))
    assert tars == ["ablate", "prepare"]
    configs = [path.read_text() for path in ABLATE.glob("cells/*/seed0/config.yaml")]
    assert sum("ablate/prepared/val_fraction-0.4" in text for text in configs) == 1


def test_finetuning__can_be_the_score(desk: Path) -> None:
    with Path("my.yaml").open("a") as file:
        file.write("finetune: {task: {name: classify}, steps: 4, batch_size: 8, log_every: 2,\n"
                   "  checkpoint_every: 2, score_every: 2 steps}\n")  # fmt: skip
    worked(d2v("ablate", "my.yaml", *SHORT, "ablate.score=finetune.accuracy"))
    assert scores()[0][3] == "finetune.accuracy"
    assert all(0 <= float(row[3]) <= 1 for row in scores()[1:])
    assert not (TOP_1 / "probe").exists()


# Stopping


def test_stop__lets_trainings_write_a_checkpoint(desk: Path) -> None:
    sweep = swept(*SHORT, "pretrain.steps=100000", "pretrain.log_every=1")
    worked(d2v("prepare", "my.yaml"))
    jobs = _jobs(desk, "pretrain.steps=100000", "pretrain.log_every=1")
    stop = StopRequest()
    begun = time.monotonic()

    def tick(running: object, changed: bool) -> None:
        assert time.monotonic() < begun + 60
        if all(last_step(job.folder / "pretrain") > 1 for job in jobs):
            stop(signal.SIGTERM, None)

    starter = LocalStarter(sweep.stages, 2, desk / "lock")
    Runner(jobs, starter, slots=2, stop=stop, tick=tick, pause_seconds=0.02).run()
    for job in jobs:
        outcome = job.outcome(sweep.score)
        assert (outcome.status, outcome.ended) == ("stopped", False)
        assert "A checkpoint is written" in outcome.reason
        assert outcome.loss is not None


def _jobs(desk: Path, *overrides: str) -> list[Job]:
    loaded = load_recipe("my.yaml", [*SHORT, *overrides], Recipe)
    shards = desk / "runs/my/prepare/shards/common"
    sweep = swept(*SHORT, *overrides)
    return jobs_of(sweep, loaded, desk / "runs",
                   {cell.id: {"common": shards} for cell in sweep.cells})  # fmt: skip


def test_killed_sweep__ends_with_the_scores_of_an_undisturbed_one(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With processes as users have them: only these show that none outlives the sweep."""
    more = (*SHORT, "pretrain.steps=300", "pretrain.log_every=5", "pretrain.checkpoint_every=20",
            "pretrain.score_every=null")  # fmt: skip
    line = [sys.executable, "-m", "d2v", "ablate", "my.yaml", *more, "--jobs", "2"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    with (
        (desk / "log").open("w") as log,
        subprocess.Popen(line, env=environment, stdout=log) as one,
    ):
        wait_until(lambda: last_step(TOP_1 / "pretrain") >= 25 or one.poll() is not None)
        one.kill()
    with no_other_children(ABLATE, lambda text: None):  # they end by themselves
        assert last_step(TOP_1 / "pretrain") < 300
    worked(d2v("ablate", "my.yaml", *more, "-q"))
    killed = scores()
    worked(d2v("ablate", "my.yaml", *more, "-q", "--fresh"))
    assert scores() == killed


# Processes


def test_children__hold_a_lock_while_they_live(desk: Path) -> None:
    lock, told = desk / ".ablate.children.lock", list[str]()
    lock.touch()
    code = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); "
    code += "print('held', flush=True); time.sleep(0.5)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with no_other_children(desk / "ablate", told.append):
            assert child.wait(timeout=5) == 0
    assert told == ["Waiting for trainings of an earlier start to write their checkpoints ..."]


def test_start_process__writes_a_log_and_locks(desk: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = start_process(["run", "missing.yaml"], environment, desk / "log", desk / "lock")
    assert process.wait() == 2
    assert "There is no recipe missing.yaml" in (desk / "log").read_text()


def test_share__divides_cores_and_devices() -> None:
    cores = len(os.sched_getaffinity(0))
    assert share_of(0, 1, {}, ["0", "1"]) == {}
    shares = [share_of(slot, 2, {}, ["0", "1", "2"]) for slot in range(2)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0,2", "1"]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {str(max(1, cores // 2))}
    assert "OMP_NUM_THREADS" not in share_of(1, 2, {"OMP_NUM_THREADS": "3"}, [])
    assert share_of(2, 3, {}, ["5", "6"])["CUDA_VISIBLE_DEVICES"] == "5"


def test_no_child__outlives_an_error_of_the_runner(desk: Path) -> None:
    worked(d2v("prepare", "my.yaml"))
    jobs = _jobs(desk, "pretrain.steps=100000")
    started: list[Warm] = []

    def start(job: Job, slot: int) -> Warm:
        if started:
            raise D2VError("the second does not start")
        started.append(Warm(["run", str(job.config), "--out", str(job.out)], {}, job.log))
        return started[0]

    runner = Runner(jobs, start, slots=2, stop=StopRequest(), tick=lambda r, c: None)  # type: ignore[arg-type]  # stop() is never called
    with pytest.raises(D2VError, match="second"):
        runner.run()
    assert started[0].wait() == -signal.SIGKILL


# submitit


@pytest.mark.filterwarnings(  # submitit leaves its log files to the garbage collector
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_debug_executor__runs_a_training_like_a_process(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked(d2v("prepare", "my.yaml"))
    jobs, sweep = _jobs(desk)[:1], swept(*SHORT)

    def in_job(line: list[str], **given: object) -> subprocess.CompletedProcess[bytes]:
        code = Warm(line[3:], {}, jobs[0].log).wait()
        assert code is not None
        return subprocess.CompletedProcess(line, code)

    monkeypatch.setattr(subprocess, "run", in_job)
    starter = SlurmStarter(submitit.DebugExecutor(desk / "slurm"), sweep.stages, gpus=0)
    Runner(jobs, starter, slots=1, stop=StopRequest(), tick=lambda r, c: None).run()
    assert jobs[0].outcome(sweep.score).status == "done"


def test_run_in_job__gives_the_exit_code_and_keeps_the_log(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    assert run_in_job(["run", "missing.yaml"], "log") == 2
    assert "There is no recipe missing.yaml" in Path("log").read_text()


def test_dry_run__measures_some_steps_where_the_data_is_prepared(desk: Path) -> None:
    worked(d2v("prepare", "my.yaml"))
    before = left(Path("runs"))
    plan = worked(d2v("ablate", "my.yaml", "--dry-run", "pretrain.steps=1000"), "of pre-training")
    assert "6 times 1,000 steps of" in plan.output
    assert left(Path("runs")) == before
