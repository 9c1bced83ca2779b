//! A document as a tree of plain values, from JSON or TOML alike (and from YAML, by [`super::yaml`]).
//!
//! An object keeps its members as they were written, so a key that stands twice is seen (by [`super::shape`], which
//! knows the place) instead of the last one silently winning. Nothing here panics on any bytes; the parsers themselves
//! bound how deeply values nest.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::problem::Errors;

/// A value of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number that is no 64-bit integer.
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    /// In the order of the document; a key may stand twice.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl Value<'_> {
    /// What the value is, for messages: `text "80"`, `an object`.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(text) => quote(text),
            Self::List(_) => "a list".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        }
    }
}

/// `text` in quotes, cut where it is long: a message is for a person.
pub fn quote(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Reads a JSON document (RFC 8259).
pub fn json<'a>(bytes: &'a [u8], file: &str) -> Result<Value<'a>, Errors> {
    let text = text(bytes, file, "JSON")?;
    serde_json::from_str(text).map_err(|error| {
        // serde_json ends its message with the place; here the place comes first.
        let (message, place) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
        let message = message.strip_suffix(&place).unwrap_or(&message);
        Errors::whole(file, format!("line {}, column {}: not JSON: {message}", error.line(), error.column()))
    })
}

/// Reads a TOML document (v1.1).
pub fn toml<'a>(bytes: &'a [u8], file: &str) -> Result<Value<'a>, Errors> {
    let text = text(bytes, file, "TOML")?;
    let parsed = ::toml::Deserializer::parse(text).and_then(Value::deserialize);
    parsed.map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = &text.as_bytes()[..at];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let column = at - before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1) + 1;
        let message = error.message().replace('\n', ", ");
        Errors::whole(file, format!("line {line}, column {column}: not TOML: {message}"))
    })
}

/// The bytes as text: UTF-8, with something in it.
pub(super) fn text<'a>(bytes: &'a [u8], file: &str, kind: &str) -> Result<&'a str, Errors> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes); // a byte order mark, as some editors write
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Errors::whole(file, format!("line {line}: not UTF-8 text (byte {}), so not {kind}", error.valid_up_to()))
    })?;
    if kind == "JSON" && text.trim().is_empty() {
        return Err(Errors::whole(file, "the file is empty; no services at all are written {\"services\": []}"));
    }
    Ok(text)
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build)
    }
}

/// The same as [`Cow`], but borrowing where the text stands in the document as it is.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BuildText;
        impl<'de> Visitor<'de> for BuildText {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(BuildText)
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(members) => serializer.collect_map(members.iter().map(|(key, value)| (key, value))),
        }
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Value::Integer(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Value::Float(value))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut object = Vec::new();
        while let Some((Text(key), value)) = members.next_entry()? {
            object.push((key, value));
        }
        Ok(Value::Object(object))
    }
}
