//! What `conf/prometheus` and `conf/grafana` hold fits together: metrics that exist, alerts that are explained and tested, a dashboard
//! whose parts do not lie on one another. In the lab (`make test`) a real Prometheus is asked each expression.
#![cfg(feature = "api")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use penstock::telemetry::{self, Kind};
use serde_json::Value;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dashboard() -> Value {
    serde_json::from_str(&read("conf/grafana/penstock.json")).unwrap()
}

/// What follows a key of the rules, line by line.
fn values<'a>(rules: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    rules
        .lines()
        .filter_map(move |line| line.trim_start().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": "))
}

/// The series of a text, those that rules record included, as often as they stand there.
fn series(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '_' | ':'));
    let is_series = |word: &&str| word.contains("penstock_") || word.starts_with("process_");
    words.filter(is_series)
}

/// Their names.
fn named(text: &str) -> BTreeSet<&str> {
    series(text).collect()
}

#[test]
fn every_metric_that_is_asked_for_exists() {
    let rules = read("conf/prometheus/rules.yml");
    let mut known: BTreeSet<String> = values(&rules, "record").map(str::to_owned).collect();
    for (name, kind, _) in telemetry::listed() {
        match kind {
            Kind::Histogram => known.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}"))),
            Kind::Counter | Kind::Gauge => _ = known.insert(name.to_owned()),
        }
    }
    let (tests, dashboard) = (read("conf/prometheus/tests.yml"), read("conf/grafana/penstock.json"));
    let asked: BTreeSet<&str> = [&rules, &tests, &dashboard].into_iter().flat_map(|text| named(text)).collect();
    let unknown: Vec<_> = asked.iter().filter(|name| !known.contains(**name)).collect();
    assert!(unknown.is_empty() && asked.len() > 50, "{unknown:?}");
}

#[test]
fn every_alert_says_what_is_wrong_and_what_to_do_and_is_tested() {
    let (rules, tests, page) =
        (read("conf/prometheus/rules.yml"), read("conf/prometheus/tests.yml"), read("docs/alerts.md"));
    let alerts: BTreeSet<&str> = values(&rules, "alert").collect();
    assert!(alerts.len() > 20);
    for (number, rule) in rules.split("      - alert: ").skip(1).enumerate() {
        let name = rule.lines().next().unwrap();
        for key in ["expr: ", "labels: {severity: ", "summary: ", "description: "] {
            assert!(rule.contains(&format!("  {key}")), "alert {number}, {name}, has no {key}");
        }
        let place = format!("/docs/alerts.md#{}\n", name.to_lowercase());
        assert!(rule.contains(&place), "{name} does not name its place in docs/alerts.md");
        assert!(tests.contains(&format!("{{alertname=\"{name}\"}}")), "{name} is not seen firing in tests.yml");
    }
    let explained: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(explained, alerts);
}

#[test]
fn the_dashboards_panels_have_numbers_of_their_own_and_lie_beside_one_another() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let numbers: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24 && w > 0 && h > 0, "{}", panel["title"]);
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{} lies on another", panel["title"]);
        }
    }
}

#[test]
fn the_dashboards_panels_ask_the_chosen_source_of_the_chosen_nodes() {
    let dashboard = dashboard();
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            let expression = target["expr"].as_str().unwrap();
            let asked = series(expression).count();
            assert!(expression.matches("$node").count() >= asked, "{}: {expression}", panel["title"]);
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["datasource", "node", "service"]);
}
