"""Shards of a run, and the run that they make."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.scenarios import poisson, scenario, service, traffic
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.errors import ArgumentError
from kbe_nat.lab.tables import TIMED

VALUES = scenario(
    services=[service(4)],
    traffic=[poisson(100)],
    strategies=["rr", "mh", "random"],
    repeats=3,
    sweep=[{"field": "services[0].backends[0].count", "values": [2, 4]}],
)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Three shards, each in its folder."""
    folders = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, 1):
        result = lab.run(VALUES, folder, shard=(number, 3))
        assert result.tables == []
        assert len(list((folder / "cells").glob("*.json"))) == 6
    return folders


def test_merged_shards_are_the_run_in_one_piece(tmp_path: Path, parts: list[Path]) -> None:
    whole = lab.run(VALUES, tmp_path / "whole")
    merged = lab.merge(tmp_path / "merged", parts)
    assert merged.tables == whole.tables
    for name in (*merged.tables, "dictionary"):
        first, second = merged.folder.table(name), whole.folder.table(name)
        if name not in TIMED:
            assert first.read_bytes() == second.read_bytes()
        assert len(first.read_text().splitlines()) == len(second.read_text().splitlines())
    cells = {path.name for path in (tmp_path / "whole/cells").iterdir()}
    assert {path.name for path in (tmp_path / "merged/cells").iterdir()} == cells
    for path in (tmp_path / "whole/cells").glob("*.csv"):
        assert (tmp_path / "merged/cells" / path.name).read_bytes() == path.read_bytes()
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in NAMES]
    for manifest in manifests:
        for field in ("machine", "started", "shards"):
            manifest.pop(field)
    assert manifests[0] == manifests[1]
    assert [row["shard"] for row in merged.manifest.shards] == ["1/3", "2/3", "3/3"]
    assert all(row["machine"]["kernel"] for row in merged.manifest.shards)
    assert lab.differences(merged, lab.reproduce(tmp_path / "merged", tmp_path / "again")) == []
    lab.merge(tmp_path / "merged", parts)


NAMES = ("whole", "merged")


def test_a_missing_shard_and_an_interrupted_one_are_named(
    tmp_path: Path, parts: list[Path]
) -> None:
    with pytest.raises(lab.LabError) as error:
        lab.merge(tmp_path / "merged", [parts[0], parts[2]])
    field = "services[0].backends[0].count"
    assert f"cells are missing: rr, conntrack, {field} 2, repeat 1 (shard 2/3); " in str(
        error.value
    )
    assert str(error.value).endswith("; and 1 more")
    assert list((tmp_path / "merged").iterdir()) == []
    min((parts[1] / "cells").glob("*.json")).unlink()
    with pytest.raises(lab.LabError, match=rf"\(shard 2/3, interrupted in {parts[1]}\)$"):
        lab.merge(tmp_path / "merged", parts)
    lab.run(VALUES, parts[1], shard=(2, 3))
    assert lab.merge(tmp_path / "merged", parts).tables


def test_shards_of_another_run_are_refused(tmp_path: Path, parts: list[Path]) -> None:
    lab.run(VALUES, tmp_path / "other", seed=9, shard=(2, 3))
    with pytest.raises(lab.LabError, match=r"cannot be merged .* settings differ"):
        lab.merge(tmp_path / "merged", [parts[0], tmp_path / "other", parts[2]])
    manifest = parts[1] / "manifest.json"
    values = json.loads(manifest.read_text())
    values["machine"]["kbe_nat"] = "0.0.1"
    manifest.write_text(json.dumps(values))
    with pytest.raises(lab.LabError, match=r"part-2: was run by kbe-nat 0\.0\.1; this is"):
        lab.merge(tmp_path / "merged", parts)
    with pytest.raises(lab.LabError, match="no run is here"):
        lab.merge(tmp_path / "merged", [tmp_path / "nowhere"])


def test_shards_with_other_traces_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    arrivals = {"kind": "trace", "file": str(trace)}
    values = scenario(traffic=[traffic(arrivals=arrivals)], repeats=2)
    for number, size in ((1, 10), (2, 20)):
        trace.write_text(f"time,client,bytes,lifetime\n0,3,{size},1\n")
        lab.run(values, tmp_path / str(number), shard=(number, 2))
    with pytest.raises(lab.LabError, match="the files of traces differ"):
        lab.merge(tmp_path / "merged", [tmp_path / "1", tmp_path / "2"])
    lab.run(values, tmp_path / "3", shard=(1, 2))
    trace.unlink()
    assert lab.merge(tmp_path / "merged", [tmp_path / "2", tmp_path / "3"]).tables, (
        "no trace needed"
    )


def test_shards_may_overlap_where_they_agree(tmp_path: Path, parts: list[Path]) -> None:
    lab.run(VALUES, tmp_path / "whole")
    merged = lab.merge(tmp_path / "merged", [*parts, tmp_path / "whole"])
    assert lab.differences(merged, lab.Result(tmp_path / "whole")) == []
    table = min((parts[0] / "cells").glob("*-seconds.csv"))
    table.write_text(table.read_text().replace("1", "2", 1))
    difference = r"part-1 and .*/whole have other results of (rr|mh|random), connt"
    with pytest.raises(lab.LabError, match=difference):
        lab.merge(tmp_path / "other", [*parts, tmp_path / "whole"])


def test_the_folder_of_a_shard_says_what_it_is(tmp_path: Path, parts: list[Path]) -> None:
    message = "part-1: holds shard 1/3 alone: kbe-nat lab merge puts shards together"
    with pytest.raises(lab.LabError, match=message):
        lab.report([lab.Result(parts[0])])
    with pytest.raises(lab.LabError, match=message):
        list(lab.Result(parts[0]).rows("balance"))
    with pytest.raises(lab.LabError, match=message):
        lab.reproduce(parts[0], tmp_path / "again")
    with pytest.raises(lab.LabError, match="was begun as shard 1/3, and this is the whole run"):
        lab.run(VALUES, parts[0])
    with pytest.raises(lab.LabError, match="was begun as shard 1/3, and this is shard 2/3"):
        lab.run(VALUES, parts[0], shard=(2, 3))
    with pytest.raises(lab.LabError, match="holds a shard: merge into another folder"):
        lab.merge(parts[0], parts)
    with pytest.raises(ArgumentError, match="one at least"):
        lab.merge(parts[0], [])


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "x/y", "-1/3", "1/2/3", "1.0/3"])
def test_shards_that_cannot_be(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "run", "two-endpoints", "-d", str(tmp_path / "x"), f"--shard={text}"]) == 2
    assert "i/n is expected, such as 2/4" in capsys.readouterr().err


def test_shards_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file: Any = tmp_path / "x.yaml"
    file.write_text(json.dumps(scenario(strategies=["rr", "mh"])))
    folders = [str(tmp_path / name) for name in ("a", "b")]
    for number, folder in enumerate(folders, 1):
        assert main(["lab", "run", str(file), "-d", folder, "--shard", f"{number}/2"]) == 0
        assert f"shard {number}/2 is finished" in capsys.readouterr().out
    assert main(["lab", "merge", "-d", str(tmp_path / "whole"), *folders]) == 0
    assert "Balance (conntrack, web)" in capsys.readouterr().out
    assert main(["lab", "merge", "-d", str(tmp_path / "half"), folders[1]]) == 2
    assert "cells are missing: rr, conntrack, repeat 0 (shard 1/2)" in capsys.readouterr().err
