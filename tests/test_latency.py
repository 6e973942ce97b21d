"""Latency models, and how their files are read or refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from random import Random

import pytest

from sims.latency import Constant, Euclid, Matrix, Missing, Synthetic, load, load_king
from tests.evaluation import DATA, evaluation_file

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
        ("0 1\n\n1 nan\n", "line 3: a round-trip time is missing"),
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


KING = """topology E2EGraph 3
failure_model NullFailureModel

node 1
node 2
node 3
# a comment
1,2 10
1,3 -1
2,3 30
3,2 40
"""


def test_a_king_topology_holds_one_way_delays_both_ways_unless_it_says_otherwise(tmp_path: Path) -> None:
    path = written(tmp_path, KING.replace("-1", "20"))
    king = load_king(path)
    assert len(king) == 3
    assert king.one_way_s(0, 1) == king.one_way_s(1, 0) == 0.010
    assert king.one_way_s(1, 2) == 0.030
    assert king.one_way_s(2, 1) == 0.040
    micro = KING.replace("1,2 10", "1,2 10000").replace("1,3 -1", "1,3 20000").replace("2,3 30", "2,3 30000")
    assert load_king(written(tmp_path, micro)).one_way_s(0, 1) == pytest.approx(0.010), "a median of 15 s: microseconds"
    path = written(tmp_path, KING.replace("-1", "20"))
    assert load_king(path, unit_ms=0.5).one_way_s(0, 1) == 0.005


def test_a_pair_that_was_not_measured_is_refused_or_filled_by_rule(tmp_path: Path) -> None:
    path = written(tmp_path, KING)
    with pytest.raises(ValueError, match="no delay for the pair 1,3; ask for filling"):
        load_king(path)
    filled = load_king(path, missing=Missing.FILL)
    # The row of 1 has round trips of 20 twice, that of 3 has 60 and 80: their medians are 20 and 70.
    assert filled.one_way_s(0, 2) == filled.one_way_s(2, 0) == pytest.approx((20 + 70) / 2 / 2000)
    seattle = written(tmp_path, "0 0.1 nan\n0.1 0 -1\n0.3 -1 0\n")
    with pytest.raises(ValueError, match=r"line 1: .* missing; ask for filling \(missing = 'fill'\)"):
        Matrix.load(seattle, unit_ms=1000)
    matrix = Matrix.load(seattle, unit_ms=1000, missing=Missing.FILL)
    assert matrix.one_way_s(0, 2) == matrix.one_way_s(2, 0) == 0.15, "the opposite direction's value"
    assert matrix.one_way_s(1, 2) == pytest.approx((100 + 300) / 2 / 2000)
    with pytest.raises(ValueError, match="row 2 has no measured value"):
        Matrix.load(written(tmp_path, "0 nan 1\nnan 0 nan\n1 nan 0\n"), missing=Missing.FILL)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("E2EGraph 3", "E2EGraph", "line 1: expected one 'topology"),
        ("E2EGraph 3", "E2EGraph three", "line 1: 'three' is not a whole number"),
        ("E2EGraph 3", "E2EGraph 0", "1 to 20000 nodes, not 0"),
        ("1,2 10", "1,2 fast", "line 8: 'fast' is not a number"),
        ("1,2 10", "1;2 10", "line 8: '1;2 10' is not part"),
        ("1,2 10", "1,4 10", "a node beyond 1 to 3 in pair"),
        ("1,2 10", "1,2 10\n1,2 11", "line 9: the pair 1,2 for the second time"),
        ("node 3", "node 4", "a node beyond 1 to 3"),
        (KING, "node 1\n", "no pair with a delay"),
    ],
    ids=range(9),
)
def test_a_topology_that_is_none_is_refused_by_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = written(tmp_path, KING.replace(old, new))
    with pytest.raises(ValueError, match=complaint) as refusal:
        load_king(path, missing=Missing.FILL)
    assert path in str(refusal.value)


def test_a_file_is_known_by_its_beginning(tmp_path: Path) -> None:
    assert isinstance(load(written(tmp_path, NODES)), Euclid)
    assert load(written(tmp_path, KING), missing=Missing.FILL).one_way_s(1, 2) == 0.030
    assert load(written(tmp_path, "1,2 7\nnode 2\n")).one_way_s(0, 1) == 0.007
    assert load(written(tmp_path, gzip.compress(b"\n0 10\n10 0\n"))).one_way_s(0, 1) == 0.005
    with_commas = load(written(tmp_path, "# a, b, c\n0, 10,\n10,0,4\n30,4,0\n"), missing=Missing.FILL)
    assert (with_commas.one_way_s(0, 1), with_commas.one_way_s(0, 2)) == (0.005, 0.015)
    with pytest.raises(ValueError, match="line 1: a round-trip time is missing"):
        load(written(tmp_path, "0, 10,\n10,0,4\n30,4,0\n"))
    with pytest.raises(ValueError, match="'hello' is not a number"):
        load(written(tmp_path, "hello\n"))


def quantiles_ms(latency: Synthetic | Matrix, places: int) -> list[float]:
    rtts_ms = sorted(2000 * latency.one_way_s(a, b) for a in range(places) for b in range(a))
    return [rtts_ms[int(share * len(rtts_ms))] for share in (0.1, 0.5, 0.9, 0.99)]


def violating(latency: Synthetic | Matrix, places: int, triples: int = 40_000) -> float:
    """The share of triples in which the way over the third is shorter."""
    rng = Random(1)
    way = latency.one_way_s
    drawn = [rng.sample(range(places), 3) for _ in range(triples)]
    return sum(way(a, c) > way(a, b) + way(b, c) for a, b, c in drawn) / triples


@pytest.mark.parametrize("seed", range(3))
def test_the_synthetic_internet_is_distributed_as_its_preface_says(seed: int) -> None:
    synthetic = Synthetic(seed)
    p10, median, p90, p99 = quantiles_ms(synthetic, 490)
    assert 20 < p10 < 32
    assert 95 < median < 160
    assert 270 < p90 < 315
    assert 380 < p99 < 415
    assert violating(synthetic, 490) == pytest.approx(0.059, abs=0.01)


def test_the_synthetic_internet_is_as_planetlab_was_measured() -> None:
    matrix = Matrix.load(str(evaluation_file("planetlab490/PlanetLabData_1.gz")))
    worlds = [quantiles_ms(Synthetic(seed), 490) for seed in range(5)]
    means = [sum(values) / len(worlds) for values in zip(*worlds, strict=True)]
    assert means == pytest.approx(quantiles_ms(matrix, 490), rel=0.25)
    assert violating(Synthetic(0), 490) == pytest.approx(violating(matrix, 490), abs=0.01)


def test_the_synthetic_internet_is_symmetric_and_the_same_everywhere() -> None:
    one, again, other = Synthetic(7), Synthetic(7), Synthetic(8)
    pairs = [(a * 37, a * 91 + 5) for a in range(200)]
    ways = [one.one_way_s(a, b) for a, b in pairs]
    assert ways == [again.one_way_s(b, a) for a, b in reversed(pairs)][::-1]
    assert ways != [other.one_way_s(a, b) for a, b in pairs]
    assert one.one_way_s(4, 5) == one.one_way_s(4, 4) == 0.0001, "one site"
    assert 0 < one.one_way_s(0, 1_000_000_000) < 1
