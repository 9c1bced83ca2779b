//! The view as characters, whatever the size of the screen.

use std::time::UNIX_EPOCH;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::model::{BackendRow, Column, DropRow, ServiceRow, Top, View, port_counters};
use crate::cli::live::backends::{endpoint, flows, share, why};
use crate::cli::live::status::{since, spoken};
use crate::cli::live::table::{Row, Tone, cell, grouped, state};
use crate::proto::StatusResponse;

const HELP: &[(&str, &str)] = &[
    ("1 to 4, Tab", "overview, services, backends, drops"),
    ("arrows, PgUp, PgDn, Home, End", "move"),
    ("Enter, on a service", "its backends"),
    ("a, among backends", "those of all services again"),
    ("s or >, <", "sort by the next, the previous column"),
    ("r", "reverse the order"),
    ("/", "only rows with this text; Enter keeps it, Esc forgets it"),
    ("p", "pause: the node is not asked"),
    ("q, Esc, Ctrl-C", "quit"),
    ("", ""),
    ("", "Rates are of the time between two looks; - is not known yet."),
];

/// Lines above the body.
const HEAD: u16 = 3;

pub fn draw(top: &mut Top, frame: &mut Frame, is_coloured: bool) {
    let area = frame.area();
    let (width, buffer) = (usize::from(area.width), frame.buffer_mut());
    let body = Rect { y: HEAD.min(area.height), height: area.height.saturating_sub(HEAD + 1), ..area };
    put(buffer, area, 0, &title(top, is_coloured));
    put(buffer, area, 1, &tabs(top));
    put(buffer, area, 2, &notice(top, is_coloured));
    if top.shows_help {
        let keys = HELP.iter().map(|(key, what)| Line::raw(format!("  {key:<31}{what}")));
        (0..body.height).zip(keys).for_each(|(y, line)| put(buffer, body, y, &line));
    } else {
        draw_body(top, buffer, body, width, is_coloured);
    }
    if area.height > HEAD {
        put(buffer, area, area.height - 1, &footer(top));
    }
}

fn put(buffer: &mut Buffer, area: Rect, y: u16, line: &Line) {
    if y < area.height {
        buffer.set_line(area.x, area.y + y, line, area.width);
    }
}

fn style(tone: Tone, is_coloured: bool) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        // What is bad stands out without colours, too.
        Tone::Bad if !is_coloured => Style::new().add_modifier(Modifier::BOLD),
        _ if !is_coloured => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Doubtful => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
    }
}

fn title(top: &Top, is_coloured: bool) -> Line<'static> {
    let mut line = vec![Span::styled("penstock", Style::new().add_modifier(Modifier::BOLD)), Span::raw("  ")];
    match &top.status {
        Some(status) => {
            let phase = if status.phase == "forwarding" { Tone::Good } else { Tone::Doubtful };
            line.push(Span::raw(format!("{}: ", status.name)));
            line.push(Span::styled(status.phase.clone(), style(phase, is_coloured)));
            let age = since(status.started.as_ref()).map(|age| format!(" for {}", spoken(age))).unwrap_or_default();
            line.push(Span::raw(age + &definitions(status)));
        }
        None if top.trouble.is_none() => line.push(Span::raw("asking the node …")),
        None => {}
    }
    if top.is_paused {
        line.push(Span::styled("  paused ", Style::new().add_modifier(Modifier::REVERSED)));
    }
    Line::from(line)
}

fn definitions(status: &StatusResponse) -> String {
    let version = match status.version.as_deref() {
        None => return ", no definitions yet".to_owned(),
        Some("") => String::new(),
        Some(version) => format!(", version {version}"),
    };
    let (services, backends) = (grouped(status.services.into()), grouped(status.backends.into()));
    format!("{version}, {services} services, {backends} backends")
}

fn tabs(top: &Top) -> Line<'static> {
    let tab = |(index, view): (usize, View)| {
        let style = if view == top.view { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        [Span::styled(format!(" {} {} ", index + 1, view.title()), style), Span::raw(" ")]
    };
    Line::from_iter(View::ALL.into_iter().enumerate().flat_map(tab))
}

/// What is wrong; else what the rows are.
fn notice(top: &Top, is_coloured: bool) -> Line<'static> {
    if let Some(trouble) = &top.trouble {
        let seconds = trouble.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) % 86400;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let text = format!("the node does not answer since {hours:02}:{minutes:02}:{seconds:02} UTC: {}", trouble.why);
        return Line::styled(text, style(Tone::Bad, is_coloured));
    }
    let mut said = Vec::new();
    if let (View::Backends, Some(service)) = (top.view, &top.chosen) {
        said.push(format!("of {service}"));
    }
    if let Some(column) = top.sorted_by() {
        let by = match column {
            Column::Name => "name",
            Column::Packets => "packets/s",
            Column::Bits => "bits/s",
            Column::Total => "packets",
            Column::Out => "backends out",
            Column::Share => "share",
            Column::Flows => "flows",
            Column::State => "state",
        };
        said.push(format!("sorted by {by}"));
    }
    if !top.filter.is_empty() {
        said.push(format!("with {:?}", top.filter));
    }
    Line::raw(said.join(", "))
}

fn footer(top: &Top) -> Line<'static> {
    match () {
        () if top.is_typing => Line::raw(format!("/{}_", top.filter)),
        () if top.shows_help => Line::raw("any key: back"),
        () => Line::raw("q quit  Tab view  s sort  r reverse  / filter  p pause  ? help"),
    }
}

fn draw_body(top: &mut Top, buffer: &mut Buffer, body: Rect, width: usize, is_coloured: bool) {
    if top.view == View::Overview {
        let lines = overview(top, width, is_coloured);
        let place = top.fit(lines.len(), body.height.into());
        let shown = lines.iter().skip(place.top);
        return (0..body.height).zip(shown).for_each(|(y, line)| put(buffer, body, y, line));
    }
    let count = match top.view {
        View::Services => top.services().len(),
        View::Backends => top.backends().len(),
        _ => top.drops().len(),
    };
    let place = top.fit(count, body.height.saturating_sub(1).into());
    let (headings, rows): (&[&str], Vec<Row>) = match top.view {
        View::Services => (SERVICES, page(&top.services(), place.top, place.page, |row| service(top, row))),
        View::Backends => (BACKENDS, page(&top.backends(), place.top, place.page, backend)),
        _ => (DROPS, page(&top.drops(), place.top, place.page, dropped)),
    };
    let lines = table(headings, &rows, width, is_coloured);
    (0..body.height).zip(&lines).for_each(|(y, line)| put(buffer, body, y, line));
    match u16::try_from(place.cursor - place.top + 1) {
        Ok(at) if !rows.is_empty() && at < body.height => {
            let row = Rect { y: body.y + at, height: 1, ..body };
            buffer.set_style(row, Style::new().add_modifier(Modifier::REVERSED));
        }
        _ if rows.is_empty() => put(buffer, body, 1, &Line::raw(nothing(top))),
        _ => {}
    }
}

/// Why there are no rows.
fn nothing(top: &Top) -> &'static str {
    match (&top.status, top.view) {
        (None, _) => "nothing is known yet",
        _ if !top.filter.is_empty() => "no row has that text: press / and Esc for all",
        (Some(status), View::Backends) if top.chosen.is_none() && status.backends > 0 && top.backends_of.is_none() => {
            "there are many: choose a service in 2 Services, and press Enter"
        }
        _ => "none",
    }
}

fn page<T>(rows: &[&T], start: usize, length: usize, row: impl Fn(&T) -> Row) -> Vec<Row> {
    rows.iter().skip(start).take(length).map(|of| row(of)).collect()
}

// What can be done without stands last: a narrow screen cuts it off.
const SERVICES: &[&str] = &["SERVICE", "PACKETS/S ", "   BITS/S ", "OUT ", "BACKENDS ", "MODE", "VIP"];
const BACKENDS: &[&str] =
    &["BACKEND", "STATE", "SHARE ", "PACKETS/S ", "   BITS/S ", "FLOWS ", "WEIGHT ", "SERVICE", "WHY"];
const DROPS: &[&str] = &["REASON", "PACKETS/S ", "PACKETS ", "MEANING"];

fn service(top: &Top, row: &ServiceRow) -> Row {
    let out = if row.out > 0 { (row.out.to_string(), Tone::Bad) } else { cell("") };
    let mut cells = vec![cell(&row.name), cell(si(row.speed.packets)), cell(si(row.speed.bits)), out];
    if let Some(service) = top.details.get(&row.name) {
        let port = match (&service.port_range, service.port) {
            (Some(range), _) => range.clone(),
            (None, Some(0) | None) => "all".to_owned(),
            (None, Some(port)) => port.to_string(),
        };
        cells.push(cell(service.backends.len()));
        cells.push(cell(&service.forwarding));
        cells.push(cell(format!("{} {port}/{}", service.vip, service.protocol)));
    }
    cells
}

fn backend(row: &BackendRow) -> Row {
    let BackendRow { status, speed } = row;
    vec![
        cell(endpoint(status)),
        state(&status.state),
        cell(share(status)),
        cell(si(speed.packets)),
        cell(si(speed.bits)),
        cell(flows(status)),
        cell(status.weight),
        cell(&status.service),
        cell(why(status)),
    ]
}

fn dropped(row: &DropRow) -> Row {
    let tone = if row.rate.is_some_and(|rate| rate > 0.0) { Tone::Doubtful } else { Tone::Plain };
    vec![cell(&row.reason), (si(row.rate), tone), cell(grouped(row.packets)), cell(row.meaning())]
}

fn overview(top: &Top, width: usize, is_coloured: bool) -> Vec<Line<'static>> {
    let Some(status) = &top.status else { return Vec::new() };
    let line = |name: &str, text: String, tone| {
        Line::from(vec![Span::raw(format!("{name:<10}")), Span::styled(text, style(tone, is_coloured))])
    };
    let mut lines = Vec::new();
    let knows_services = top.wanted().services;
    let speed = top.speed();
    if knows_services && speed.packets.is_some() {
        let text = format!("{} packets/s, {}bit/s from clients", si(speed.packets).trim_end(), si(speed.bits));
        lines.push(line("traffic", text, Tone::Plain));
    }
    let flows = grouped(status.lcores.iter().map(|lcore| lcore.flows).sum());
    let mbufs = format!("{} of {}", grouped(status.mbufs_in_use), grouped(status.mbufs));
    lines.push(line("flows", format!("{flows} remembered; packet buffers in use: {mbufs}"), Tone::Plain));
    if let Some(feed) = &status.feed {
        let age = since(feed.last_success.as_ref()).map(|age| format!("; last good set {} ago", spoken(age)));
        lines.push(line("feed", format!("{} {}", feed.kind, feed.source) + &age.unwrap_or_default(), Tone::Plain));
        lines.extend(feed.error.lines().map(|text| line("", format!("not in force: {text}"), Tone::Bad)));
    }
    if status.unresolved_next_hops > 0 {
        let text = format!("{} without a MAC address", status.unresolved_next_hops);
        lines.push(line("next hops", text, Tone::Bad));
    }
    for (name, count, tone) in [
        ("out", status.out.len(), Tone::Bad),
        ("drained", status.drained.len(), Tone::Doubtful),
        ("moving", status.moving.len(), Tone::Plain),
    ] {
        let what = if name == "moving" { "services with slots that are not at rest" } else { "backends" };
        if count > 0 {
            lines.push(line(name, format!("{count} {what}; `penstock status` names them"), tone));
        }
    }

    let mut section = |headings: &[&str], rows: Vec<Row>| {
        if !rows.is_empty() {
            lines.push(Line::default());
            lines.extend(table(headings, &rows, width, is_coloured));
        }
    };
    let port = |port: &crate::proto::PortStatus| {
        let rate = |(what, _): (&str, u64)| {
            let rate = top.ports.of(&format!("{} {what}", port.name));
            let is_bad = what == "missed" && rate.is_some_and(|rate| rate > 0.0);
            (si(rate), if is_bad { Tone::Bad } else { Tone::Plain })
        };
        [cell(&port.name)].into_iter().chain(port_counters(port).map(rate)).collect()
    };
    section(
        &["PORT", "RECEIVED/S ", "FORWARDED/S ", "ANSWERED/S ", "PUNTED/S ", "DROPPED/S ", "MISSED/S "],
        status.ports.iter().map(port).collect(),
    );
    let lcore = |lcore: &crate::proto::LcoreStatus| {
        let busy = lcore.busy_ratio.clamp(0.0, 1.0);
        let tone = if busy > 0.9 { Tone::Doubtful } else { Tone::Plain };
        let bar = format!("[{:<20}]", "|".repeat((busy * 20.0).round() as usize));
        let cpu = cell(format!("CPU {}", lcore.cpu));
        vec![cpu, (bar, tone), cell(format!("{:.0} %", busy * 100.0)), cell(grouped(lcore.flows))]
    };
    section(&["LCORE", "BUSY", " ", "FLOWS "], status.lcores.iter().map(lcore).collect());
    let drops = top.drops().into_iter().filter(|row| row.packets > 0).take(3);
    section(DROPS, drops.map(dropped).collect());
    let busiest = |row: &ServiceRow| service(top, row).into_iter().take(4).collect();
    let services = if knows_services { top.services() } else { Vec::new() };
    section(&SERVICES[..4], services.into_iter().take(8).map(busiest).collect());
    lines
}

/// Rows under their headings, in columns that fit a width: the first gives way, as far as it can be told still what it names.
/// Columns whose heading ends in a space stand to the right.
fn table(headings: &[&str], rows: &[Row], width: usize, is_coloured: bool) -> Vec<Line<'static>> {
    let heading = headings.iter().map(|heading| heading.trim_end());
    let mut widths: Vec<usize> = heading.map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, (text, _)) in widths.iter_mut().zip(row) {
            *width = text.chars().count().max(*width);
        }
    }
    let excess = (widths.iter().sum::<usize>() + 2 * (widths.len() - 1)).saturating_sub(width);
    widths[0] = widths[0].saturating_sub(excess).max(widths[0].min(24));
    let line = |row: &[(String, Tone)], is_heading: bool| {
        let mut spans = Vec::new();
        for ((&width, (text, tone)), heading) in widths.iter().zip(row).zip(headings) {
            let mut text = text.clone();
            if text.chars().count() > width {
                text = text.chars().take(width.saturating_sub(1)).chain(['…']).collect();
            }
            let style = if is_heading { Style::new().add_modifier(Modifier::BOLD) } else { style(*tone, is_coloured) };
            let padded = if heading.ends_with(' ') { format!("{text:>width$}") } else { format!("{text:<width$}") };
            spans.extend([Span::styled(padded, style), Span::raw("  ")]);
        }
        Line::from(spans)
    };
    let heading: Row = headings.iter().map(|heading| cell(heading.trim())).collect();
    [line(&heading, true)].into_iter().chain(rows.iter().map(|row| line(row, false))).collect()
}

/// A number in three digits and a unit's prefix.
fn si(number: Option<f64>) -> String {
    let Some(mut number) = number else { return "- ".to_owned() };
    let mut prefixes = ["", "k", "M", "G", "T", "P"].into_iter();
    let mut prefix = prefixes.next().unwrap_or_default();
    while number >= 999.5 {
        let Some(next) = prefixes.next() else { break };
        (number, prefix) = (number / 1000.0, next);
    }
    let digits = match () {
        () if prefix.is_empty() => {
            if number > 0.0 && number < 10.0 {
                1
            } else {
                0
            }
        }
        () if number < 9.995 => 2,
        () if number < 99.95 => 1,
        () => 0,
    };
    format!("{number:.digits$} {prefix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_prefix() {
        let numbers = [0.0, 0.25, 9.0, 999.4, 999.6, 1234.0, 12_345.0, 123_456.0, 9.996e6, 40e9, 7e18];
        let texts = ["0 ", "0.2 ", "9.0 ", "999 ", "1.00 k", "1.23 k", "12.3 k", "123 k", "10.0 M", "40.0 G", "7000 P"];
        assert_eq!(numbers.map(|number| si(Some(number))), texts);
        assert_eq!(si(None), "- ");
    }

    #[test]
    fn a_narrow_table_shortens_the_first_column_and_no_other() {
        let rows = [vec![cell("a-service-with-a-rather-long-name"), cell("1234567")]];
        let text = |width| table(&["NAME", "COUNT "], &rows, width, false)[1].to_string();
        assert_eq!(text(80).trim_end(), "a-service-with-a-rather-long-name  1234567");
        assert_eq!(text(35).trim_end(), "a-service-with-a-rather-l…  1234567");
        assert_eq!(text(3).trim_end(), "a-service-with-a-rather…  1234567");
    }
}
