"""The figures of a report as Plotly figures, drawn from its records alone.

Colours work on a light and on a dark background; the page sets those of texts and grids.
"""

import html
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from s2l_ray.reporting.records.comparisons import ArmRow, Experiment, MethodOverlap
from s2l_ray.reporting.records.pool import Lengths, Proxy, SourceCounts
from s2l_ray.reporting.records.report import Report
from s2l_ray.reporting.records.trajectories import Cluster, Maps

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
    if report.clusters is not None and report.clusters.steps:
        steps = report.clusters.steps
        found |= {f"cluster-{one.cluster}": _cluster(one, steps) for one in report.clusters.shown}
    if report.maps is not None:
        found |= {"data-map": _data_map(report.maps), "plane": _plane(report.maps)}
    if report.methods is not None and report.methods.overlaps:
        found["methods"] = _methods(report.methods.overlaps)
    if report.experiment is not None and report.experiment.scores:
        found["differences"] = _differences(report.experiment)
        if (budget := _budget(report.experiment)) is not None:
            found["budget"] = budget
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
    middles = [(low + high) / 2 for low, high in pairwise(lengths.edges)]
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
    figure.update_layout(
        yaxis={"title": "loss of a target token (nats)"},
        yaxis2={"overlaying": "y", "side": "right", "tickmode": "auto", "showgrid": False, "rangemode": "tozero"},
    )
    figure.update_xaxes(title="optimizer step")
    return figure


def _cluster(cluster: Cluster, steps: Sequence[int]) -> go.Figure:
    """The median trajectory of a cluster, with a band of quantiles."""
    figure = go.Figure(layout=_layout(height=240))
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=steps, y=cluster.low, showlegend=False, **edge)
    band = {"fill": "tonexty", "fillcolor": "rgba(47,127,209,0.22)", "name": "10 % to 90 % of the rows"}
    figure.add_scatter(x=steps, y=cluster.high, **edge, **band)
    figure.add_scatter(x=steps, y=cluster.median, name="median loss", mode="lines+markers", line_color=ACCENT)
    figure.update_xaxes(title="optimizer step")
    figure.update_yaxes(rangemode="tozero")
    return figure


def _data_map(maps: Maps) -> go.Figure:
    """Mean against spread over the checkpoints."""
    name = maps.quantity.replace("_", " ")
    figure = _points(maps, maps.spread, maps.mean)
    figure.update_xaxes(title=f"standard deviation of the {name}")
    figure.update_yaxes(title=f"average of the {name}")
    return figure


def _plane(maps: Maps) -> go.Figure:
    """The two largest principal components of the trajectories."""
    figure = _points(maps, maps.x, maps.y)
    figure.update_xaxes(title="first principal component")
    figure.update_yaxes(title="second principal component")
    return figure


def _points(maps: Maps, x: Sequence[float], y: Sequence[float]) -> go.Figure:
    """A point a row, those of the subset above those of the pool."""
    figure = go.Figure(layout=_layout(height=420, hovermode="closest"))
    for name, selected, color, size in (("not selected", False, POOL, 4), ("selected", True, SUBSET, 5)):
        at = [index for index, one in enumerate(maps.selected) if one is selected]
        figure.add_scatter(
            x=np.asarray([x[index] for index in at], np.float32),
            y=np.asarray([y[index] for index in at], np.float32),
            text=[maps.example_id[index] for index in at],
            name=name,
            mode="markers",
            marker={"color": color, "size": size, "opacity": 0.7},
        )
    return figure


def _methods(overlaps: Sequence[MethodOverlap]) -> go.Figure:
    """Overlaps with other methods, and what chance gives."""
    names = [one.method for one in overlaps]
    figure = go.Figure(layout=_layout(height=90 + 24 * len(names)))
    figure.add_bar(x=[one.overlap for one in overlaps], y=names, orientation="h", name="overlap", marker_color=ACCENT)
    chance = {"mode": "markers", "marker": {"symbol": "line-ns-open", "size": 14, "color": SUBSET}}
    figure.add_scatter(x=[one.by_chance for one in overlaps], y=names, name="by chance", **chance)
    figure.update_xaxes(title="shared rows", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def _differences(experiment: Experiment) -> go.Figure:
    """Difference of each arm to the reference arm on the main score, with its interval."""
    name = experiment.scores[0]
    arms = [one for one in experiment.arms if name in one.scores and one.scores[name].difference is not None]
    scores = [one.scores[name] for one in arms]
    means = [one.difference or 0.0 for one in scores]
    half = [one.high - mean if one.high is not None else None for one, mean in zip(scores, means, strict=True)]
    figure = go.Figure(layout=_layout(height=120 + BAR_HEIGHT * len(arms)))
    error = {"array": half, "thickness": 2, "width": 6}
    marker = {"size": 9, "color": ACCENT}
    names = [html.escape(one.arm) for one in arms]
    figure.add_scatter(x=means, y=names, error_x=error, mode="markers", marker=marker, name=name)
    figure.add_vline(x=0, line={"color": SUBSET, "dash": "dot"})
    better = "lower is better" if name in experiment.losses else "higher is better"
    figure.update_xaxes(title=f"{name}: difference to {html.escape(experiment.reference or '')} ({better})")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def _budget(experiment: Experiment) -> go.Figure | None:
    """The main score by the number of selected rows; None unless a method has arms of several budgets."""
    name = experiment.scores[0]
    by_method: dict[str, list[ArmRow]] = {}
    for arm in experiment.arms:
        if arm.rows is not None and name in arm.scores:
            by_method.setdefault(arm.method, []).append(arm)
    if all(len({arm.rows for arm in arms}) < 2 for arms in by_method.values()):
        return None
    figure = go.Figure(layout=_layout())
    for method, arms in by_method.items():
        ordered = sorted(arms, key=lambda arm: arm.rows or 0)
        figure.add_scatter(
            x=[arm.rows for arm in ordered],
            y=[arm.scores[name].mean for arm in ordered],
            error_y={"array": [arm.scores[name].error for arm in ordered]},
            text=[html.escape(arm.arm) for arm in ordered],
            name=html.escape(method),
            mode="lines+markers",
        )
    figure.update_xaxes(title="selected rows")
    figure.update_yaxes(title=name)
    return figure


def _layout(height: int = 340, **changes: object) -> go.Layout:
    """The common layout, without a background and without the defaults of Plotly, which take 7 kB a figure."""
    transparent = "rgba(0,0,0,0)"
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}
    axis = {"automargin": True, "title": {"standoff": 12}}
    margin = {"l": 8, "r": 8, "t": 36, "b": 8}
    return go.Layout(
        height=height,
        margin=margin,
        legend=legend,
        paper_bgcolor=transparent,
        plot_bgcolor=transparent,
        template=go.layout.Template(layout={"xaxis": axis, "yaxis": axis}),
        **changes,
    )
