//! What is on the screen: looks that a node could give, keys, and the text that comes of them.

use std::collections::HashMap;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::draw::draw;
use super::look::{Backends, Look, Wanted};
use super::model::{Then, Top, View};
use crate::proto::{BackendStatus, FeedStatus, LcoreStatus, PortStatus, Service, StatusResponse};

/// A screen of a size, and a node that is looked at.
struct Scene {
    top: Top,
    start: Instant,
    services: u64,
    screen: Terminal<TestBackend>,
}

impl Scene {
    fn new(width: u16, height: u16) -> Self {
        let screen = Terminal::new(TestBackend::new(width, height)).unwrap();
        Self { top: Top::default(), start: Instant::now(), services: 3, screen }
    }

    /// With services `s0`, `s1`, …, of which each gets 1,000 packets of 100 bytes more a second than the one before.
    fn of(services: u64) -> Self {
        Self { services, ..Self::new(80, 24) }
    }

    /// What the node says after so many seconds, to what was asked.
    fn answer(&self, wanted: Wanted, seconds: u64) -> Look {
        let counts = |index: u64| (seconds * index * 1000, seconds * index * 100_000);
        let service = |name: String| Service {
            vip: "192.0.2.1".to_owned(),
            port: Some(80),
            protocol: "tcp".to_owned(),
            forwarding: "ipip".to_owned(),
            backends: vec![Default::default(); 2],
            name,
            ..Service::default()
        };
        let backend = |service: &str, index: u64| BackendStatus {
            service: service.to_owned(),
            address: format!("10.1.0.{}", 11 + index),
            port: 80,
            weight: 100,
            defined_state: "active".to_owned(),
            state: if index == 1 { "down" } else { "active" }.to_owned(),
            health: Some(if index == 1 { "down" } else { "up" }.to_owned()),
            health_reason: if index == 1 { "3 of 3 failed: HTTP 503" } else { "" }.to_owned(),
            slots: if index == 1 { 0 } else { 251 },
            table_size: 251,
            packets: seconds * 50 * (3 - index),
            bytes: seconds * 5000 * (3 - index),
            flows: 7,
            ..BackendStatus::default()
        };
        let backends = wanted.backends.map(|of| {
            let service = if let Backends::Of(service) = &of { service.clone() } else { "s0".to_owned() };
            let list = (0..3).map(|index| backend(&service, index)).collect();
            (of, list)
        });
        let port = PortStatus {
            name: "wan0".to_owned(),
            received: seconds * 1_234_000,
            forwarded: seconds * 1_000_000,
            dropped: seconds * 4,
            ..PortStatus::default()
        };
        Look {
            at: self.start + Duration::from_secs(seconds),
            status: StatusResponse {
                name: "edge-1".to_owned(),
                phase: "forwarding".to_owned(),
                version: Some("41".to_owned()),
                services: self.services as u32,
                backends: self.services as u32 * 2,
                feed: Some(FeedStatus {
                    kind: "file".to_owned(),
                    source: "services.json".to_owned(),
                    ..Default::default()
                }),
                lcores: vec![LcoreStatus { cpu: 1, busy_ratio: 0.42, flows: 12_345 }],
                ports: vec![port],
                mbufs: 8191,
                mbufs_in_use: 1024,
                ..StatusResponse::default()
            },
            drops: HashMap::from([("malformed".to_owned(), 5), ("too_big".to_owned(), seconds * 4)]),
            services: wanted.services.then(|| (0..self.services).map(|i| (format!("s{i}"), counts(i))).collect()),
            details: wanted.details.into_iter().map(service).collect(),
            backends,
        }
    }

    /// Draws, looks, and draws.
    fn look(&mut self, seconds: u64) -> String {
        self.text();
        let look = self.answer(self.top.wanted(), seconds);
        self.top.saw(look);
        self.text()
    }

    fn press(&mut self, keys: &[KeyCode]) -> Then {
        let mut then = Then::Draw;
        for &key in keys {
            then = self.top.press(KeyEvent::from(key));
            self.text();
        }
        then
    }

    fn text(&mut self) -> String {
        self.drawn(true)
    }

    fn drawn(&mut self, is_coloured: bool) -> String {
        self.screen.draw(|frame| draw(&mut self.top, frame, is_coloured)).unwrap();
        let buffer = self.screen.backend().buffer();
        let cells: Vec<_> = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
        let lines = cells.chunks(buffer.area.width.max(1).into()).map(|line| line.concat().trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// The first words of the rows under the headings.
fn names(text: &str) -> Vec<&str> {
    let lines: Vec<_> = text.lines().collect();
    let rows = lines[4..lines.len() - 1].iter().take_while(|line| !line.is_empty());
    rows.filter_map(|line| line.split_whitespace().next()).collect()
}

use KeyCode::{BackTab, Backspace, Char, Down, End, Enter, Esc, Home, PageDown, PageUp, Tab, Up};

#[test]
fn the_overview_fits_a_small_terminal() {
    let mut scene = Scene::new(80, 24);
    assert!(scene.text().starts_with("penstock  asking the node …\n"), "{}", scene.text());
    scene.look(0);
    scene.look(1);
    let expected = "\
penstock  edge-1: forwarding, version 41, 3 services, 6 backends
 1 Overview   2 Services   3 Backends   4 Drops

traffic   3.00 k packets/s, 2.40 Mbit/s from clients
flows     12 345 remembered; packet buffers in use: 1 024 of 8 191
feed      file services.json

PORT  RECEIVED/S  FORWARDED/S  ANSWERED/S  PUNTED/S  DROPPED/S  MISSED/S
wan0      1.23 M       1.00 M          0         0        4.0         0

LCORE  BUSY                           FLOWS
CPU 1  [||||||||            ]  42 %  12 345

REASON     PACKETS/S  PACKETS  MEANING
too_big         4.0         8  The packet as it would be sent exceeds the MTU of
malformed         0         5  A length field that cannot be true, or a frame sh

SERVICE  PACKETS/S     BITS/S  OUT
s2          2.00 k     1.60 M
s1          1.00 k      800 k
s0              0          0


q quit  Tab view  s sort  r reverse  / filter  p pause  ? help";
    assert_eq!(scene.look(2), expected);
}

#[test]
fn any_size_of_screen_will_do_in_every_view() {
    for (width, height) in [(200, 60), (80, 24), (20, 5), (7, 4), (80, 1), (1, 24), (1, 1)] {
        let mut scene = Scene::new(width, height);
        for view in ['1', '2', '3', '4', '?'] {
            scene.press(&[Char(view)]);
            for seconds in 1..4 {
                scene.look(seconds);
            }
            scene.press(&[End, PageUp, Down, Home, Up, PageDown, Char('/'), Char('s'), Enter]);
            scene.top.lost(UNIX_EPOCH, "cannot reach a node".to_owned());
            scene.text();
            // The terminal gets another size.
            scene.screen.backend_mut().resize(height, width);
            scene.text();
            scene.screen.backend_mut().resize(width, height);
            scene.press(&[Char('/'), Esc]);
        }
    }
    let mut scene = Scene::new(200, 60);
    scene.press(&[Char('3')]);
    scene.look(1);
    scene.look(2);
    let text = scene.look(3);
    let whole =
        "10.1.0.12:80  down      0.0 %       100      80.0 k      7     100  s0       health: 3 of 3 failed: HTTP 503";
    assert!(text.contains(whole), "{text}");
}

#[test]
fn keys_lead_through_all_views_and_out() {
    let mut scene = Scene::of(100);
    scene.look(1);
    scene.look(2);
    let mut view = |keys: &[KeyCode]| {
        let then = scene.press(keys);
        (scene.top.view, then)
    };
    assert_eq!(view(&[Tab]), (View::Services, Then::Look));
    assert_eq!(view(&[Tab, Tab, Tab]), (View::Overview, Then::Look));
    assert_eq!(view(&[BackTab]), (View::Drops, Then::Look));
    assert_eq!(view(&[Char('2')]), (View::Services, Then::Look));

    // 19 rows have room: the busiest first.
    let text = scene.look(3);
    let shown = names(&text);
    assert_eq!((shown.len(), shown[0], shown[18]), (19, "s99", "s81"), "{text}");
    // Their definitions come with the next look.
    assert_eq!(scene.top.wanted().details.len(), 19);
    let row = "s99         99.0 k     79.2 M              2  ipip  192.0.2.1 80/tcp";
    let text = scene.look(4);
    assert!(text.lines().any(|line| line == row), "{text}");

    let mut first = |keys: &[KeyCode]| {
        scene.press(keys);
        names(&scene.text())[0].to_owned()
    };
    assert_eq!(first(&[PageDown]), "s98", "the cursor moves, and the rows by as much as they must");
    assert_eq!(first(&[Down]), "s97");
    assert_eq!(first(&[End]), "s18");
    assert_eq!(first(&[Home]), "s99");
    assert_eq!(first(&[Char('r')]), "s0");
    assert_eq!(first(&[Char('r'), Char('<')]), "s0", "by name, which is the last column");
    assert_eq!(first(&[Char('s')]), "s99");
    assert_eq!(first(&[Char('/'), Char('S'), Char('7'), Char('x'), Backspace, Enter]), "s79");
    scene.press(&[Down, Enter]);
    assert_eq!((scene.top.view, scene.top.chosen.as_deref()), (View::Backends, Some("s78")));
    assert_eq!(scene.top.wanted().backends, Some(Backends::Of("s78".to_owned())));
    let text = scene.look(5);
    assert!(text.contains("\nof s78, sorted by packets/s\n"), "{text}");
    assert_eq!(names(&text), ["10.1.0.11:80", "10.1.0.12:80", "10.1.0.13:80"]);

    assert_eq!(scene.press(&[Char('?')]), Then::Draw);
    assert!(scene.text().contains("PgUp"));
    assert_eq!(scene.press(&[Esc]), Then::Draw, "back from the help");
    assert_eq!(scene.press(&[Char('/'), Char('q')]), Then::Draw, "a letter of the filter");
    assert_eq!(scene.press(&[Esc]), Then::Draw);
    assert_eq!(scene.press(&[Esc]), Then::Quit);
    assert_eq!(scene.press(&[Char('q')]), Then::Quit);
    let control_c = KeyEvent::new(Char('c'), KeyModifiers::CONTROL);
    scene.top.is_typing = true;
    assert_eq!(scene.top.press(control_c), Then::Quit);
}

#[test]
fn many_services_are_asked_for_only_where_they_are_shown() {
    let mut scene = Scene::of(10_000);
    scene.look(1);
    assert_eq!(scene.top.wanted(), Wanted::default(), "the overview");
    scene.press(&[Char('4')]);
    assert_eq!(scene.top.wanted(), Wanted::default(), "the drops");
    scene.press(&[Char('3')]);
    assert_eq!(scene.top.wanted(), Wanted::default(), "the backends, before a service is chosen");
    assert!(scene.text().contains("choose a service in 2 Services"), "{}", scene.text());
    scene.press(&[Char('2')]);
    scene.look(2);
    let wanted = scene.top.wanted();
    assert_eq!((wanted.services, wanted.details.len(), wanted.backends), (true, 19, None));
}

#[test]
fn drops_are_shown_with_what_they_mean() {
    let mut scene = Scene::new(200, 60);
    scene.press(&[Char('4')]);
    scene.look(1);
    let text = scene.look(2);
    assert_eq!(names(&text), ["too_big", "malformed"]);
    assert!(
        text.contains("malformed         0         5  A length field that cannot be true, or a frame shorter"),
        "{text}"
    );
    scene.press(&[Char('/'), Char('m'), Char('t'), Char('u')]);
    assert_eq!(names(&scene.text()), ["too_big"]);
    assert!(scene.text().ends_with("/mtu_"));
}

#[test]
fn a_node_that_is_gone_leaves_what_was_seen_and_one_that_comes_back_began_anew() {
    let mut scene = Scene::new(80, 24);
    scene.look(10);
    scene.look(11);
    let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(86400 + 3600 * 10 + 44 * 60 + seconds);
    scene.top.lost(at(21), "connection refused".to_owned());
    scene.top.lost(at(22), "no such file".to_owned());
    let text = scene.text();
    assert!(text.contains("\nthe node does not answer since 10:44:21 UTC: no such file\n"), "{text}");
    assert!(text.contains("wan0      1.23 M"), "{text}");
    // Its counters stand at what came since it started again.
    let mut look = scene.answer(scene.top.wanted(), 1);
    look.at = scene.start + Duration::from_secs(13);
    scene.top.saw(look);
    let text = scene.text();
    assert!(!text.contains("does not answer") && text.contains("wan0       617 k"), "{text}");
}

#[test]
fn a_pause_is_said_and_ends_with_a_look() {
    let mut scene = Scene::new(80, 24);
    scene.look(1);
    assert_eq!(scene.press(&[Char('p')]), Then::Draw);
    assert!(scene.text().lines().next().unwrap().ends_with("paused"));
    assert_eq!(scene.press(&[Char('p')]), Then::Look);
    assert!(!scene.text().contains("paused"));
}

#[test]
fn there_are_colours_only_where_they_are_wanted() {
    let mut scene = Scene::new(80, 24);
    scene.press(&[Char('3')]);
    scene.look(1);
    scene.look(2);
    let colours = |scene: &Scene| -> Vec<Color> {
        let mut colours: Vec<_> = scene.screen.backend().buffer().content().iter().map(|cell| cell.fg).collect();
        colours.sort_by_key(|colour| format!("{colour:?}"));
        colours.dedup();
        colours
    };
    assert_eq!(colours(&scene), [Color::Green, Color::Red, Color::Reset]);
    scene.drawn(false);
    assert_eq!(colours(&scene), [Color::Reset]);
}
