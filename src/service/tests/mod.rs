//! Documents and what is said about them.

mod good;
