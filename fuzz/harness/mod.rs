//! What the fuzz targets do with their input, and what must hold whatever it is. `tests/corpus.rs` does the same with the inputs
//! that are kept. Whoever has this module has `tests/support/oracle.rs` as its `crate::oracle`.
#![allow(dead_code, unused_imports, reason = "each target uses its part")]

mod bursts;
mod draw;
mod headers;
mod made;
mod node;

use penstock::service;

pub use bursts::{frames, pipeline, scenes, unserved};
pub use headers::headers;

/// Input: a document. What is taken is written, and reads back equal.
pub fn definitions(input: &[u8]) {
    if let Ok((definitions, _)) = service::read(input, "fuzz", None) {
        let (back, _) = service::read(definitions.to_json(), "back", None).expect("what was written is good");
        assert_eq!(back, definitions);
    }
}
