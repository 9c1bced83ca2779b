//! Descriptions of documents: every key, its values, its default and what it means, as plain tables.
//!
//! One description serves three: [`check`] holds a document against it and reports every departure, [`Object`] reads
//! values (or their defaults) by it, and [`schema`] prints it as a JSON Schema. The tables themselves stand beside the
//! readers: `service/keys.rs` and `config/keys.rs`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::json;

use super::duration;
use super::problem::{Path, Report};
use super::tree::{Value, quote};
use crate::wire::Mac;

/// One key of an object.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub shape: Shape,
    pub otherwise: Otherwise,
    /// One sentence for the schema.
    pub help: &'static str,
}

/// What a key that is absent means.
#[derive(Debug, Clone, Copy)]
pub enum Otherwise {
    /// An error.
    Required,
    /// Nothing, or something that the help explains.
    Nothing,
    Integer(i64),
    Bool(bool),
    Text(&'static str),
}

/// The values that a key can have.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    Bool,
    Integer {
        least: i64,
        most: i64,
    },
    Prime {
        least: i64,
        most: i64,
    },
    Text(&'static Format),
    Duration {
        least: &'static str,
        most: &'static str,
    },
    Choice(&'static [&'static str]),
    /// A number, or else a text of this format.
    IntegerOr {
        least: i64,
        most: i64,
        format: &'static Format,
    },
    List {
        of: &'static Shape,
        least: usize,
        most: usize,
    },
    /// Known keys only.
    Object(&'static [Key]),
    /// These keys, and any others, which are somebody else's.
    Open(&'static [Key]),
    /// Any keys, all with values of one shape.
    Map(&'static Shape),
}

/// A text with a meaning.
#[derive(Debug)]
pub struct Format {
    /// Completes "… is not …".
    pub what: &'static str,
    /// A regular expression that every good text matches (and perhaps some bad ones), for the schema.
    pub pattern: &'static str,
    pub holds: fn(&str) -> bool,
}

impl Key {
    pub const fn required(name: &'static str, shape: Shape, help: &'static str) -> Self {
        Self { name, shape, otherwise: Otherwise::Required, help }
    }

    pub const fn optional(name: &'static str, shape: Shape, help: &'static str) -> Self {
        Self { name, shape, otherwise: Otherwise::Nothing, help }
    }

    pub const fn default(name: &'static str, shape: Shape, otherwise: Otherwise, help: &'static str) -> Self {
        Self { name, shape, otherwise, help }
    }
}

impl Shape {
    pub const fn list(of: &'static Self) -> Self {
        Self::List { of, least: 0, most: usize::MAX }
    }

    /// Completes "… is not …".
    fn what(&self) -> Cow<'static, str> {
        match self {
            Self::Bool => "true or false".into(),
            Self::Integer { least, most } => format!("a number from {least} to {most}").into(),
            Self::Prime { least, most } => format!("a prime from {least} to {most}").into(),
            Self::Text(format) => format.what.into(),
            Self::Duration { least, most } => {
                format!("a duration from {least} to {most}, written like \"2h4m\" or \"500ms\"").into()
            }
            Self::Choice(names) => format!("one of {}", names.join(", ")).into(),
            Self::IntegerOr { least, most, format } => {
                format!("a number from {least} to {most}, or {}", format.what).into()
            }
            Self::List { .. } => "a list".into(),
            Self::Object(_) | Self::Open(_) | Self::Map(_) => "an object".into(),
        }
    }
}

/// Formats that services and the node's configuration share.
pub mod format {
    use super::*;

    pub static NAME: Format = Format {
        what: "a name: 1 to 512 characters, none of them a control character",
        pattern: r"^[^\x00-\x1f\x7f-\x9f]{1,512}$",
        holds: |text| (1..=512).contains(&text.chars().count()) && !text.contains(char::is_control),
    };
    pub static ANY: Format = Format { what: "text", pattern: "", holds: |_| true };
    pub static ADDRESS: Format = Format {
        what: "an IPv4 or IPv6 address",
        pattern: r"^[0-9a-fA-F:.]+$",
        holds: |text| text.parse::<IpAddr>().is_ok(),
    };
    pub static IPV4: Format = Format {
        what: "an IPv4 address",
        pattern: r"^[0-9]+(\.[0-9]+){3}$",
        holds: |text| text.parse::<Ipv4Addr>().is_ok(),
    };
    pub static IPV6: Format = Format {
        what: "an IPv6 address",
        pattern: r"^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$",
        holds: |text| text.parse::<Ipv6Addr>().is_ok(),
    };
    pub static PREFIX: Format = Format {
        what: "a prefix like \"198.51.100.0/24\" (one address: \"/32\" or \"/128\")",
        pattern: r"^[0-9a-fA-F:.]+/[0-9]{1,3}$",
        holds: |text| text.parse::<IpNet>().is_ok(),
    };
    pub static PORTS: Format = Format {
        what: "a range of ports like \"8000-8099\"",
        pattern: r"^[0-9]{1,5}-[0-9]{1,5}$",
        holds: |text| ports(text).is_some(),
    };
    pub static MAC: Format = Format {
        what: "the MAC address of one station, six bytes like 02:00:00:00:00:01 (not a group's, whose first byte is odd, nor all zeros)",
        pattern: r"^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$",
        holds: |text| text.parse::<Mac>().is_ok_and(|mac| !mac.is_group() && mac != Mac::default()),
    };
    pub static HEX: Format = Format {
        what: "bytes in hexadecimal, two digits a byte, without separators",
        pattern: "^([0-9a-fA-F]{2})+$",
        holds: |text| hex(text).is_some(),
    };
}

/// The bytes of a text of hexadecimal digits, at least one byte.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// A range of ports, `first-last`, 1 to 65535, the first not above the last.
pub fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    let number =
        |text: &str| text.parse().ok().filter(|&port: &u16| port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

/// Divides by everything up to the root: sizes of tables are small.
pub fn is_prime(number: i64) -> bool {
    number >= 2 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| number % divisor != 0)
}

/// The nearest of `known` to what somebody wrote.
pub fn nearest<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let near = |name: &str| strsim::normalized_damerau_levenshtein(&written.to_lowercase(), &name.to_lowercase());
    known.max_by(|one, other| near(one).total_cmp(&near(other)))
}

/// Reports every departure of `value` from `shape`.
pub fn check(value: &Value<'_>, shape: &Shape, path: &Path<'_>, report: &mut Report) {
    let holds = match (shape, value) {
        (Shape::Bool, Value::Bool(_)) => true,
        (Shape::Integer { least, most } | Shape::IntegerOr { least, most, .. }, Value::Integer(number)) => {
            (least..=most).contains(&number)
        }
        (Shape::Prime { least, most }, &Value::Integer(number)) => {
            (*least..=*most).contains(&number) && is_prime(number)
        }
        (Shape::Text(format) | Shape::IntegerOr { format, .. }, Value::Text(text)) => (format.holds)(text),
        (Shape::Duration { least, most }, Value::Text(text)) => duration::parse(text)
            .is_some_and(|value| Some(value) >= duration::parse(least) && Some(value) <= duration::parse(most)),
        (Shape::Choice(names), Value::Text(text)) => {
            if !names.contains(&text.as_ref()) {
                let near = nearest(text, names.iter().copied()).unwrap_or_default();
                report.error(path, format!("{} is not {}; did you mean {near:?}?", quote(text), shape.what()));
            }
            true
        }
        (Shape::List { of, least, most }, Value::List(items)) => {
            return check_list(items, of, *least, *most, path, report);
        }
        (Shape::Object(keys), Value::Object(members)) => return check_object(members, keys, true, path, report),
        (Shape::Open(keys), Value::Object(members)) => return check_object(members, keys, false, path, report),
        (Shape::Map(of), Value::Object(members)) => {
            check_twice(members, path, report);
            return members.iter().for_each(|(key, value)| check(value, of, &path.key(key), report));
        }
        _ => false,
    };
    if !holds {
        report.error(path, format!("{} is not {}", value.describe(), shape.what()));
    }
}

fn check_list(items: &[Value<'_>], of: &Shape, least: usize, most: usize, path: &Path<'_>, report: &mut Report) {
    if items.len() < least {
        report.error(path, format!("{} given, at least {least} needed", items.len()));
    }
    if items.len() > most {
        report.error(path, format!("{} given, at most {most} are taken", items.len()));
    }
    for (index, item) in items.iter().enumerate() {
        check(item, of, &path.at(index), report);
    }
}

fn check_object(
    members: &[(Cow<'_, str>, Value<'_>)],
    keys: &[Key],
    is_closed: bool,
    path: &Path<'_>,
    report: &mut Report,
) {
    check_twice(members, path, report);
    for (name, value) in members {
        match keys.iter().find(|key| key.name == name) {
            Some(key) => check(value, &key.shape, &path.key(name), report),
            None if is_closed => report.error(path.key(name), unknown(name, keys)),
            None => {}
        }
    }
    for key in keys {
        if matches!(key.otherwise, Otherwise::Required) && !members.iter().any(|(name, _)| name == key.name) {
            report.error(path.key(key.name), format!("required, but absent. {}", key.help));
        }
    }
}

/// Names the key that was perhaps meant; where none is alike, all of them too.
fn unknown(name: &str, keys: &[Key]) -> String {
    let near = nearest(name, keys.iter().map(|key| key.name)).unwrap_or_default();
    let known = match strsim::normalized_damerau_levenshtein(name, near) {
        0.5.. => String::new(),
        _ => format!(" Known here: {}", keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")),
    };
    format!("unknown key; did you mean {near:?}?{known}")
}

pub fn check_twice(members: &[(Cow<'_, str>, Value<'_>)], path: &Path<'_>, report: &mut Report) {
    let mut seen: HashMap<&str, u32> = HashMap::with_capacity(members.len());
    for (name, _) in members {
        let times = seen.entry(name).or_default();
        *times += 1;
        // Said once, however often it stands there.
        if *times == 2 {
            report.error(path.key(name), "this key stands twice in one object; keep one");
        }
    }
}

/// An object of a document that was checked, read by the description of its keys.
///
/// What [`check`] found wrong reads as absent, so that one error does not hide the next.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    members: &'a [(Cow<'a, str>, Value<'a>)],
    keys: &'static [Key],
    pub path: Path<'a>,
}

impl<'a> Object<'a> {
    /// The whole of a document; anything but an object reads as an empty one.
    pub fn root(value: &'a Value<'a>, keys: &'static [Key]) -> Self {
        Self::new(Some(value), keys, Path::default())
    }

    pub fn new(value: Option<&'a Value<'a>>, keys: &'static [Key], path: Path<'a>) -> Self {
        let members = match value {
            Some(Value::Object(members)) => members.as_slice(),
            _ => &[],
        };
        Self { members, keys, path }
    }

    /// Panics where the description does not have the key: that is a mistake in this program, which any document shows.
    fn key(&self, name: &str) -> &'static Key {
        self.keys.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("no key {name:?} is described"))
    }

    /// Whether the document itself has the key.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    pub fn value(&self, name: &str) -> Option<&'a Value<'a>> {
        self.members.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The key's value, else its default; `None`: neither, or malformed.
    pub fn get<T: Read>(&self, name: &str) -> Option<T> {
        let key = self.key(name);
        match (self.value(name), key.otherwise) {
            (Some(value), _) => {
                let mut faults = Report::new("");
                check(value, &key.shape, &Path::default(), &mut faults);
                T::read(value).filter(|_| faults.errors.is_empty())
            }
            (None, Otherwise::Integer(number)) => T::read(&Value::Integer(number)),
            (None, Otherwise::Bool(value)) => T::read(&Value::Bool(value)),
            (None, Otherwise::Text(text)) => T::read(&Value::Text(Cow::Borrowed(text))),
            (None, Otherwise::Required | Otherwise::Nothing) => None,
        }
    }

    /// The elements of a list that are well formed; an absent list is empty.
    pub fn list<T: Read>(&self, name: &str) -> Vec<T> {
        match (self.value(name), self.key(name).shape) {
            (Some(Value::List(items)), Shape::List { .. }) => items.iter().filter_map(T::read).collect(),
            _ => Vec::new(),
        }
    }

    /// The members under a key that are well formed; an absent object is empty.
    pub fn map<T: Read>(&self, name: &str) -> Vec<(&'a str, T)> {
        match (self.value(name), self.key(name).shape) {
            (Some(Value::Object(members)), Shape::Map(_)) => {
                members.iter().filter_map(|(name, value)| Some((name.as_ref(), T::read(value)?))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The object under a key; an absent one is empty, so its defaults hold.
    pub fn object<'b>(&'b self, name: &'static str) -> Object<'b> {
        match self.key(name).shape {
            Shape::Object(keys) | Shape::Open(keys) => Object::new(self.value(name), keys, self.path.key(name)),
            shape => panic!("{name:?} is described as {shape:?}"),
        }
    }

    /// The objects of the list under a key, in order; an element that is none is an empty one.
    pub fn objects<'b>(&'b self, name: &'static str) -> impl Iterator<Item = Object<'b>> + 'b {
        let keys = match self.key(name).shape {
            Shape::List { of: Shape::Object(keys) | Shape::Open(keys), .. } => *keys,
            shape => panic!("{name:?} is described as {shape:?}"),
        };
        let items: &[Value<'_>] = match self.value(name) {
            Some(Value::List(items)) => items,
            _ => &[],
        };
        items.iter().enumerate().map(move |(index, item)| Object::new(Some(item), keys, self.path.item(name, index)))
    }
}

/// Types that a well-formed value is read as.
pub trait Read: Sized {
    fn read(value: &Value<'_>) -> Option<Self>;
}

impl Read for bool {
    fn read(value: &Value<'_>) -> Option<Self> {
        if let Value::Bool(value) = value { Some(*value) } else { None }
    }
}

macro_rules! read_integers {
    ($($kind:ty)*) => { $(impl Read for $kind {
        fn read(value: &Value<'_>) -> Option<Self> {
            if let Value::Integer(number) = value { Self::try_from(*number).ok() } else { None }
        }
    })* };
}
read_integers! { u8 u16 u32 }

/// Types that are read from a text by `FromStr`.
macro_rules! read_texts {
    ($($kind:ty)*) => { $(impl Read for $kind {
        fn read(value: &Value<'_>) -> Option<Self> {
            if let Value::Text(text) = value { text.parse().ok() } else { None }
        }
    })* };
}
read_texts! { String IpAddr Ipv4Addr Ipv6Addr Mac }

/// Host bits are cleared: `10.0.0.1/8` is `10.0.0.0/8`.
impl Read for IpNet {
    fn read(value: &Value<'_>) -> Option<Self> {
        if let Value::Text(text) = value { text.parse().ok().map(|prefix: Self| prefix.trunc()) } else { None }
    }
}

impl Read for Duration {
    fn read(value: &Value<'_>) -> Option<Self> {
        if let Value::Text(text) = value { duration::parse(text) } else { None }
    }
}

/// Declares an enum whose variants are the names of a [`Shape::Choice`], to be read and written.
macro_rules! choice {
    ($(#[$meta:meta])* $kind:ident { $($(#[$variant_meta:meta])* $variant:ident $name:literal)* }) => {
        $crate::service::shape::read_choice! { $(#[$meta])* $kind { $($(#[$variant_meta])* $variant $name)* } }

        impl $kind {
            /// As documents write it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

/// The same, of those that are only read.
macro_rules! read_choice {
    ($(#[$meta:meta])* $kind:ident { $($(#[$variant_meta:meta])* $variant:ident $name:literal)* }) => {
        $(#[$meta])*
        pub enum $kind { $($(#[$variant_meta])* $variant,)* }

        impl $kind {
            /// As documents write them.
            pub const NAMES: &[&str] = &[$($name),*];

            /// That of this name.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl $crate::service::shape::Read for $kind {
            fn read(value: &$crate::service::tree::Value<'_>) -> Option<Self> {
                match value {
                    $crate::service::tree::Value::Text(text) => Self::named(text),
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use {choice, read_choice};

/// The description as a JSON Schema (draft 2020-12). What a schema cannot say (duplicates, keys that need each other) is
/// left to `penstock check`.
pub fn schema(title: &str, keys: &'static [Key]) -> serde_json::Value {
    let mut schema = shape_schema(&Shape::Object(keys));
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(title);
    schema
}

fn shape_schema(shape: &Shape) -> serde_json::Value {
    match *shape {
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Integer { least, most } => json!({"type": "integer", "minimum": least, "maximum": most}),
        Shape::Prime { least, most } => {
            json!({"type": "integer", "minimum": least, "maximum": most, "description": "A prime."})
        }
        Shape::Text(format) => text_schema(format),
        Shape::Duration { .. } => json!({"type": "string", "pattern": duration::PATTERN, "description": shape.what()}),
        Shape::Choice(names) => json!({"enum": names}),
        Shape::IntegerOr { least, most, format } => {
            json!({"anyOf": [{"type": "integer", "minimum": least, "maximum": most}, text_schema(format)]})
        }
        Shape::List { of, least, most } => {
            let mut schema = json!({"type": "array", "items": shape_schema(of)});
            if least > 0 {
                schema["minItems"] = json!(least);
            }
            if most < usize::MAX {
                schema["maxItems"] = json!(most);
            }
            schema
        }
        Shape::Map(of) => json!({"type": "object", "additionalProperties": shape_schema(of)}),
        Shape::Object(keys) | Shape::Open(keys) => {
            let required: Vec<_> =
                keys.iter().filter(|key| matches!(key.otherwise, Otherwise::Required)).map(|key| key.name).collect();
            let properties: serde_json::Map<_, _> =
                keys.iter().map(|key| (key.name.to_owned(), key_schema(key))).collect();
            let mut schema = json!({"type": "object", "properties": properties});
            if matches!(shape, Shape::Object(_)) {
                schema["additionalProperties"] = json!(false);
            }
            if !required.is_empty() {
                schema["required"] = json!(required);
            }
            schema
        }
    }
}

fn text_schema(format: &Format) -> serde_json::Value {
    match format.pattern {
        "" => json!({"type": "string"}),
        pattern => json!({"type": "string", "pattern": pattern, "description": format.what}),
    }
}

fn key_schema(key: &Key) -> serde_json::Value {
    let mut schema = shape_schema(&key.shape);
    let detail = schema.get("description").and_then(|detail| detail.as_str()).map(|detail| format!(" ({detail})"));
    schema["description"] = json!(format!("{}{}", key.help, detail.unwrap_or_default()));
    match key.otherwise {
        Otherwise::Integer(number) => schema["default"] = json!(number),
        Otherwise::Bool(value) => schema["default"] = json!(value),
        Otherwise::Text(text) => schema["default"] = json!(text),
        Otherwise::Required | Otherwise::Nothing => {}
    }
    schema
}
