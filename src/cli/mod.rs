//! What each subcommand prints.
