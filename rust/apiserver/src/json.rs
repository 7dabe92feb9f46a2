//! Writing of JSON by the rules of Go's `encoding/json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::error::Fault;

/// A value of JSON.
pub(crate) trait Value {
    /// Appends the text of the value.
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault>;

    /// Whether Go leaves it out where a field says `omitempty`.
    fn is_empty(&self) -> bool {
        false
    }
}

/// An object that is being written.
pub(crate) struct Object<'a> {
    text: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Object<'a> {
    pub(crate) fn new(text: &'a mut Vec<u8>) -> Self {
        Self { text, separator: b'{' }
    }

    /// A field that is always there.
    pub(crate) fn field(
        mut self,
        name: &'static str,
        value: &(impl Value + ?Sized),
    ) -> Written<'a> {
        self.name(name);
        value.write(self.text).map_err(|fault| fault.within(name))?;
        Ok(self)
    }

    /// A field that is there unless it is empty.
    pub(crate) fn filled(self, name: &'static str, value: &(impl Value + ?Sized)) -> Written<'a> {
        if value.is_empty() { Ok(self) } else { self.field(name, value) }
    }

    /// A field that is there where it is set, empty or not.
    pub(crate) fn optional(self, name: &'static str, value: Option<&impl Value>) -> Written<'a> {
        match value {
            Some(value) => self.field(name, value),
            None => Ok(self),
        }
    }

    /// A field that is a message in Go, not a pointer: empty where the wire has none.
    pub(crate) fn message<M: Value + Default>(
        self,
        name: &'static str,
        value: Option<&M>,
    ) -> Written<'a> {
        match value {
            Some(value) => self.field(name, value),
            None => self.field(name, &M::default()),
        }
    }

    /// An array of messages, unless it is empty. Each is decoded here.
    pub(crate) fn each<M: Message + Value + Default>(
        mut self,
        name: &'static str,
        messages: &[Bytes],
    ) -> Written<'a> {
        if messages.is_empty() {
            return Ok(self);
        }
        self.name(name);
        let mut separator = b'[';
        for (index, bytes) in messages.iter().enumerate() {
            self.text.push(separator);
            separator = b',';
            M::decode(bytes.clone())
                .map_err(Fault::from)
                .and_then(|message| message.write(self.text))
                .map_err(|fault| fault.within(&format!("[{index}]")).within(name))?;
        }
        self.text.push(b']');
        Ok(self)
    }

    pub(crate) fn end(self) -> Result<(), Fault> {
        if self.separator == b'{' {
            self.text.push(b'{');
        }
        self.text.push(b'}');
        Ok(())
    }

    fn separate(&mut self) {
        self.text.push(self.separator);
        self.separator = b',';
    }

    /// Names of fields have nothing to escape.
    fn name(&mut self, name: &'static str) {
        self.separate();
        self.text.push(b'"');
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\":");
    }
}

/// The object after a field, for the next one.
pub(crate) type Written<'a> = Result<Object<'a>, Fault>;

impl Value for str {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        write_text(self, text);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Value for String {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        self.as_str().write(text)
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

/// A text that stayed a slice of the answer, which spares a copy of each.
impl Value for Bytes {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        let value = std::str::from_utf8(self).map_err(|_| Fault::new("it is not UTF-8"))?;
        value.write(text)
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Value for i64 {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        text.extend_from_slice(self.to_string().as_bytes());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        *self == 0
    }
}

impl Value for i32 {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        i64::from(*self).write(text)
    }

    fn is_empty(&self) -> bool {
        *self == 0
    }
}

impl Value for bool {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        text.extend_from_slice(if *self { b"true" } else { b"false" });
        Ok(())
    }

    fn is_empty(&self) -> bool {
        !self
    }
}

/// An array of texts.
impl Value for Vec<Bytes> {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        text.push(b'[');
        for (index, entry) in self.iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            entry.write(text).map_err(|fault| fault.within(&format!("[{index}]")))?;
        }
        text.push(b']');
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Value for BTreeMap<String, String> {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        let mut object = Object::new(text);
        for (name, value) in self {
            object.separate();
            write_text(name, object.text);
            object.text.push(b':');
            write_text(value, object.text);
        }
        object.end()
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

fn write_text(value: &str, text: &mut Vec<u8>) {
    text.push(b'"');
    let mut rest = value.as_bytes();
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    // Without an early end this takes a dozen bytes at once, and few texts have anything special.
    let is_plain = !rest.iter().fold(false, |special, byte| special | is_special(byte));
    while !is_plain && let Some(place) = rest.iter().position(is_special) {
        text.extend_from_slice(&rest[..place]);
        let byte = rest[place];
        if byte < 0x20 {
            text.extend_from_slice(b"\\u00");
            text.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[digit as usize]));
        } else {
            text.extend([b'\\', byte]);
        }
        rest = &rest[place + 1..];
    }
    text.extend_from_slice(rest);
    text.push(b'"');
}
