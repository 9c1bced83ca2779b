use super::contestant::{Contestant, Given};
use super::run::{HANDSHAKE, OUTAGE, Outcome};
use super::*;

const NEVER: Tick = Tick(u32::MAX);

fn quiet(nodes: usize) -> Scenario {
    let day = Scenario::day(Tick::minutes(90), nodes);
    Scenario { failure: NEVER, flap: NEVER, deployment: Tick::minutes(60), weighing: Tick::minutes(3), ..day }
}

fn outcome(scenario: &Scenario, kind: Kind, capacity: usize, seed: u64) -> Outcome {
    let traffic = Traffic { flows: 20_000, duration: scenario.duration, idle: Tick::minutes(15) };
    let plan = Plan::new(traffic, scenario.clone(), Ecmp::Modulo, seed);
    let given = Given { nodes: scenario.nodes, capacity, idle: Tick::minutes(15), closing: Tick::seconds(30), seed };
    let mut contestant: Box<dyn Contestant> = kind.make(&plan.world(), &given, Returning::OwnState);
    plan.run(&mut *contestant)
}

#[test]
fn penstock_breaks_no_flow_and_who_forgets_does() {
    for seed in 1..3 {
        for kind in [Kind::Transition, Kind::Full, Kind::Held] {
            let outcome = outcome(&quiet(1), kind, 10_000, seed);
            assert_eq!((outcome.broken(), outcome.refused), (0, 0), "{kind:?}, seed {seed}");
            assert!(outcome.flows > 19_000 && outcome.packets > 3 * outcome.flows, "{outcome:?}");
        }
        for kind in [Kind::Maglev, Kind::None, Kind::Jet] {
            let outcome = outcome(&quiet(1), kind, 10_000, seed);
            assert!(outcome.broken() > 100, "{kind:?}, seed {seed}: {}", outcome.broken());
        }
    }
}

#[test]
fn however_small_the_table_only_handshakes_break() {
    for (capacity, seed) in [(8, 1), (60, 2), (300, 3)] {
        for kind in [Kind::Transition, Kind::Full] {
            let outcome = outcome(&quiet(1), kind, capacity, seed);
            assert_eq!(outcome.broken(), outcome.broken[HANDSHAKE], "{kind:?}, {capacity} entries: {outcome:?}");
        }
    }
}

#[test]
fn of_an_outage_only_what_was_silent_throughout_breaks() {
    let scenario = Scenario { flap: Tick::minutes(1), failure: Tick::minutes(5), ..quiet(1) };
    let transition = outcome(&scenario, Kind::Transition, 10_000, 1);
    assert!(transition.broken() > 0 && transition.moved > 0 && transition.ended > 0, "{transition:?}");
    assert_eq!(transition.broken(), transition.broken[OUTAGE], "{transition:?}");
    assert_eq!(outcome(&scenario, Kind::Full, 10_000, 1).broken(), 0);
    assert_eq!(outcome(&scenario, Kind::Held, 10_000, 1).broken(), 0);
}

#[test]
fn a_lost_node_breaks_what_only_it_remembered() {
    let scenario = Scenario { node_loss: Tick::minutes(5), ..quiet(4) };
    for kind in [Kind::Table, Kind::Transition] {
        let [loss, back] = [scenario::Kind::NodeLoss, scenario::Kind::NodeReturn].map(|kind| kind as usize);
        let outcome = outcome(&scenario, kind, 10_000, 1);
        assert!(outcome.broken[loss] > 0 && outcome.broken[back] > 0, "{kind:?}: {outcome:?}");
    }
}

#[test]
fn at_rest_nothing_is_remembered_and_in_a_transition_a_part() {
    let still = Scenario { deployment: NEVER, scaling: NEVER, weighing: NEVER, ..quiet(1) };
    assert_eq!(outcome(&still, Kind::Transition, 10_000, 1).peak(|sample| sample.entries), 0);
    let peak = |kind| outcome(&quiet(1), kind, 10_000, 1).peak(|sample| sample.entries);
    let (transition, full) = (peak(Kind::Transition), peak(Kind::Full));
    assert!(0 < transition && transition < full, "{transition} and {full}");
}

#[test]
fn the_same_seed_gives_the_same_result() {
    let report = |seed| {
        simulate(&Options {
            seed,
            flows: 4_000,
            hours: 1.0,
            nodes: vec![1, 3],
            ecmp: vec![Ecmp::Modulo, Ecmp::Resilient],
            capacity: None,
            idle_minutes: 15,
            returning: Returning::OwnState,
            contestants: Kind::RULES.to_vec(),
            quick: false,
            results: "nowhere".into(),
        })
        .unwrap()
    };
    let [one, again, other] = [1, 1, 2].map(report);
    assert_eq!((one.broken_csv(), one.entries_csv()), (again.broken_csv(), again.entries_csv()));
    assert_ne!(one.broken_csv(), other.broken_csv());
    assert_eq!(one.broken_csv().lines().count(), 1 + 3 * Kind::RULES.len());
    let fields: Vec<usize> = one.broken_csv().lines().map(|line| line.split(',').count()).collect();
    assert!(fields.iter().all(|&count| count == fields[0]), "{fields:?}");
    for svg in [plot::broken(&one), plot::entries(&one)] {
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("transition<"), "{svg}");
    }
}
