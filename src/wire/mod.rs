//! Header views over bytes: lengths are checked once, nothing fails after.

mod frame;
mod mac;

pub use frame::Frame;
pub use mac::{Mac, ParseMacError};
