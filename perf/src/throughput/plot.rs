//! The plot: every trial as a point, its rate across and the share that came back up, and the rate that was found as a line; a row for each
//! kind of traffic.

use std::fmt::Write as _;

use super::report::Report;
use crate::svg;

const WIDTH: f64 = 720.0;
const ROW: f64 = 130.0;
const HEAD: f64 = 40.0;
const FOOT: f64 = 46.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 20.0;
/// Readable by the colour-blind (Okabe and Ito), and apart in grey.
const PASSED: &str = "#009e73";
const FAILED: &str = "#d55e00";

/// The plot as a whole SVG file.
pub fn of(report: &Report) -> String {
    let kinds = report.kinds();
    let height = HEAD + ROW * kinds.len() as f64 + FOOT;
    let trials = report.searches.iter().flat_map(|search| &search.trials);
    let most = trials.map(|trial| trial.offered()).fold(1.0, f64::max);
    let step = svg::step(most);
    let limit = (most / step).ceil() * step;
    let x = |rate: f64| LEFT + (WIDTH - LEFT - RIGHT) * rate / limit;
    let commit = &report.machine.commit;
    let title = format!("Share of the frames that came back, by the rate at which they were sent: {commit}");
    let mut svg = svg::head(WIDTH, height, 20.0, &title);
    for line in 0..=(limit / step).round() as u32 {
        let rate = f64::from(line) * step;
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {HEAD}V{end}\" stroke=\"#dddddd\"/><text x=\"{x:.1}\" y=\"{label}\" text-anchor=\"middle\">{}</text>",
            rate / 1e6,
            x = x(rate),
            end = height - FOOT,
            label = height - FOOT + 16.0
        );
    }
    for (row, kind) in kinds.into_iter().enumerate() {
        let top = HEAD + ROW * row as f64 + 12.0;
        let bottom = top + ROW - 24.0;
        let y = |share: f64| bottom - (bottom - top) * share.clamp(0.0, 1.0);
        let _ = writeln!(
            svg,
            "<text x=\"20\" y=\"{:.1}\">{kind}</text><path d=\"M{LEFT} {top}V{bottom}H{}\" stroke=\"#888888\" fill=\"none\"/>\
             <text x=\"{label}\" y=\"{:.1}\" text-anchor=\"end\">1</text><text x=\"{label}\" y=\"{bottom}\" text-anchor=\"end\">0</text>",
            (top + bottom) / 2.0,
            WIDTH - RIGHT,
            top + 10.0,
            label = LEFT - 6.0
        );
        if let Some(rate) = report.rate(kind) {
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#56b4e9\" opacity=\"0.4\"/>\
                 <path d=\"M{middle:.1} {top}V{bottom}\" stroke=\"#0072b2\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.3}</text>",
                x(rate.min),
                x(rate.max) - x(rate.min),
                bottom - top,
                x(rate.median) - 4.0,
                bottom - 6.0,
                rate.median / 1e6,
                middle = x(rate.median)
            );
        }
        for trial in report.searches.iter().filter(|search| search.kind == kind).flat_map(|search| &search.trials) {
            let colour = if report.search.passes(trial) { PASSED } else { FAILED };
            let (at, share) = (x(trial.offered()), y(1.0 - trial.loss()));
            let _ = writeln!(svg, "<circle cx=\"{at:.1}\" cy=\"{share:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
    }
    let foot = height - 12.0;
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{foot}\">million frames a second</text>\
         <circle cx=\"300\" cy=\"{c}\" r=\"3\" fill=\"{PASSED}\"/><text x=\"308\" y=\"{foot}\">passed</text>\
         <circle cx=\"370\" cy=\"{c}\" r=\"3\" fill=\"{FAILED}\"/><text x=\"378\" y=\"{foot}\">lost too much</text>\
         <path d=\"M480 {c}h14\" stroke=\"#0072b2\"/><text x=\"500\" y=\"{foot}\">found: median, and from least to most</text>",
        c = foot - 4.0
    );
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trial_is_a_point_and_the_rate_a_line() {
        let svg = of(&super::super::report::tests::example());
        assert_eq!((svg.matches(PASSED).count(), svg.matches(FAILED).count()), (3, 3), "two and the legend's each");
        for figure in [">acks-1000<", ">0.900<"] {
            assert!(svg.contains(figure), "{figure} in {svg}");
        }
    }
}
