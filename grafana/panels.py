"""How a panel and a dashboard are made, whatever they show.

Every panel has a title, a size on a grid of 24 columns, and a description for who forgot how it all
works. It keeps to what Grafana 11.6 has. Colours are Grafana's own, by name: they fit its light
theme and its dark one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DashboardCursorSync,
    DashboardLinkType,
    DashboardSpecialValueMapOptions,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    SpecialValueMap,
    SpecialValueMatch,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

GOOD, WARNING, BAD, NEUTRAL, PLAIN = "green", "orange", "red", "blue", "text"

# What is said in place of a value, and in which colour; "nan" is one, too.
Words = Mapping[str, tuple[str, str]]

# From which value on, which colour; the first from the lowest on.
Steps = Sequence[tuple[float | None, str]]

Size = tuple[int, int]
Panel = stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel

_P = TypeVar("_P", stat.Panel, statetimeline.Panel, table.Panel, timeseries.Panel)

# Whoever looks at a dashboard chooses a Prometheus at its top.
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True)
class Column:
    """A query of a table. The title is its value's; without one, its labels say all."""

    expr: str
    title: str = ""
    unit: str = units.NoUnit
    words: Words | None = None
    steps: Steps | None = None


class Mark(Builder[AnnotationQuery]):
    """Lines across all pictures of a time, wherever the query gives something.

    `at_value`: where its value says, in ms. Else as long as it gives something.
    """

    def __init__(self, name: str, expr: str, text: str, colour: str, *, at_value: bool) -> None:
        self._made = _PrometheusMark(
            name=name, expr=expr, icon_color=colour, datasource=_SOURCE, hide=False
        )
        self._made.extra = {
            "titleFormat": name,
            "textFormat": text,
            "step": "15s",
            "useValueForTime": at_value,
        }

    def build(self) -> AnnotationQuery:
        """As the SDK wants it."""
        return self._made


class _PrometheusMark(AnnotationQuery):
    """With what a Prometheus data source looks for in it, and the SDK does not know."""

    extra: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), **self.extra}


def made(  # noqa: PLR0913 - choices, each by its name
    *,
    uid: str,
    title: str,
    description: str,
    since: str,
    marks: Sequence[Mark],
    panels: Sequence[Panel],
) -> str:
    """A dashboard as JSON, always the same for the same; panels fill rows of 24 columns."""
    board = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["zonerw"])
        .refresh("30s")
        .time(since, "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .annotations(list(marks))
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
        .link(
            dashboard.DashboardLink("zonerw")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["zonerw"])
            .include_vars(True)
            .keep_time(True)
        )
    )
    for number, panel in enumerate(panels, 1):
        board.with_panel(panel.id(number))
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


# --- kinds of panels --------------------------------------------------------------------------


def value(  # noqa: PLR0913 - choices, each by its name
    title: str,
    size: Size,
    about: str,
    queries: Mapping[str, str],
    *,
    unit: str = units.NoUnit,
    unit_of: Mapping[str, str] | None = None,
    words: Words | None = None,
    steps: Steps = ((None, PLAIN),),
    decimals: int | None = None,
) -> stat.Panel:
    """What each query gives now, in large. `unit_of`: by the name of the query."""
    panel = (
        _panel(stat.Panel(), title, size, about)
        .unit(unit)
        .mappings(_mappings(words or {}))
        .thresholds(_thresholds(steps))
        .no_value("not known")
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .targets(_now(queries))
    )
    for name, its in (unit_of or {}).items():
        panel.override_by_name(name, [DynamicConfigValue("unit", its)])
    return panel if decimals is None else panel.decimals(decimals)


def name(
    title: str, size: Size, about: str, queries: Mapping[str, str], colours: Mapping[str, str]
) -> stat.Panel:
    """The name of what each query gives now, in large, in the colour of its value."""
    words = {its: ("", colour) for its, colour in colours.items()}
    return value(title, size, about, queries, words=words).text_mode(BigValueTextMode.NAME)


def states(
    title: str, size: Size, about: str, queries: Mapping[str, str], words: Words
) -> statetimeline.Panel:
    """A bar over time for each series, in the colours of its states."""
    return (
        _panel(statetimeline.Panel(), title, size, about)
        .unit(units.NoUnit)
        .mappings(_mappings(words))
        .no_value("not known")
        .merge_values(True)
        .row_height(0.8)
        .fill_opacity(80)
        .legend(_legend(shown=False))
        .tooltip(_tooltip())
        .targets(_over_time(queries))
    )


def lines(
    title: str, size: Size, about: str, queries: Mapping[str, str], unit: str
) -> timeseries.Panel:
    """A line over time for each series, from zero."""
    return (
        _panel(timeseries.Panel(), title, size, about)
        .unit(unit)
        .min(0)
        .no_value("not known")
        .fill_opacity(10)
        .legend(_legend(shown=True))
        .tooltip(_tooltip())
        .targets(_over_time(queries))
    )


def rows(  # noqa: PLR0913 - choices, each by its name
    title: str,
    size: Size,
    about: str,
    columns: Sequence[Column],
    shown: Mapping[str, str],
    *,
    nothing: str,
    least: str = "",
    most: str = "",
    words_of: Mapping[str, Words] | None = None,
) -> table.Panel:
    """A table of what the queries give now.

    `shown`: labels and columns' titles, from the left, and what they are called. What is not among
    them is left out. `least`, `most`: by which it is sorted. `nothing`: what it says when empty.
    `words_of`: of labels, as they are called.
    """
    # What Grafana calls the value: of one query "Value", else "Value #A", "Value #B" ...
    fields = {
        ("Value" if len(columns) == 1 else f"Value #{ref}"): column
        for ref, column in zip(ascii_uppercase, columns, strict=False)
    }
    field_of = {column.title: field for field, column in fields.items() if column.title}
    wanted = {field_of.get(key, key): its for key, its in shown.items()}
    panel = (
        _panel(table.Panel(), title, size, about)
        .unit(units.NoUnit)
        .thresholds(_thresholds(((None, PLAIN),)))
        .no_value(nothing)
        .targets(_as_table([column.expr for column in columns]))
        .with_transformation(DataTransformerConfig("merge", options={}))
        .with_transformation(_only(wanted))
        .with_transformation(_in_order(wanted))
    )
    for column in columns:
        if column.title:
            panel.override_by_name(shown[column.title], _cells(column))
    for label, words in (words_of or {}).items():
        panel.override_by_name(label, _cells(Column("", unit=units.String, words=words)))
    if least or most:
        order = common.TableSortByFieldState().display_name(least or most).desc(bool(most))
        panel.sort_by([order])
    return panel


def matrix(  # noqa: PLR0913 - choices, each by its name
    title: str,
    size: Size,
    about: str,
    expr: str,
    labels: tuple[str, str, str],
    *,
    nothing: str,
    words: Words,
) -> table.Panel:
    """A table of what the query gives now. `labels`: of the rows, of the columns, of the cells."""
    row, column, cell = labels
    options = {"rowField": row, "columnField": column, "valueField": cell}
    return (
        _panel(table.Panel(), title, size, about)
        .unit(units.String)
        .mappings(_mappings(words))
        .thresholds(_thresholds(((None, PLAIN),)))
        .no_value(nothing)
        .targets(_as_table([expr]))
        .with_transformation(DataTransformerConfig("groupingToMatrix", options=options))
        .with_transformation(_in_order({f"{row}\\{column}": row}))
        .override_by_field_type("string", [_COLOURED])
    )


# --- parts of panels --------------------------------------------------------------------------

_COLOURED = DynamicConfigValue("custom.cellOptions", {"type": "color-text"})


def _panel(panel: _P, title: str, size: Size, about: str) -> _P:
    width, height = size
    panel = panel.title(title).description(about).datasource(_SOURCE)
    return panel.span(width).height(height)


def _query(expr: str, ref: str, legend: str = "") -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expr).ref_id(ref).legend_format(legend).datasource(_SOURCE)


def _now(queries: Mapping[str, str]) -> list[Builder[Dataquery]]:
    named = zip(ascii_uppercase, queries.items(), strict=False)
    return [_query(expr, ref, legend).instant() for ref, (legend, expr) in named]


def _over_time(queries: Mapping[str, str]) -> list[Builder[Dataquery]]:
    named = zip(ascii_uppercase, queries.items(), strict=False)
    return [_query(expr, ref, legend).range() for ref, (legend, expr) in named]


def _as_table(exprs: Sequence[str]) -> list[Builder[Dataquery]]:
    named = zip(ascii_uppercase, exprs, strict=False)
    return [_query(expr, ref).instant().format(PromQueryFormat.TABLE) for ref, expr in named]


def _only(fields: Mapping[str, str]) -> DataTransformerConfig:
    return DataTransformerConfig("filterFieldsByName", options={"include": {"names": [*fields]}})


def _in_order(fields: Mapping[str, str]) -> DataTransformerConfig:
    options = {
        "excludeByName": {},
        "indexByName": {field: index for index, field in enumerate(fields)},
        "renameByName": dict(fields),
    }
    return DataTransformerConfig("organize", options=options)


def _cells(column: Column) -> list[DynamicConfigValue]:
    told = [DynamicConfigValue("unit", column.unit)]
    if column.words:
        told.append(DynamicConfigValue("mappings", _mappings(column.words)))
    if column.steps:
        told.append(DynamicConfigValue("thresholds", _thresholds(column.steps).build()))
    return [*told, _COLOURED] if column.words or column.steps else told


def _mappings(words: Words) -> list[ValueMapping]:
    results = {v: ValueMappingResult(text or None, colour) for v, (text, colour) in words.items()}
    not_a_number = results.pop("nan", None)
    mappings: list[ValueMapping] = [ValueMap(results)] if results else []
    if not_a_number:
        options = DashboardSpecialValueMapOptions(SpecialValueMatch.NA_N, not_a_number)
        mappings.append(SpecialValueMap(options))
    return mappings


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    thresholds = [Threshold(start, colour) for start, colour in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds)


def _legend(*, shown: bool) -> common.VizLegendOptions:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(shown)
    return legend.placement(LegendPlacement.BOTTOM).calcs([])


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
