//! How far a long run is, on one line of the terminal; nothing where there is none.

use std::io::{self, IsTerminal};

/// Says this in the place of what was said before.
pub fn say(what: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}
