//! What the view shows and where one is in it: the node as last seen, and what the keys did. Knows no terminal.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::look::{Backends, Look, Wanted};
use super::rates::Rates;
use crate::cli::live::backends::endpoint;
use crate::counters::Reason;
use crate::proto::{BackendStatus, Service, StatusResponse};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    Overview,
    Services,
    Backends,
    Drops,
}

impl View {
    pub const ALL: [Self; 4] = [Self::Overview, Self::Services, Self::Backends, Self::Drops];

    pub fn title(self) -> &'static str {
        ["Overview", "Services", "Backends", "Drops"][self as usize]
    }

    /// Its columns that can be sorted by; the first that it is sorted by.
    fn columns(self) -> &'static [Column] {
        match self {
            Self::Overview => &[],
            Self::Services => &[Column::Packets, Column::Bits, Column::Out, Column::Name],
            Self::Backends => {
                &[Column::Packets, Column::Bits, Column::Share, Column::Flows, Column::State, Column::Name]
            }
            Self::Drops => &[Column::Packets, Column::Total, Column::Name],
        }
    }
}

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Name,
    Packets,
    Bits,
    Total,
    Out,
    Share,
    Flows,
    State,
}

/// What a key leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Draw,
    /// Something else is on the screen, and not known yet.
    Look,
    Quit,
}

/// Where one is in a view.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    pub cursor: usize,
    /// The first row on the screen.
    pub top: usize,
    /// Rows that the screen has room for.
    pub page: usize,
    sorted_by: usize,
    is_reversed: bool,
}

/// A node that does not answer.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub since: SystemTime,
    pub why: String,
}

/// The rates of something: packets and bits a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Speed {
    pub packets: Option<f64>,
    pub bits: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRow {
    pub name: String,
    pub speed: Speed,
    /// Backends that are out by health checks or by hand, as far as the status tells.
    pub out: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BackendRow {
    pub status: BackendStatus,
    pub speed: Speed,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DropRow {
    pub reason: String,
    pub packets: u64,
    pub rate: Option<f64>,
}

impl DropRow {
    pub fn meaning(&self) -> &'static str {
        Reason::ALL.iter().find(|reason| reason.name() == self.reason).map_or("", |reason| reason.help())
    }
}

/// Up to so many services the overview shows the busiest, and up to so many backends the view of them shows all.
const FEW: u32 = 1000;

/// The view's whole state.
#[derive(Debug)]
pub struct Top {
    pub view: View,
    places: [Place; 4],
    /// Only rows that have this in their text.
    pub filter: String,
    /// Whether letters go to the filter.
    pub is_typing: bool,
    pub is_paused: bool,
    pub shows_help: bool,
    /// The service whose backends are shown.
    pub chosen: Option<String>,
    pub status: Option<StatusResponse>,
    pub trouble: Option<Trouble>,
    pub services: Vec<ServiceRow>,
    pub details: HashMap<String, Service>,
    pub backends: Vec<BackendRow>,
    /// Whose they are.
    pub backends_of: Option<Backends>,
    pub drops: Vec<DropRow>,
    pub ports: Rates,
    service_packets: Rates,
    service_bytes: Rates,
    backend_packets: Rates,
    backend_bytes: Rates,
    drop_packets: Rates,
}

impl Default for Top {
    fn default() -> Self {
        Self {
            view: View::Overview,
            places: [Place::default(); 4],
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            shows_help: false,
            chosen: None,
            status: None,
            trouble: None,
            services: Vec::new(),
            details: HashMap::new(),
            backends: Vec::new(),
            backends_of: None,
            drops: Vec::new(),
            ports: Rates::default(),
            service_packets: Rates::default(),
            service_bytes: Rates::default(),
            backend_packets: Rates::default(),
            backend_bytes: Rates::default(),
            drop_packets: Rates::default(),
        }
    }
}

impl Top {
    /// What the next look is to ask for.
    pub fn wanted(&self) -> Wanted {
        // How many there are is known after the first look.
        let are_few = |of: fn(&StatusResponse) -> u32| self.status.as_ref().is_some_and(|status| of(status) <= FEW);
        match self.view {
            View::Overview => Wanted { services: are_few(|status| status.services), ..Wanted::default() },
            View::Services => {
                let shown = self.services().into_iter().skip(self.place().top).take(self.place().page);
                Wanted { services: true, details: shown.map(|row| row.name.clone()).collect(), backends: None }
            }
            View::Backends => {
                let backends = match &self.chosen {
                    Some(service) => Some(Backends::Of(service.clone())),
                    None if are_few(|status| status.backends) => Some(Backends::All),
                    None => None,
                };
                Wanted { backends, ..Wanted::default() }
            }
            View::Drops => Wanted::default(),
        }
    }

    /// What the node said.
    pub fn saw(&mut self, look: Look) {
        let Look { at, status, drops, services, details, backends } = look;
        self.trouble = None;
        let counters = status
            .ports
            .iter()
            .flat_map(|port| port_counters(port).map(|(what, count)| (format!("{} {what}", port.name), count)));
        self.ports.look(at, counters.collect());

        self.drop_packets.look(at, drops.clone());
        let rate = |(reason, packets): (String, u64)| DropRow { rate: self.drop_packets.of(&reason), reason, packets };
        self.drops = drops.into_iter().map(rate).collect();

        if let Some(services) = services {
            let of = |which: fn(&(u64, u64)) -> u64| {
                services.iter().map(|(name, counts)| (name.clone(), which(counts))).collect()
            };
            self.service_packets.look(at, of(|counts| counts.0));
            self.service_bytes.look(at, of(|counts| counts.1));
            let mut out: HashMap<&str, HashSet<&str>> = HashMap::new();
            for backend in &status.out {
                out.entry(&backend.service).or_default().insert(&backend.backend);
            }
            for drained in &status.drained {
                if let Some(service) = &drained.service {
                    out.entry(service).or_default().insert(&drained.backend);
                }
            }
            let row = |name: &String| ServiceRow {
                name: name.clone(),
                speed: Speed {
                    packets: self.service_packets.of(name),
                    bits: self.service_bytes.of(name).map(|bytes| bytes * 8.0),
                },
                out: out.get(name.as_str()).map_or(0, HashSet::len),
            };
            self.services = services.keys().map(row).collect();
        }
        // Those of rows that have left the screen are not kept.
        if !details.is_empty() {
            self.details = details.into_iter().map(|service| (service.name.clone(), service)).collect();
        }
        if let Some((of, backends)) = backends {
            let key = |backend: &BackendStatus| format!("{} {}", backend.service, endpoint(backend));
            let counts = |which: fn(&BackendStatus) -> u64| {
                backends.iter().map(|backend| (key(backend), which(backend))).collect()
            };
            if self.backends_of.as_ref() != Some(&of) {
                (self.backend_packets, self.backend_bytes) = (Rates::default(), Rates::default());
            }
            self.backend_packets.look(at, counts(|backend| backend.packets));
            self.backend_bytes.look(at, counts(|backend| backend.bytes));
            let row = |status: BackendStatus| {
                let key = key(&status);
                let bits = self.backend_bytes.of(&key).map(|bytes| bytes * 8.0);
                BackendRow { speed: Speed { packets: self.backend_packets.of(&key), bits }, status }
            };
            self.backends = backends.into_iter().map(row).collect();
            self.backends_of = Some(of);
        }
        self.status = Some(status);
    }

    /// The node did not answer; what was seen stays.
    pub fn lost(&mut self, now: SystemTime, why: String) {
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { since, why });
    }

    pub fn place(&self) -> &Place {
        &self.places[self.view as usize]
    }

    /// Tells how many rows there are and how many the screen has room for, and keeps the cursor among them.
    pub fn fit(&mut self, rows: usize, page: usize) -> Place {
        let is_text = self.view == View::Overview;
        let place = &mut self.places[self.view as usize];
        place.page = page;
        let last = rows.saturating_sub(if is_text { page } else { 1 });
        place.cursor = place.cursor.min(last);
        place.top = match is_text {
            true => place.cursor,
            false => place.top.clamp((place.cursor + 1).saturating_sub(page.max(1)), place.cursor),
        };
        // No empty lines below the last row.
        place.top = place.top.min(rows.saturating_sub(page));
        *place
    }

    /// What the view's rows are sorted by.
    pub fn sorted_by(&self) -> Option<Column> {
        self.view.columns().get(self.place().sorted_by).copied()
    }

    fn ordered<'a, T>(
        &self,
        view: View,
        rows: &'a [T],
        is_shown: impl Fn(&T) -> bool,
        by: impl Fn(Column, &T, &T) -> Ordering,
    ) -> Vec<&'a T> {
        let place = &self.places[view as usize];
        let column = view.columns()[place.sorted_by];
        let mut rows: Vec<_> = rows.iter().filter(|row| is_shown(row)).collect();
        rows.sort_by(|a, b| {
            let order = by(column, a, b);
            let order = if place.is_reversed { order.reverse() } else { order };
            order.then_with(|| by(Column::Name, a, b))
        });
        rows
    }

    fn is_shown(&self, texts: &[&str]) -> bool {
        let filter = self.filter.to_lowercase();
        filter.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&filter))
    }

    /// The services' rows, in order; largest first where it is a number.
    pub fn services(&self) -> Vec<&ServiceRow> {
        self.ordered(
            View::Services,
            &self.services,
            |row| self.is_shown(&[&row.name]),
            |column, a, b| match column {
                Column::Bits => larger(a.speed.bits, b.speed.bits),
                Column::Out => b.out.cmp(&a.out),
                Column::Name => a.name.cmp(&b.name),
                _ => larger(a.speed.packets, b.speed.packets),
            },
        )
    }

    pub fn backends(&self) -> Vec<&BackendRow> {
        let is_shown = |row: &BackendRow| {
            self.is_shown(&[&row.status.service, &endpoint(&row.status), &row.status.state, &row.status.health_reason])
        };
        let share = |row: &BackendRow| f64::from(row.status.slots) / f64::from(row.status.table_size.max(1));
        self.ordered(View::Backends, &self.backends, is_shown, |column, a, b| match column {
            Column::Bits => larger(a.speed.bits, b.speed.bits),
            Column::Share => larger(Some(share(a)), Some(share(b))),
            Column::Flows => b.status.flows.cmp(&a.status.flows),
            // "down" and "draining" before "active".
            Column::State => b.status.state.cmp(&a.status.state),
            Column::Name => (&a.status.service, address(a)).cmp(&(&b.status.service, address(b))),
            _ => larger(a.speed.packets, b.speed.packets),
        })
    }

    pub fn drops(&self) -> Vec<&DropRow> {
        let is_shown = |row: &DropRow| self.is_shown(&[&row.reason, row.meaning()]);
        self.ordered(View::Drops, &self.drops, is_shown, |column, a, b| match column {
            Column::Total => b.packets.cmp(&a.packets),
            Column::Name => a.reason.cmp(&b.reason),
            _ => larger(a.rate, b.rate).then(b.packets.cmp(&a.packets)),
        })
    }

    /// Packets and bits a second of all services together, where their counters are asked for.
    pub fn speed(&self) -> Speed {
        let sum = |of: fn(&ServiceRow) -> Option<f64>| {
            self.services.iter().filter_map(of).fold(None, |sum: Option<f64>, rate| Some(sum.unwrap_or(0.0) + rate))
        };
        Speed { packets: sum(|row| row.speed.packets), bits: sum(|row| row.speed.bits) }
    }

    /// What a key does.
    pub fn press(&mut self, key: KeyEvent) -> Then {
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if has_control && key.code == KeyCode::Char('c') {
            return Then::Quit;
        }
        if self.is_typing {
            match key.code {
                KeyCode::Enter => self.is_typing = false,
                KeyCode::Esc => (self.is_typing, self.filter) = (false, String::new()),
                KeyCode::Backspace => {
                    self.filter.pop();
                }
                KeyCode::Char(letter) if !has_control => self.filter.push(letter),
                _ => {}
            }
            return Then::Draw;
        }
        if self.shows_help {
            // Whatever is pressed; but who wants out of the help does not want out of all.
            self.shows_help = false;
            return if key.code == KeyCode::Char('q') { Then::Quit } else { Then::Draw };
        }
        let place = &mut self.places[self.view as usize];
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Then::Quit,
            KeyCode::Tab => return self.show(View::ALL[(self.view as usize + 1) % View::ALL.len()]),
            KeyCode::BackTab => return self.show(View::ALL[(self.view as usize + 3) % View::ALL.len()]),
            KeyCode::Char(digit @ '1'..='4') => return self.show(View::ALL[digit as usize - '1' as usize]),
            KeyCode::Up | KeyCode::Char('k') => place.cursor = place.cursor.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => place.cursor = place.cursor.saturating_add(1),
            KeyCode::PageUp => place.cursor = place.cursor.saturating_sub(place.page),
            KeyCode::PageDown => place.cursor = place.cursor.saturating_add(place.page),
            KeyCode::Home => place.cursor = 0,
            KeyCode::End => place.cursor = usize::MAX - 1,
            KeyCode::Char('s' | '>') => self.sort_by(1),
            KeyCode::Char('<') => self.sort_by(self.view.columns().len().saturating_sub(1)),
            KeyCode::Char('r') => place.is_reversed = !place.is_reversed,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('p') => {
                self.is_paused = !self.is_paused;
                return if self.is_paused { Then::Draw } else { Then::Look };
            }
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            KeyCode::Enter if self.view == View::Services => {
                if let Some(name) = self.services().get(self.place().cursor).map(|row| row.name.clone()) {
                    self.chosen = Some(name);
                    // The filter found the service, not its backends.
                    self.filter.clear();
                    self.places[View::Backends as usize].cursor = 0;
                    return self.show(View::Backends);
                }
            }
            KeyCode::Char('a') if self.view == View::Backends && self.chosen.is_some() => {
                self.chosen = None;
                return Then::Look;
            }
            _ => {}
        }
        Then::Draw
    }

    fn show(&mut self, view: View) -> Then {
        self.view = view;
        Then::Look
    }

    fn sort_by(&mut self, step: usize) {
        let columns = self.view.columns().len();
        if columns > 0 {
            let place = &mut self.places[self.view as usize];
            place.sorted_by = (place.sorted_by + step) % columns;
        }
    }
}

/// Verdicts of a port, by name.
pub fn port_counters(port: &crate::proto::PortStatus) -> [(&'static str, u64); 6] {
    [
        ("received", port.received),
        ("forwarded", port.forwarded),
        ("answered", port.answered),
        ("punted", port.punted),
        ("dropped", port.dropped),
        ("missed", port.missed),
    ]
}

/// An order that has the larger first, and what is not known last.
fn larger(a: Option<f64>, b: Option<f64>) -> Ordering {
    b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0))
}

/// Addresses in the order of numbers, not of letters.
fn address(row: &BackendRow) -> (Option<std::net::IpAddr>, u32) {
    (row.status.address.parse().ok(), row.status.port)
}
