//! The plots: broken flows as bars by contestant and size of the fleet; what is remembered as lines over time.

use std::fmt::Write as _;

use super::contestant::Kind;
use super::fleet::Ecmp;
use super::report::{Fleet, Report, Row};
use crate::svg;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 420.0;
/// Left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (70.0, 60.0, 20.0, 70.0);
/// Readable by the colour-blind (Okabe and Ito).
const COLOURS: [&str; 8] = ["#bbbbbb", "#56b4e9", "#0072b2", "#000000", "#009e73", "#e69f00", "#cc79a7", "#d55e00"];

/// Broken flows, on a logarithmic scale that begins at none.
pub fn broken(report: &Report) -> String {
    let (left, top, right, bottom) = MARGIN;
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let fleets = report.fleets();
    let kinds: Vec<Kind> = fleets.first().iter().flat_map(|&&fleet| report.of(fleet)).map(|row| row.kind).collect();
    let most = report.rows.iter().map(|row| row.outcome.broken()).max().unwrap_or(0).max(10);
    let decades = (most as f64).log10().ceil();
    // None, then a decade a step: 0, 1, 10, 100, …
    let step = height / (decades + 1.0);
    let y = |count: u64| top + height - if count == 0 { 0.0 } else { step * (1.0 + (count as f64).log10()) };

    let mut svg = head(&format!(
        "Broken flows of {}, {} simulated hours (logarithmic)",
        crate::report::thousands(report.flows as usize),
        report.hours
    ));
    for decade in 0..=decades as u32 + 1 {
        let count = if decade == 0 { 0 } else { 10u64.pow(decade - 1) };
        grid(&mut svg, y(count), &crate::report::thousands(count as usize));
    }
    let group = width / kinds.len().max(1) as f64;
    let bar = group * 0.84 / fleets.len().max(1) as f64;
    for (index, kind) in kinds.iter().enumerate() {
        let start = left + group * (index as f64 + 0.08);
        for (place, &fleet) in fleets.iter().enumerate() {
            let Some(row) = report.of(fleet).find(|row| row.kind == *kind) else { continue };
            let (count, x) = (row.outcome.broken(), start + bar * place as f64);
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
                 <text x=\"{middle:.1}\" y=\"{label:.1}\" font-size=\"9\" transform=\"rotate(-90 {middle:.1} {label:.1})\">{count}</text>",
                bar * 0.92,
                y(0) - y(count),
                COLOURS[(place + 1) % COLOURS.len()],
                middle = x + bar * 0.46 + 3.0,
                label = y(count) - 3.0,
                y = y(count),
            );
        }
        let x = start + group * 0.42;
        label(&mut svg, x, HEIGHT - bottom + 16.0, kind.name());
    }
    for (place, fleet) in fleets.iter().enumerate() {
        key(&mut svg, place, 150.0, COLOURS[(place + 1) % COLOURS.len()], &fleet.name());
    }
    svg + "</svg>\n"
}

/// What the largest fleet remembers, and how many flows are alive.
pub fn entries(report: &Report) -> String {
    let (left, top, right, bottom) = MARGIN;
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let fleets = report.fleets().into_iter();
    // Of two of a size, the first.
    let fleet = fleets.rev().max_by_key(|fleet| fleet.nodes).unwrap_or(Fleet { nodes: 1, ecmp: Ecmp::Modulo });
    let rows: Vec<&Row> = report.of(fleet).filter(|row| row.outcome.peak(|sample| sample.entries) > 0).collect();
    let peak = |row: &&Row| row.outcome.peak(|sample| sample.entries.max(sample.live));
    let most = rows.iter().map(peak).max().unwrap_or(1).max(1) as f64;
    let y = |count: usize| top + height * (1.0 - count as f64 / most);
    let x = |minute: f64| left + width * minute / (report.hours * 60.0);

    let mut svg = head(&format!("Entries in all flow tables, {}, over {} hours", fleet.name(), report.hours));
    for line in 0..=4 {
        let count = (most * f64::from(line) / 4.0) as usize;
        grid(&mut svg, y(count), &format!("{:.1} k", count as f64 / 1e3));
    }
    for hour in 0..=report.hours as u32 {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{hour} h</text>",
            x(f64::from(hour) * 60.0),
            HEIGHT - bottom + 16.0
        );
    }
    let mut lines: Vec<(&str, Vec<(f64, usize)>)> = Vec::new();
    if let Some(row) = rows.first() {
        let live = row.outcome.samples.iter().map(|sample| (f64::from(sample.at.as_seconds()) / 60.0, sample.live));
        lines.push(("flows alive", live.collect()));
    }
    for row in rows {
        let entries = row.outcome.samples.iter().map(|s| (f64::from(s.at.as_seconds()) / 60.0, s.entries));
        lines.push((row.kind.name(), entries.collect()));
    }
    for (place, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let points: String =
            points.iter().map(|&(minute, count)| format!("{:.1},{:.1} ", x(minute), y(count))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            points.trim_end()
        );
        key(&mut svg, place, 150.0, colour, name);
    }
    svg + "</svg>\n"
}

fn head(title: &str) -> String {
    svg::head(WIDTH, HEIGHT, MARGIN.0, title)
}

fn grid(svg: &mut String, y: f64, text: &str) {
    let _ = writeln!(
        svg,
        "<path d=\"M{} {y:.1}H{}\" stroke=\"#dddddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
        MARGIN.0,
        WIDTH - MARGIN.2,
        MARGIN.0 - 8.0,
        y + 4.0
    );
}

/// In two lines, at its first space.
fn label(svg: &mut String, x: f64, y: f64, text: &str) {
    let (first, second) = text.split_once(' ').unwrap_or((text, ""));
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{first}<tspan x=\"{x:.1}\" dy=\"14\">{second}</tspan></text>"
    );
}

fn key(svg: &mut String, place: usize, width: f64, colour: &str, text: &str) {
    let (x, y) = (MARGIN.0 + width * place as f64, HEIGHT - 18.0);
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{text}</text>",
        x + 17.0,
        y + 10.0
    );
}
