//! The clock of the simulation: tenths of a second from its start.

use std::ops::Add;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(pub u32);

impl Tick {
    const A_SECOND: u32 = 10;

    pub const fn seconds(seconds: u32) -> Self {
        Self(seconds * Self::A_SECOND)
    }

    pub const fn minutes(minutes: u32) -> Self {
        Self::seconds(60 * minutes)
    }

    pub fn of(seconds: f64) -> Self {
        Self((seconds * f64::from(Self::A_SECOND)) as u32)
    }

    pub fn as_seconds(self) -> u32 {
        self.0 / Self::A_SECOND
    }

    pub fn as_millis(self) -> u64 {
        u64::from(self.0) * 1000 / u64::from(Self::A_SECOND)
    }

    pub fn since(self, earlier: Self) -> Self {
        Self(self.0 - earlier.0)
    }
}

impl Add for Tick {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}
