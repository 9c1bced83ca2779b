//! The plots: bars of what the fast turns had, with whiskers from the median to the fastest, in groups.

use std::fmt::Write as _;

use crate::contestant::Table;
use crate::report::{Report, Row, thousands};
use crate::stats::Summary;
use crate::svg;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
/// Left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (60.0, 40.0, 20.0, 50.0);
/// Readable by the colour-blind (Okabe and Ito), and apart in grey.
const BARS: [(&str, &str); 5] = [
    ("io", "#bbbbbb"),
    ("5tswap", "#56b4e9"),
    ("penstock", "#f0e442"),
    ("penstock, at rest", "#e69f00"),
    ("penstock, tracked", "#d55e00"),
];

/// A picture of a report.
pub struct Plot {
    /// Of its file, without an ending.
    pub name: &'static str,
    pub title: &'static str,
    pub svg: fn(&Report) -> String,
}

/// Those that there is something to see in.
pub fn names(report: &Report) -> Vec<Plot> {
    let plots = [
        (Table::Flows, Plot { name: "flows", title: "packets per second by flows", svg: flows }),
        (Table::Growth, Plot { name: "growth", title: "cycles a packet by services and backends", svg: growth }),
        (Table::Modes, Plot { name: "modes", title: "packets per second by forwarding mode", svg: modes }),
    ];
    let rows = report.rows();
    plots.into_iter().filter(|(table, _)| rows.iter().any(|row| row.table == *table)).map(|(_, plot)| plot).collect()
}

/// A bar: its figure with a whisker from and to, and its colour.
struct Bar {
    figure: f64,
    whisker: [f64; 2],
    colour: &'static str,
}

impl Bar {
    /// Of a rate, as `scale` makes a figure of it.
    fn of(pps: Summary, colour: &'static str, scale: impl Fn(f64) -> f64) -> Self {
        Self { figure: scale(pps.ninth), whisker: [scale(pps.median), scale(pps.max)], colour }
    }
}

/// Throughput, a group for each number of flows.
fn flows(report: &Report) -> String {
    let rows = report.rows();
    let rows: Vec<&Row> = rows.iter().filter(|row| row.table == Table::Flows).collect();
    let mut numbers: Vec<usize> = rows.iter().map(|row| row.flows).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let groups = numbers.iter().map(|&flows| {
        let bar = |&(name, colour): &(&str, &'static str)| {
            let row = rows.iter().find(|row| row.flows == flows && row.contestant.name == name)?;
            Some(Bar::of(row.pps, colour, |pps| pps / 1e6))
        };
        (format!("{} flow{}", thousands(flows), if flows == 1 { "" } else { "s" }), BARS.iter().map(bar).collect())
    });
    let title = format!("Million packets a second, one lcore, 60-byte frames: {}", report.machine.commit);
    let legend: Vec<_> = BARS.iter().map(|&(name, colour)| (name, colour)).collect();
    bars(&title, &groups.collect::<Vec<_>>(), &legend)
}

/// Throughput, a bar for each mode.
fn modes(report: &Report) -> String {
    let title = format!("Million packets a second by forwarding mode: {}", report.machine.commit);
    single(report, Table::Modes, &title, |pps| pps / 1e6)
}

/// What a packet costs, a bar for each number of services and backends.
fn growth(report: &Report) -> String {
    let title = format!("Cycles a packet, services × backends: {}", report.machine.commit);
    single(report, Table::Growth, &title, |pps| report.machine.tsc_hz / pps)
}

/// A bar for each line of a table.
fn single(report: &Report, table: Table, title: &str, scale: impl Fn(f64) -> f64) -> String {
    let rows = report.rows();
    let groups = rows.iter().filter(|row| row.table == table).map(|row| {
        let bar = Bar::of(row.pps, "#d55e00", &scale);
        (row.contestant.name.clone(), vec![Some(bar)])
    });
    bars(title, &groups.collect::<Vec<_>>(), &[])
}

/// Groups of bars, each with what stands below it, as a whole SVG file; a legend of names and colours.
fn bars(title: &str, groups: &[(String, Vec<Option<Bar>>)], legend: &[(&str, &str)]) -> String {
    let (left, top, right, bottom) = MARGIN;
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let all = groups.iter().flat_map(|(_, bars)| bars).flatten();
    let most = all.flat_map(|bar| bar.whisker).fold(1.0, f64::max);
    let step = svg::step(most);
    let limit = (most / step).ceil() * step;
    let y = |figure: f64| top + height * (1.0 - figure / limit);

    let mut svg = svg::head(WIDTH, HEIGHT, left, title);
    for line in 0..=(limit / step).round() as u32 {
        let figure = f64::from(line) * step;
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{end}\" stroke=\"#dddddd\"/><text x=\"{x}\" y=\"{text:.1}\" text-anchor=\"end\">{figure}</text>",
            y = y(figure),
            end = WIDTH - right,
            x = left - 8.0,
            text = y(figure) + 4.0
        );
    }
    let group = width / groups.len().max(1) as f64;
    for (index, (below, bars)) in groups.iter().enumerate() {
        let bar = group * 0.8 / bars.len().max(1) as f64;
        let start = left + group * (index as f64 + 0.1);
        for (place, Bar { figure, whisker, colour }) in
            bars.iter().enumerate().filter_map(|(at, bar)| Some((at, bar.as_ref()?)))
        {
            let (x, middle) = (start + bar * place as f64, start + bar * (place as f64 + 0.5));
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\
                 <path d=\"M{middle:.1} {from:.1}V{to:.1}\" stroke=\"black\"/>\
                 <text x=\"{middle:.1}\" y=\"{label:.1}\" text-anchor=\"middle\" font-size=\"10\">{figure:.1}</text>",
                y = y(*figure),
                width = bar * 0.9,
                height = y(0.0) - y(*figure),
                from = y(whisker[0]),
                to = y(whisker[1]),
                label = y(whisker[0].max(whisker[1])) - 4.0
            );
        }
        let (x, y) = (start + group * 0.4, HEIGHT - bottom + 18.0);
        let size = if groups.len() > 6 { 9 } else { 12 };
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"{size}\">{}</text>",
            svg::escaped(below)
        );
    }
    for (place, (name, colour)) in legend.iter().enumerate() {
        let (x, y) = (left + width / legend.len() as f64 * place as f64, HEIGHT - 18.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 18.0,
            y + 10.0,
            svg::escaped(name)
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rate_is_a_bar_with_its_figure() {
        let report = crate::report::tests::example();
        let svg = flows(&report);
        for figure in [">38.0<", ">19.0<", ">15.1<", ">1 k flows<"] {
            assert!(svg.contains(figure), "{figure} in {svg}");
        }
        assert_eq!(svg.matches("<path d=\"M").count() - svg.matches('H').count(), 3, "whiskers");
        assert_eq!(names(&report).iter().map(|plot| plot.name).collect::<Vec<_>>(), ["flows"]);
    }
}
