// SPDX-License-Identifier: Apache-2.0
//! Messages of protocol buffers, written: the counterpart of `field`.

/// A message on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// The bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        loop {
            let [low, ..] = (value & 0x7f).to_le_bytes();
            value >>= 7;
            if value == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    fn tag(&mut self, number: u32, wire_type: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire_type));
    }

    /// Bytes, even if there are none.
    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.tag(number, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A text that is a pointer in Go: written if it is given, even if empty.
    pub(super) fn given(&mut self, number: u32, text: Option<&String>) {
        if let Some(text) = text {
            self.bytes(number, text.as_bytes());
        }
    }

    /// A text whose absence and emptiness are one.
    pub(super) fn filled<'a>(&mut self, number: u32, text: impl Into<Option<&'a String>>) {
        self.given(number, text.into().filter(|text| !text.is_empty()));
    }

    /// A number; negative ones take ten bytes, as two's complement of 64 bits.
    pub(super) fn int(&mut self, number: u32, value: i64) {
        self.tag(number, 0);
        self.varint(value.cast_unsigned());
    }

    /// A truth value that is a pointer in Go.
    pub(super) fn bool(&mut self, number: u32, value: Option<bool>) {
        if let Some(value) = value {
            self.int(number, value.into());
        }
    }

    /// A message within this one.
    pub(super) fn nested(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// Entries of a `map<string, string>`, in order.
    pub(super) fn map<'a>(&mut self, number: u32, map: impl IntoIterator<Item = (&'a String, &'a String)>) {
        for (key, value) in map {
            self.nested(number, |entry| {
                entry.bytes(1, key.as_bytes());
                entry.bytes(2, value.as_bytes());
            });
        }
    }

    /// One message for each element of a list.
    pub(super) fn each<T>(&mut self, number: u32, list: Option<&Vec<T>>, write: impl Fn(&mut Self, &T)) {
        for element in list.into_iter().flatten() {
            self.nested(number, |inner| write(inner, element));
        }
    }
}
