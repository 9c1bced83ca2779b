//! The gRPC contract of `proto/penstock/v1`: its messages and calls as code, definitions to and from its messages, and a
//! channel to call by.

mod channel;
mod convert;

pub use channel::channel_over;
pub use convert::{message_of, message_of_set, tree_of, tree_of_set};
pub use generated::*;

mod generated {
    tonic::include_proto!("penstock.v1");
}

/// For reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/penstock.v1.bin"));

/// Bytes of one message, either way: 10,000 services of 20 backends are some five million.
pub const LARGEST_MESSAGE: usize = 64 << 20;
