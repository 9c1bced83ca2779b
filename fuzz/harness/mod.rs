//! What the fuzz targets do with their input, and what must hold whatever it is. `tests/corpus.rs` does the same with the inputs
//! that are kept. Whoever has this module has `tests/support/oracle.rs` as its `crate::oracle`.
#![allow(dead_code, unused_imports, reason = "each target uses its part")]

mod bursts;
mod draw;
mod headers;
mod made;
mod node;

#[cfg(feature = "api")]
use penstock::proto::{ServiceSet, message_of_set, tree_of_set};
use penstock::service::{self, kubernetes};
#[cfg(feature = "api")]
use prost::Message;

pub use bursts::{frames, pipeline, scenes, unserved};
pub use headers::headers;

/// Input: a document. What is taken is written, and reads back equal.
pub fn definitions(input: &[u8]) {
    if let Ok((definitions, _)) = service::native(input, "fuzz", None) {
        let (back, _) = service::native(definitions.to_json(), "back", None).expect("what was written is good");
        assert_eq!(back, definitions);
    }
}

/// Input: a set of definitions as a message, as it comes over gRPC. What is taken is written as one, and reads back equal.
#[cfg(feature = "api")]
pub fn messages(input: &[u8]) {
    let Ok(set) = ServiceSet::decode(input) else { return };
    if let Ok((definitions, _)) = service::read_tree(&tree_of_set(&set), "fuzz", None) {
        let bytes = message_of_set(&definitions).encode_to_vec();
        let written = ServiceSet::decode(bytes.as_slice()).expect("what was encoded");
        let (back, _) = service::read_tree(&tree_of_set(&written), "back", None).expect("what was written is good");
        assert_eq!(back, definitions);
    }
}

/// Input: a Kubernetes-shaped document. What becomes of it is good by the native rules, and the same however often it is made.
pub fn kubernetes(input: &[u8]) {
    let options = kubernetes::Options {
        health_check_node_ports: true,
        node_ports: true,
        node_addresses: [("node-1".to_owned(), [10, 0, 9, 1].into())].into(),
        own_addresses: vec![[10, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()],
        ..kubernetes::Options::default()
    };
    let read = || service::read(input, "fuzz", None, &options);
    if let Ok(reading) = read() {
        let written = reading.definitions.to_json();
        let (back, _) = service::native(&written, "back", None).unwrap_or_else(|errors| panic!("{errors}\n{written}"));
        assert_eq!(back.to_json(), written);
        assert_eq!(read().as_ref(), Ok(&reading));
    }
}
