"""The report of an evaluation as one page that opens offline."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.evaluation.measurements import Findings
from utils.reports.cost import Cost, cost_facts
from utils.reports.html import (
    Color,
    Html,
    Section,
    bar_html,
    columns_html,
    figures_html,
    legend_html,
    list_html,
    name_html,
    page,
    picture_html,
    row_html,
    table_html,
    text_html,
    together,
)
from utils.reports.tables import (
    NO_BORDERS,
    Table,
    boundary_table,
    class_details,
    class_table,
    interval_sentence,
    object_table,
    percent,
    protocol_scores_table,
    protocol_sentences,
)
from utils.visualization.colors import ERROR_COLORS, PanelRow, panel_cells

_MEAN_COLOR: Color = (110, 116, 128)
_COST_NOTE = (
    "Of the network alone, on windows of noise: images are not read, structure maps not encoded, "
    "and each window is seen once, whatever the test-time augmentation."
)
_PHOTOS = ("image", "structure", "errors")  # no class depends on their exact colours


def report_page(
    *,
    findings: Findings,
    classes: Sequence[str],
    palette: Sequence[Color],
    header: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
    cost: Cost | None = None,
    worst: Sequence[PanelRow] = (),
    spread: Sequence[PanelRow] = (),
) -> str:
    """Compose the page.

    Args:
        findings: of C classes.
        classes: C class names.
        palette: C colours, RGB in 0..255.
        header: what was evaluated and how, in display order.
        pictures: ``(H, W, 3)`` uint8 by title.
        cost: of the network.
        worst: tiles with the lowest mIoU, the worst first.
        spread: tiles spread evenly over the split.
    """
    charts = (picture_html(array, title, title) for title, array in pictures.items())
    sections = [
        Section(title="Classes", body=_classes(findings, classes, palette)),
        Section(title="Protocols", body=_protocols(findings)),
        Section(title="Confusion and confidence", body=columns_html(*charts)),
        Section(title="Borders and objects", body=_details(findings, classes)),
    ]
    if cost is not None:
        facts = together(list_html(cost_facts(cost)), text_html(_COST_NOTE, faint=True))
        sections.append(Section(title="Cost", body=facts))
    for title, rows in (("Worst tiles", worst), ("Tiles spread over the split", spread)):
        if rows:
            sections.append(Section(title=title, body=_panel(rows, classes, palette)))
    facts = list_html({name: str(value) for name, value in header.items()})
    return page(_title(header), sections, together(_headline(findings), facts))


def _title(header: Mapping[str, Any]) -> str:
    known = [str(header[key]) for key in ("checkpoint", "split") if key in header]
    return " on ".join(["Evaluation of " + known[0], *known[1:]] if known else ["Evaluation"])


def _headline(findings: Findings) -> Html:
    scores, calibration, intervals = findings.scores, findings.calibration, findings.intervals
    note = f"without {', '.join(findings.left_out)}" if findings.left_out else "mean of classes"
    low_to_high = "" if intervals is None else " to ".join(map(percent, intervals.miou))
    return together(
        figures_html(
            [
                ("mIoU", percent(scores.miou), low_to_high or note),
                ("mF1", percent(scores.mf1), note),
                ("OA", percent(scores.oa), f"of {sum(scores.support):,} pixels"),
                ("kappa", percent(scores.kappa), "OA above chance"),
                (
                    "calibration error",
                    percent(calibration.error),
                    f"confidence {percent(calibration.confidence)}",
                ),
            ]
        ),
        text_html(f"All in percent; {interval_sentence(intervals)}.", faint=True),
    )


def _classes(findings: Findings, classes: Sequence[str], palette: Sequence[Color]) -> Html:
    """The table of the console, with bars."""
    table, intervals = class_table(findings.scores, classes, findings.left_out), findings.intervals
    nowhere = (math.nan, math.nan)
    ranges = [nowhere] * (len(classes) + 1)
    if intervals is not None:
        ranges = [*intervals.iou, intervals.miou]
    shares, colors = [*findings.scores.iou, findings.scores.miou], [*palette, None]
    rows = []
    for (name, iou, *others), share, color, ends in zip(
        table.rows, shares, colors, ranges, strict=True
    ):
        bar = bar_html(share, color or _MEAN_COLOR, *ends)
        between = "-" if math.isnan(sum(ends)) else " to ".join(map(percent, ends))
        rows.append([name_html(name, color), iou, bar, between, *others])
    head = [*table.head[:2], "0 to 100", "95% interval", *table.head[2:]]
    return table_html(head, rows, (len(classes),), (0, 2))


def _protocols(findings: Findings) -> Html:
    sentences = list_html(protocol_sentences(findings))
    return together(_laid_out(protocol_scores_table(findings)), sentences)


def _details(findings: Findings, classes: Sequence[str]) -> Html:
    tables = [object_table(findings), *class_details(findings, classes)]
    if findings.boundaries is not None:
        tables.insert(0, boundary_table(findings, classes))
        return columns_html(*map(_laid_out, tables))
    why = f"{NO_BORDERS[0].upper()}{NO_BORDERS[1:]}."
    return together(text_html(why), columns_html(*map(_laid_out, tables)))


def _laid_out(table: Table) -> Html:
    return table_html(table.head, table.rows)


def _panel(rows: Sequence[PanelRow], classes: Sequence[str], palette: Sequence[Color]) -> Html:
    """A line of pictures for each tile."""
    names, colors = [*classes, *ERROR_COLORS], [*palette, *ERROR_COLORS.values()]
    lines = [legend_html(names, colors)]
    for row in rows:
        pictures = [
            picture_html(cell.picture, name, f"{name} of {row.title}", photo=name in _PHOTOS)
            for name, cell in panel_cells(row, palette).items()
            if cell is not None
        ]
        lines.append(row_html(row.title, pictures))
    return together(*lines)
