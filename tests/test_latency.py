"""Latency models, and how their files are read or refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from sims.latency import Constant, Euclid, Matrix
from tests.evaluation import DATA

NODES = """<nodelist dimensions="2" rootnodes="1">
\t<node isroot="1">
\t\t<coord> 1000 </coord>
\t\t<coord> 1000 </coord>
\t</node>

\t<node isroot="0" ip="c050001">
\t\t<coord> -3.0 </coord>
\t\t<coord> 0.5 </coord>
\t</node>
\t<node isroot="0" ip="51060001">
\t\t<coord> 0 </coord>
\t\t<coord> 4.5 </coord>
\t</node>
</nodelist>
"""


def written(directory: Path, text: str | bytes) -> str:
    path = directory / "latency"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_constant_is_half_its_round_trip() -> None:
    assert Constant(rtt_ms=50).one_way_s(3, 77) == 0.025


def test_a_matrix_is_read_plain_or_gzipped(tmp_path: Path) -> None:
    text = "0\t10 20\n\n 10 0.4 30 \r\n20 30.5 1e1\n"
    for content in (text.encode(), gzip.compress(text.encode())):
        matrix = Matrix.load(written(tmp_path, content))
        assert len(matrix) == 3
        assert matrix.one_way_s(0, 1) == 0.005
        assert matrix.one_way_s(2, 1) == 0.01525


def test_hosts_beyond_the_matrix_share_its_rows_a_millisecond_apart() -> None:
    matrix = Matrix([[0, 10], [10, 0]])
    assert matrix.one_way_s(0, 3) == matrix.one_way_s(0, 1) == 0.005
    assert matrix.one_way_s(1, 3) == matrix.one_way_s(3, 5) == 0.0005


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "0 rows of 0 columns"),
        ("0 1\n1 0\n2 2\n", "3 rows of 2 columns"),
        ("0 1\n1\n", "line 2: 1 columns"),
        ("0 1\n1 x\n", "line 2: 'x' is not a number"),
        ("0 1\n\n1 nan\n", "line 3: 'nan' is not a finite number"),
        ("0 inf\n1 0\n", "line 1: 'inf' is not a finite"),
        ("0 1\n-1 0\n", "line 2: a round-trip time is negative"),
        (b"\xff\xfe\x00", "not a text file"),
        (gzip.compress(b"0 1\n1 0\n" * 100, mtime=0)[:-12], "damaged gzip"),
        (b"\x1f\x8bnonsense", "damaged gzip"),
    ],
    ids=range(10),
)
def test_a_matrix_that_is_none_is_refused_by_name_and_line(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=complaint) as refusal:
        Matrix.load(path)
    assert path in str(refusal.value)


def test_a_file_that_is_not_there_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Matrix.load(str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        Euclid.load(str(tmp_path / "missing"))


@pytest.mark.parametrize("rows", [[], [[0.0, 1.0]], [[0.0], [1.0]]])
def test_a_matrix_must_be_square(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="as many columns"):
        Matrix(rows)


def test_points_are_as_far_apart_as_they_look_and_root_servers_are_left_out(tmp_path: Path) -> None:
    for content in (NODES.encode(), gzip.compress(NODES.encode())):
        euclid = Euclid.load(written(tmp_path, content))
        assert len(euclid) == 2
        assert euclid.one_way_s(0, 1) == euclid.one_way_s(1, 0) == 0.005
        assert euclid.one_way_s(0, 2) == 0.0005


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("-3.0", "west", "line 8: 'west' is not a number"),
        ("-3.0", "inf", "line 8: 'inf' is not a finite"),
        ("\t\t<coord> 0.5 </coord>\n", "", "line 9: a node has 1 coordinates"),
        ("\t</node>\n\t<node", "\t<node", "line 10: the node of line 7 is not closed"),
        ("\t</node>\n</nodelist>", "</nodelist>", "line 11: this node is not closed"),
        ("<nodelist ", "<coord> 1 </coord>\n<nodelist ", "line 1: a coordinate outside any node"),
        ("</nodelist>", "garbage", "line 15: 'garbage' is not part"),
        ('isroot="0"', 'isroot="1"', "no node with coordinates"),
        (NODES, "", "no node with coordinates"),
    ],
    ids=range(9),
)
def test_a_node_list_that_is_none_is_refused_by_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in NODES
    with pytest.raises(ValueError, match=complaint):
        Euclid.load(written(tmp_path, NODES.replace(old, new)))


def test_no_points_are_no_plane() -> None:
    with pytest.raises(ValueError, match="no coordinates"):
        Euclid([])


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no evaluation data at {DATA} (set P2PVPN_DATA)")
def test_the_published_data_is_read_whole() -> None:
    matrix = Matrix.load(str(DATA / "planetlab490" / "PlanetLabData_1.gz"))
    assert len(matrix) == 490
    rtts_ms = sorted(2000 * matrix.one_way_s(a, b) for a in range(490) for b in range(a))
    assert rtts_ms[len(rtts_ms) // 2] == pytest.approx(135.0, abs=0.1)
    assert rtts_ms[len(rtts_ms) * 9 // 10] == pytest.approx(290.7, abs=0.1)
    euclid = Euclid.load(str(DATA / "coordinates" / "nodes_2d_15000.xml.gz"))
    assert len(euclid) == 15_000 - 8
    delays_ms = sorted(1000 * euclid.one_way_s(7 * k, 13 * k + 5) for k in range(20_000))
    assert delays_ms[10_000] == pytest.approx(70, abs=3)
