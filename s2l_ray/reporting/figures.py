"""The figures of a report as Plotly figures, drawn from its records alone.

Colours work on a light and on a dark background; the page sets those of texts and grids.
"""

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from s2l_ray.reporting.records import Lengths, Proxy, Report, SourceCounts

POOL, SUBSET, ACCENT = "#8795a8", "#e8890c", "#2f7fd1"
SOURCES_SHOWN = 40
BAR_HEIGHT = 34


def figures(report: Report) -> dict[str, go.Figure]:
    """The figures by the name of their position in the page."""
    found = {"sources": _sources(report.sources)}
    if report.lengths is not None:
        found["lengths"] = _lengths(report.lengths)
    if report.proxy is not None:
        found["proxy"] = _proxy(report.proxy)
    return found


def _sources(sources: Sequence[SourceCounts]) -> go.Figure:
    """Shares of the largest sources in the pool and in the subset."""
    shown = sources[:SOURCES_SHOWN]
    names = [html.escape(one.source) for one in shown]
    totals = sum(one.pool for one in sources), sum(one.selected for one in sources)
    figure = go.Figure(layout=_layout(height=90 + BAR_HEIGHT * len(shown), barmode="group"))
    pool = [one.pool / max(1, totals[0]) for one in shown]
    figure.add_bar(x=pool, y=names, orientation="h", name="pool", marker_color=POOL)
    if totals[1]:
        selected = [one.selected / totals[1] for one in shown]
        figure.add_bar(x=selected, y=names, orientation="h", name="subset", marker_color=SUBSET)
    figure.update_xaxes(title="share of rows", tickformat=".0%")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def _lengths(lengths: Lengths) -> go.Figure:
    """Share of rows by their number of target tokens."""
    middles = [(low + high) / 2 for low, high in zip(lengths.edges, lengths.edges[1:], strict=False)]
    width = lengths.edges[1] - lengths.edges[0]
    figure = go.Figure(layout=_layout(barmode="overlay", bargap=0))
    for name, counts, color in (("pool", lengths.pool, POOL), ("subset", lengths.selected, SUBSET)):
        if total := sum(counts):
            shares = [count / total for count in counts]
            figure.add_bar(x=middles, y=shares, width=width, name=name, marker_color=color, opacity=0.65)
    figure.update_xaxes(title="target tokens of a row")
    figure.update_yaxes(title="share of rows", tickformat=".0%")
    return figure


def _proxy(proxy: Proxy) -> go.Figure:
    """Losses and the learning rate by optimizer step."""
    figure = go.Figure(layout=_layout())
    figure.add_scatter(x=proxy.steps, y=proxy.training_loss, name="training loss", line={"color": POOL, "width": 1})
    if proxy.held_out_steps:
        held_out = {"name": "held-out loss", "mode": "lines+markers", "line": {"color": SUBSET}}
        figure.add_scatter(x=proxy.held_out_steps, y=proxy.held_out_loss, **held_out)
    rate = {"name": "learning rate", "yaxis": "y2", "line": {"color": ACCENT, "width": 1, "dash": "dot"}}
    figure.add_scatter(x=proxy.steps, y=proxy.learning_rate, **rate)
    figure.update_layout(yaxis2={"overlaying": "y", "side": "right", "showgrid": False, "exponentformat": "e"})
    figure.update_xaxes(title="optimizer step")
    figure.update_yaxes(title="loss of a target token (nats)", selector={"anchor": "x"})
    return figure


def _layout(height: int = 340, **changes: object) -> go.Layout:
    """The common layout, without a background."""
    transparent = "rgba(0,0,0,0)"
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}
    margin = {"l": 8, "r": 8, "t": 36, "b": 8}
    return go.Layout(
        height=height, margin=margin, legend=legend, paper_bgcolor=transparent, plot_bgcolor=transparent, **changes
    )
