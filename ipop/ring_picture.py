"""A crawl as a picture: an SVG of our own, or a graph for Graphviz. Pure: text in, text out.

Nodes stand on a circle where their ids put them. A line along the circle joins a node and its immediate successor, grey
chords are fingers. A node that its predecessor does not know as successor, or the other way round, is orange; one that
did not answer is red. Names come from others and are escaped.
"""

from __future__ import annotations

from math import cos, pi, sin
from typing import Any, Final
from xml.sax.saxutils import escape

SIZE: Final = 1000.0
RADIUS: Final = 380.0
NAMED: Final = 120  # with more nodes there is no room for names
RING: Final = 1 << 160
_RIGHT, _ODD, _SILENT = "#2a6f97", "#e07a1f", "#c1121f"


def is_drawable(path: str) -> bool:
    """Whether the file's name says in which form to draw."""
    return path.endswith((".svg", ".dot"))


def draw(crawl: dict[str, Any], path: str) -> str:
    """The text of the file `path`, whose name says in which form."""
    return dot(crawl) if path.endswith(".dot") else svg(crawl)


def svg(crawl: dict[str, Any]) -> str:
    """The ring as a drawing."""
    nodes = {node["id"]: node for node in crawl["nodes"]}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE:.0f} {SIZE:.0f}" font-family="sans-serif">',
        f'<rect width="{SIZE:.0f}" height="{SIZE:.0f}" fill="white"/>',
        '<g stroke="#bbbbbb" stroke-width="0.6" fill="none">',
    ]
    for node in nodes.values():
        lines += [_line(node["id"], finger) for finger in node["fingers"] if finger in nodes]
    lines += ["</g>", f'<g stroke="{_RIGHT}" stroke-width="2">']
    for node in nodes.values():
        lines += [_line(node["id"], successor) for successor in node["successors"][:1] if successor in nodes]
    lines.append("</g>")
    size = 5.0 if len(nodes) <= NAMED else 2.5
    for node in nodes.values():
        lines.append(_dot_at(node["id"], size, _RIGHT if agrees(nodes, node) else _ODD, node["name"]))
    silent = [hole["id"] for hole in crawl["missing"] if hole["id"] is not None and hole["id"] not in nodes]
    lines += [_dot_at(node_id, size, _SILENT, f"{node_id[:8]}: no answer") for node_id in dict.fromkeys(silent)]
    if len(nodes) <= NAMED:
        lines += [_name_at(node["id"], node["name"]) for node in nodes.values()]
    caption = f"{len(nodes)} nodes, consistency {crawl['consistency']:.3f}"
    caption += f", {len(set(silent))} silent" if silent else ""
    lines.append(f'<text x="20" y="{SIZE - 20:.0f}" font-size="18" fill="#444444">{escape(caption)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def dot(crawl: dict[str, Any]) -> str:
    """The ring as a graph, for Graphviz's `neato -n` or any of its layouts."""
    nodes = {node["id"]: node for node in crawl["nodes"]}
    lines = ["digraph ring {", "  node [shape=circle];", "  edge [arrowsize=0.5];"]
    for node_id, node in nodes.items():
        x, y = _point(node_id, RADIUS)
        colour = _RIGHT if agrees(nodes, node) else _ODD
        lines.append(f'  "{node_id}" [label={_quoted(node["name"])}, color="{colour}", pos="{x:.1f},{SIZE - y:.1f}"];')
    for hole in crawl["missing"]:
        if hole["id"] is not None and hole["id"] not in nodes:
            lines.append(f'  "{hole["id"]}" [label="{hole["id"][:8]}", color="{_SILENT}"];')
    for node_id, node in nodes.items():
        lines += [f'  "{node_id}" -> "{successor}" [penwidth=2];' for successor in node["successors"][:1]]
        lines += [f'  "{node_id}" -> "{finger}" [color="#bbbbbb"];' for finger in node["fingers"]]
    return "\n".join([*lines, "}", ""])


def agrees(nodes: dict[str, Any], node: dict[str, Any]) -> bool:
    """Whether a node and its immediate neighbours, as far as they were seen, take each other for such."""
    for mine, theirs in (("successors", "predecessors"), ("predecessors", "successors")):
        other = nodes.get(node[mine][0]) if node[mine] else None
        if other is not None and other[theirs][:1] != [node["id"]]:
            return False
    return True


def _point(node_id: str, radius: float) -> tuple[float, float]:
    # In floats, but only after the division: an id has more bits than a float.
    angle = 2.0 * pi * (int(node_id, 16) / RING) - pi / 2.0
    return SIZE / 2.0 + radius * cos(angle), SIZE / 2.0 + radius * sin(angle)


def _line(one: str, other: str) -> str:
    (x1, y1), (x2, y2) = _point(one, RADIUS), _point(other, RADIUS)
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _dot_at(node_id: str, size: float, colour: str, title: str) -> str:
    x, y = _point(node_id, RADIUS)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="{colour}"><title>{escape(title)}</title></circle>'


def _name_at(node_id: str, name: str) -> str:
    x, y = _point(node_id, RADIUS + 14.0)
    degrees = 360.0 * (int(node_id, 16) / RING) - 90.0
    anchor = "start"
    if degrees > 90.0:  # on the left half, so that nothing stands on its head
        degrees, anchor = degrees - 180.0, "end"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}" dominant-baseline="middle"'
        f' transform="rotate({degrees:.1f} {x:.1f} {y:.1f})">{escape(name)}</text>'
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
