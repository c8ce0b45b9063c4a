// SPDX-License-Identifier: Apache-2.0
//! The wire format of protocol buffers (<https://protobuf.dev/programming-guides/encoding/>), read in
//! place: a field that is not asked for costs a look at its length.

use std::fmt;

/// What can be wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It ends within a field.
    Truncated,
    /// A varint of more than ten bytes, or beyond 64 bits.
    Varint,
    /// A tag with field number 0 or beyond 2^29 - 1.
    FieldNumber(u64),
    /// A wire type that does not exist, or a group, which no Kubernetes message has.
    WireType {
        /// The field's number.
        field: u32,
        /// Its wire type.
        wire_type: u8,
    },
    /// A field is not of the type that its message declares.
    Type {
        /// The field's number.
        field: u32,
        /// What it should have been.
        wanted: &'static str,
    },
    /// A text is not UTF-8.
    Utf8 {
        /// The field's number.
        field: u32,
    },
    /// A number or a time beyond what its type holds.
    Range {
        /// The field's number.
        field: u32,
    },
    /// The four bytes that start every Kubernetes object are missing.
    Magic,
    /// Another kind of object than was asked for.
    Kind {
        /// What came.
        found: String,
    },
    /// The object has no name.
    Nameless,
    /// A type of watch event that does not exist.
    EventType(String),
    /// A frame longer than any object can be.
    FrameLength(usize),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("it ends within a field"),
            Self::Varint => f.write_str("a varint is longer than 64 bits"),
            Self::FieldNumber(number) => write!(f, "{number} is no field number"),
            Self::WireType { field, wire_type } => write!(f, "field {field} has wire type {wire_type}"),
            Self::Type { field, wanted } => write!(f, "field {field} is no {wanted}"),
            Self::Utf8 { field } => write!(f, "field {field} is not UTF-8"),
            Self::Range { field } => write!(f, "field {field} is out of range"),
            Self::Magic => f.write_str("it does not start with \"k8s\\0\""),
            Self::Kind { found } => write!(f, "it is of kind {found:?}"),
            Self::Nameless => f.write_str("it has no name"),
            Self::EventType(found) => write!(f, "there is no watch event of type {found:?}"),
            Self::FrameLength(length) => write!(f, "a frame of {length} bytes is longer than any object"),
        }
    }
}

impl std::error::Error for Malformed {}

/// A field's value as it stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Varint(u64),
    /// Fixed-width numbers: no message of ours has them.
    Fixed,
    Bytes(&'a [u8]),
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// Its number.
    pub(super) number: u32,
    value: Value<'a>,
}

impl<'a> Field<'a> {
    /// A text, a message or a map's entry, unread.
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed => Err(self.no("text or message")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8 { field: self.number })
    }

    /// An owned text.
    pub(super) fn string(self) -> Result<String, Malformed> {
        self.text().map(str::to_owned)
    }

    /// A text whose absence and emptiness are one: Go writes such a field always.
    pub(super) fn filled(self) -> Result<Option<String>, Malformed> {
        let text = self.text()?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// A text that may be empty and yet be there: a pointer in Go.
    pub(super) fn given(self) -> Result<Option<String>, Malformed> {
        self.string().map(Some)
    }

    pub(super) fn int64(self) -> Result<i64, Malformed> {
        match self.value {
            Value::Varint(number) => Ok(number.cast_signed()),
            Value::Bytes(_) | Value::Fixed => Err(self.no("number")),
        }
    }

    pub(super) fn int32(self) -> Result<i32, Malformed> {
        i32::try_from(self.int64()?).map_err(|_| self.out_of_range())
    }

    pub(super) fn bool(self) -> Result<bool, Malformed> {
        self.int64().map(|number| number != 0)
    }

    pub(super) fn out_of_range(self) -> Malformed {
        Malformed::Range { field: self.number }
    }

    fn no(self, wanted: &'static str) -> Malformed {
        let field = self.number;
        Malformed::Type { field, wanted }
    }
}

/// The fields of a message, in the order written. Ends after the first fault.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                return Err(Malformed::Varint);
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 {
            Malformed::Truncated
        } else {
            Malformed::Varint
        })
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<Field<'a>, Malformed> {
        let tag = self.varint()?;
        let number = number_of(tag)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            other => return Err(wire_type(number, other)),
        };
        Ok(Field { number, value })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// What stands before the bytes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FieldHead {
    /// The field's number.
    pub(super) number: u32,
    /// Bytes of the tag, and of the length or the number behind it.
    pub(super) own: usize,
    /// Bytes of the value; 0 for a number.
    pub(super) length: usize,
}

impl FieldHead {
    /// Reads it off the start of a message that may not all be there; `None` if the head is not.
    pub(super) fn of(rest: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut fields = Fields::of(rest);
        let mut varint = || match fields.varint() {
            Ok(number) => Ok(Some(number)),
            Err(Malformed::Truncated) => Ok(None),
            Err(other) => Err(other),
        };
        let Some(tag) = varint()? else {
            return Ok(None);
        };
        let number = number_of(tag)?;
        let length = match tag & 7 {
            0 => varint()?.map(|_| 0),
            1 => Some(8),
            2 => varint()?,
            5 => Some(4),
            other => return Err(wire_type(number, other)),
        };
        let Some(length) = length else {
            return Ok(None);
        };
        Ok(Some(Self {
            number,
            own: rest.len() - fields.rest.len(),
            length: usize::try_from(length).map_err(|_| Malformed::Truncated)?,
        }))
    }
}

fn wire_type(field: u32, wire_type: u64) -> Malformed {
    let wire_type = wire_type.to_le_bytes()[0];
    Malformed::WireType { field, wire_type }
}

fn number_of(tag: u64) -> Result<u32, Malformed> {
    u32::try_from(tag >> 3)
        .ok()
        .filter(|number| (1..1 << 29).contains(number))
        .ok_or(Malformed::FieldNumber(tag >> 3))
}

/// An entry of a `map<string, string>`; a missing half is empty.
pub(super) fn entry(bytes: &[u8]) -> Result<(&str, &str), Malformed> {
    let (mut key, mut value) = ("", "");
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => key = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}
