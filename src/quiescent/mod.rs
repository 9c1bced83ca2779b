//! Publish an immutable value to polling threads, and get the old ones back.
//!
//! (skeleton: see the task)
