//! The plot: bars of medians with whiskers from the slowest to the fastest round, a group for each number of flows.

use std::fmt::Write as _;

use crate::bench::Contestant;
use crate::report::{Report, thousands};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
/// Left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (60.0, 40.0, 20.0, 50.0);
/// Readable by the colour-blind (Okabe and Ito), and apart in grey.
const BARS: [(Contestant, &str); 3] =
    [(Contestant::Io, "#bbbbbb"), (Contestant::Swap, "#56b4e9"), (Contestant::Penstock, "#d55e00")];

/// The plot as a whole SVG file.
pub fn svg(report: &Report) -> String {
    let (left, top, right, bottom) = MARGIN;
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let flows = report.flows();
    let most = report.samples.iter().map(|sample| sample.rate.pps).fold(1e6, f64::max);
    let step = step(most);
    let limit = (most / step).ceil() * step;
    let y = |pps: f64| top + height * (1.0 - pps / limit);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"20\" font-size=\"14\">Million packets a second, one lcore, 60-byte frames: {}</text>\n",
        escaped(&report.machine.commit)
    );
    for line in 0..=(limit / step).round() as u32 {
        let pps = f64::from(line) * step;
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{end}\" stroke=\"#dddddd\"/><text x=\"{x}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>",
            pps / 1e6,
            y = y(pps),
            end = WIDTH - right,
            x = left - 8.0,
            text = y(pps) + 4.0
        );
    }
    let group = width / flows.len().max(1) as f64;
    let bar = group * 0.8 / BARS.len() as f64;
    for (index, &flows) in flows.iter().enumerate() {
        let start = left + group * (index as f64 + 0.1);
        for (place, (contestant, colour)) in BARS.into_iter().enumerate() {
            let Some(pps) = report.pps(flows, contestant) else { continue };
            let (x, middle) = (start + bar * place as f64, start + bar * (place as f64 + 0.5));
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\
                 <path d=\"M{middle:.1} {min:.1}V{max:.1}\" stroke=\"black\"/>\
                 <text x=\"{middle:.1}\" y=\"{label:.1}\" text-anchor=\"middle\">{:.1}</text>",
                pps.median / 1e6,
                y = y(pps.median),
                width = bar * 0.9,
                height = y(0.0) - y(pps.median),
                min = y(pps.min),
                max = y(pps.max),
                label = y(pps.max) - 4.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{} flow{}</text>",
            start + group * 0.4,
            HEIGHT - bottom + 18.0,
            thousands(flows),
            if flows == 1 { "" } else { "s" }
        );
    }
    for (place, (contestant, colour)) in BARS.into_iter().enumerate() {
        let (x, y) = (left + 150.0 * place as f64, HEIGHT - 18.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 18.0,
            y + 10.0,
            if contestant == Contestant::Penstock { "penstock, ipip".into() } else { format!("testpmd {contestant}") }
        );
    }
    svg + "</svg>\n"
}

/// A round distance between grid lines, of which at most eight are needed.
fn step(most: f64) -> f64 {
    [1e6, 2e6, 5e6, 10e6, 20e6, 50e6].into_iter().find(|step| most / step <= 8.0).unwrap_or(100e6)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_median_is_a_bar_with_its_figure() {
        let svg = svg(&crate::report::tests::example());
        for figure in [">30.0<", ">15.0<", ">11.5<", ">1 k flows<"] {
            assert!(svg.contains(figure), "{figure} in {svg}");
        }
        assert_eq!(svg.matches("<path d=\"M").count() - svg.matches('H').count(), 3, "whiskers");
    }
}
