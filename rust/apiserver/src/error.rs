//! An answer that cannot be read, and an object that is refused.

use prost::DecodeError;

/// Why an answer cannot be read as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodingError(pub(crate) String);

/// An object that cannot be read; others of its answer can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, such as "Service".
    pub kind: String,
    /// Empty where the kind has none, or where it cannot be read.
    pub namespace: String,
    /// Empty where it cannot be read.
    pub name: String,
    /// The version of the object; empty where it cannot be read.
    pub resource_version: String,
    /// The field, such as `spec.ports[0].port`; empty when the object as a whole is meant.
    pub path: String,
    /// The fault.
    pub reason: String,
}

/// A fault inside an object, and where it is.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) reason: String,
}

impl Fault {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into() }
    }

    /// The same fault, seen from the message that has it in this field.
    pub(crate) fn within(self, field: &str) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self { path: format!("{field}{joint}{}", self.path), ..self }
    }
}

impl From<DecodeError> for Fault {
    /// The error of `prost` names messages and fields before its reason, in its text alone.
    fn from(error: DecodeError) -> Self {
        let text = error.to_string();
        let mut reason = text.strip_prefix(PREFIX).unwrap_or(&text);
        let mut fields = Vec::new();
        while let Some((place, rest)) = reason.split_once(": ")
            && let Some((_, field)) = place.split_once('.')
        {
            fields.push(json_name(field));
            reason = rest;
        }
        // The innermost one comes first.
        fields.reverse();
        Self { path: fields.join("."), reason: reason.to_owned() }
    }
}

impl From<Fault> for DecodingError {
    fn from(fault: Fault) -> Self {
        let joint = if fault.path.is_empty() { "" } else { ": " };
        Self(format!("{}{joint}{}", fault.path, fault.reason))
    }
}

/// The name that a field of a message has in JSON.
fn json_name(field: &str) -> String {
    let mut words = field.trim_start_matches("r#").split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let word = match word {
            "ip" | "cidr" => word.to_uppercase(),
            "ips" | "cidrs" => format!("{}s", word[..word.len() - 1].to_uppercase()),
            _ => format!("{}{}", word[..1].to_uppercase(), &word[1..]),
        };
        name + &word
    })
}

const PREFIX: &str = "failed to decode Protobuf message: ";
