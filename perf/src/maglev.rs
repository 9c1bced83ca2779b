//! How long a Maglev table takes to build, by the very code that the control side runs.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use penstock::maglev::{Member, SelectionHash, table};

use crate::rig::BACKENDS;
use crate::stats::Summary;

/// Slots of the table.
pub const SIZE: u32 = 65_537;
const BUILDS: usize = 51;

/// Seconds for one table of [`BACKENDS`] members of equal weight, under as many seeds as builds.
pub fn build_seconds() -> Option<Summary> {
    let members: Vec<Member> = (0..BACKENDS as u8)
        .map(|number| Member { address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, number)), port: None, weight: 100 })
        .collect();
    Summary::of((0..BUILDS as u8).map(|seed| {
        let hash = SelectionHash::new([seed; 16]);
        let start = Instant::now();
        black_box(table(black_box(&members), SIZE, &hash));
        start.elapsed().as_secs_f64()
    }))
}
