//! Documents and what is said about them.

mod broken;
mod good;
pub mod random;

use serde_json::{Value, json};

use super::{Definitions, Errors, Warning, kubernetes};

/// Reads a document, whatever its shape.
fn read(
    document: impl AsRef<[u8]>,
    file: &str,
    previous: Option<&Definitions>,
) -> Result<(Definitions, Vec<Warning>), Errors> {
    let reading = super::read(document, file, previous, &kubernetes::Options::default())?;
    Ok((reading.definitions, reading.warnings))
}

/// A document of one service, `web`, with some keys set otherwise; `null` leaves a key out.
fn web(changes: &str) -> String {
    json!({"services": [service(changes)]}).to_string()
}

/// The service of [`web`]: a good one, but for the changes.
fn service(changes: &str) -> Value {
    let mut service = json!({
        "name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "ipip",
        "backends": [{"address": "10.1.0.11"}],
    });
    let changes: Value = serde_json::from_str(&format!("{{{changes}}}")).expect("the changes are JSON");
    for (key, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => drop(service.as_object_mut().expect("an object").remove(key)),
            value => service[key] = value.clone(),
        }
    }
    service
}

/// A document of several services, each [`web`] with changes.
fn several(changes: &[&str]) -> String {
    json!({"services": changes.iter().map(|changes| service(changes)).collect::<Vec<_>>()}).to_string()
}

/// Every document of the tests, good and bad, for the test that the JSON Schema says the same.
pub(crate) fn documents() -> Vec<Vec<u8>> {
    broken::cases().into_iter().map(|(document, _)| document).chain(good::documents()).collect()
}
