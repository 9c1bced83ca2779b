//! YAML (1.2, core schema) to the same plain values as JSON.
//!
//! The parser gives events and resolves nothing; here they become values. Documents come from elsewhere, so what could be made to
//! grow is bounded: how deeply values nest, and how much aliases may copy ("a billion laughs" is ten lines).

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use super::problem::Errors;
use super::tree::{self, Value};

/// How deeply values nest at most; serde_json has the same bound.
const DEEPEST: usize = 128;

/// Values that all aliases of a stream may copy together. Nothing of Kubernetes writes any.
const MOST_COPIED: usize = 100_000;

/// The documents of a stream, those without content left out.
pub fn stream<'a>(bytes: &'a [u8], file: &str) -> Result<Vec<Value<'a>>, Errors> {
    let text = tree::text(bytes, file, "YAML")?;
    let mut composer = Composer { parser: Parser::new_from_str(text), anchors: HashMap::new(), copied: 0 };
    let mut documents = Vec::new();
    loop {
        match composer.next() {
            Ok((Event::StreamEnd, _)) => return Ok(documents),
            Ok((Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _)) => {}
            Ok((event, span)) => match composer.value(event, span, 0) {
                Ok(Value::Null) => {}
                Ok(value) => documents.push(value),
                Err(fault) => return Err(fault.error(file)),
            },
            Err(fault) => return Err(fault.error(file)),
        }
    }
}

/// What is wrong with a stream, and where.
struct Fault {
    line: usize,
    column: usize,
    reason: String,
}

impl Fault {
    fn new(at: &Marker, reason: impl Into<String>) -> Self {
        Self { line: at.line(), column: at.col() + 1, reason: reason.into() }
    }

    fn error(self, file: &str) -> Errors {
        Errors::whole(file, format!("line {}, column {}: not YAML: {}", self.line, self.column, self.reason))
    }
}

struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Value<'a>>,
    /// Values that aliases have copied.
    copied: usize,
}

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Fault::new(error.marker(), error.info())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The value that begins with this event.
    fn value(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Value<'a>, Fault> {
        if depth == DEEPEST {
            return Err(Fault::new(&span.start, format!("values nest more than {DEEPEST} deep")));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(text, style, tag.as_deref()), anchor),
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.value(event, span, depth + 1)?),
                    }
                }
                (Value::List(items), anchor)
            }
            Event::MappingStart(anchor, _) => {
                let mut members = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, _) => break,
                        (Event::Scalar(key, ScalarStyle::Plain, ..), span) if key == "<<" => {
                            return Err(Fault::new(
                                &span.start,
                                "merge keys (<<) are not taken; write the members out",
                            ));
                        }
                        (Event::Scalar(key, ..), _) => key,
                        (_, span) => return Err(Fault::new(&span.start, "a key that is no text")),
                    };
                    let (event, span) = self.next()?;
                    members.push((key, self.value(event, span, depth + 1)?));
                }
                (Value::Object(members), anchor)
            }
            Event::Alias(anchor) => return self.copy(anchor, span),
            _ => return Err(Fault::new(&span.start, "a value is missing")),
        };
        // Numbers of anchors begin at 1.
        if anchor > 0 {
            self.charge(&value, span)?;
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn copy(&mut self, anchor: usize, span: Span) -> Result<Value<'a>, Fault> {
        let Some(value) = self.anchors.get(&anchor).cloned() else {
            return Err(Fault::new(&span.start, "an alias within what it stands for"));
        };
        self.charge(&value, span)?;
        Ok(value)
    }

    fn charge(&mut self, value: &Value<'_>, span: Span) -> Result<(), Fault> {
        self.copied += size(value);
        if self.copied > MOST_COPIED {
            return Err(Fault::new(&span.start, format!("aliases stand for more than {MOST_COPIED} values")));
        }
        Ok(())
    }
}

fn size(value: &Value<'_>) -> usize {
    1 + match value {
        Value::List(items) => items.iter().map(size).sum(),
        Value::Object(members) => members.iter().map(|(_, value)| size(value)).sum(),
        _ => 0,
    }
}

/// A scalar by the core schema (YAML 1.2.2, 10.3.2); what is quoted or tagged `!!str` is text.
fn scalar<'a>(text: Cow<'a, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value<'a> {
    let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    if is_text || style != ScalarStyle::Plain {
        return Value::Text(text);
    }
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = |text: &str, base| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| (byte as char).is_digit(base));
        is_number.then(|| i64::from_str_radix(text, base).ok()).flatten()
    };
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let is_decimal = !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit());
    let integer = if let Some(octal) = text.strip_prefix("0o") {
        digits(octal, 8)
    } else if let Some(hexadecimal) = text.strip_prefix("0x") {
        digits(hexadecimal, 16)
    } else {
        text.parse().ok().filter(|_| is_decimal)
    };
    if let Some(integer) = integer {
        return Value::Integer(integer);
    }
    // Rust reads more as a float than YAML does ("inf", "nan"), so the letters are looked at first.
    let is_float = unsigned.starts_with(|letter: char| letter.is_ascii_digit() || letter == '.')
        && unsigned.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    match text.parse() {
        Ok(number) if is_float => Value::Float(number),
        _ => Value::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Value<'_> {
        let documents = stream(text.as_bytes(), "f").unwrap_or_else(|errors| panic!("{errors}"));
        <[_; 1]>::try_from(documents).unwrap().into_iter().next().unwrap()
    }

    fn fault(text: &str) -> String {
        stream(text.as_bytes(), "f").unwrap_err().to_string()
    }

    #[test]
    fn scalars_are_those_of_the_core_schema() {
        let plain = "[80, -7, +7, 0x1f, 0o17, 0644, 1.5, 1e3, true, False, ~, null, yes, 10.0.0.1, 1.2.3, \"80\", '80', !!str 80, 100000000000000000000]";
        let texts = |text: &'static str| Value::Text(text.into());
        let Value::List(items) = one(plain) else { panic!("a list") };
        let expected = [
            Value::Integer(80),
            Value::Integer(-7),
            Value::Integer(7),
            Value::Integer(31),
            Value::Integer(15),
            Value::Integer(644),
            Value::Float(1.5),
            Value::Float(1000.0),
            Value::Bool(true),
            Value::Bool(false),
            Value::Null,
            Value::Null,
        ];
        assert_eq!(items[..12], expected);
        let rest = ["yes", "10.0.0.1", "1.2.3", "80", "80", "80"].map(texts);
        assert_eq!(items[12..items.len() - 1], rest);
        assert_eq!(items.last(), Some(&Value::Float(1e20)));
    }

    #[test]
    fn documents_without_content_are_left_out() {
        let documents = stream(b"# nothing\n---\na: 1\n---\n---\n- 2\n...\n", "f").unwrap();
        assert_eq!(documents, [one("a: 1"), one("- 2")]);
    }

    #[test]
    fn an_alias_is_a_copy() {
        assert_eq!(one("a: &x {b: [1, 2]}\nc: *x"), one("a: {b: [1, 2]}\nc: {b: [1, 2]}"));
    }

    #[test]
    fn a_billion_laughs_are_refused() {
        let line = |level: u32| format!("l{level}: &l{level} [{}]\n", vec![format!("*l{}", level - 1); 10].join(", "));
        let bomb = "l0: &l0 [lol]\n".to_owned() + &(1..10).map(line).collect::<String>();
        assert_eq!(fault(&bomb), "f: line 6, column 20: not YAML: aliases stand for more than 100000 values");
    }

    #[test]
    fn what_is_refused_and_where() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for (text, expected) in [
            (deep.as_str(), "f: line 1, column 129: not YAML: values nest more than 128 deep"),
            ("a: &x [*x]", "f: line 1, column 8: not YAML: an alias within what it stands for"),
            (
                "a: &x {b: 1}\nc:\n  <<: *x",
                "f: line 3, column 3: not YAML: merge keys (<<) are not taken; write the members out",
            ),
            ("[1]: 2", "f: line 1, column 1: not YAML: a key that is no text"),
        ] {
            assert_eq!(fault(text), expected);
        }
    }
}
