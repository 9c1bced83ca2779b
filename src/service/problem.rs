//! What is wrong with a document: each error with its file, its place in it, and the reason.

use std::fmt;
use std::sync::Arc;

/// Something wrong, or doubtful, at one place of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: Arc<str>,
    /// Like `services[3].backends[0].port`; empty: the document as a whole.
    pub path: String,
    /// What was found, what was expected, and what to do.
    pub reason: String,
}

/// Something that a valid document says and that will not do what its author may expect.
pub type Warning = Problem;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "{}: {}", self.file, self.reason),
            path => write!(f, "{}: {path}: {}", self.file, self.reason),
        }
    }
}

/// Everything that is wrong with a document, one error a line; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<Problem>);

impl Errors {
    /// A document that cannot be read at all.
    pub fn whole(file: &str, reason: impl Into<String>) -> Self {
        Self(vec![Problem { file: file.into(), path: String::new(), reason: reason.into() }])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// A place in a document, as a chain to its root: a good document costs no text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Step<'a> {
    #[default]
    Root,
    Key(&'a str),
    Index(usize),
    Item(&'a str, usize),
}

impl Path<'_> {
    pub fn key<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Key(name) }
    }

    /// An element of the list at this place.
    pub fn at(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// An element of the list under the key `name`.
    pub fn item<'b>(&'b self, name: &'b str, index: usize) -> Path<'b> {
        Path { parent: Some(self), step: Step::Item(name, index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if !matches!(parent.step, Step::Root) && !matches!(self.step, Step::Index(_)) {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Key(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Item(name, index) => write!(f, "{name}[{index}]"),
        }
    }
}

/// Collects what is found in one document.
#[derive(Debug)]
pub struct Report {
    file: Arc<str>,
    pub errors: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

impl Report {
    pub fn new(file: &str) -> Self {
        Self { file: file.into(), errors: Vec::new(), warnings: Vec::new() }
    }

    pub fn error(&mut self, path: impl fmt::Display, reason: impl Into<String>) {
        self.errors.push(Problem { file: self.file.clone(), path: path.to_string(), reason: reason.into() });
    }

    pub fn warn(&mut self, path: impl fmt::Display, reason: impl Into<String>) {
        self.warnings.push(Problem { file: self.file.clone(), path: path.to_string(), reason: reason.into() });
    }

    /// `value` with the warnings, where there is no error.
    pub fn finish<T>(self, value: impl FnOnce() -> T) -> Result<(T, Vec<Warning>), Errors> {
        if self.errors.is_empty() { Ok((value(), self.warnings)) } else { Err(Errors(self.errors)) }
    }
}
