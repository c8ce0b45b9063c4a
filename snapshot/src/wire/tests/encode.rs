// SPDX-License-Identifier: Apache-2.0
//! An encoder, the other way round from the reader.

/// A message under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(pub(crate) Vec<u8>);

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

impl Message {
    pub(crate) fn bytes(mut self, number: u32, bytes: &[u8]) -> Self {
        varint(&mut self.0, u64::from(number) << 3 | 2);
        varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(self, number: u32, text: &str) -> Self {
        self.bytes(number, text.as_bytes())
    }

    pub(crate) fn message(self, number: u32, message: Self) -> Self {
        self.bytes(number, &message.0)
    }

    pub(crate) fn int(mut self, number: u32, value: i64) -> Self {
        varint(&mut self.0, u64::from(number) << 3);
        varint(&mut self.0, value.cast_unsigned());
        self
    }

    pub(crate) fn fixed64(mut self, number: u32) -> Self {
        varint(&mut self.0, u64::from(number) << 3 | 1);
        self.0.extend_from_slice(&[7; 8]);
        self
    }

    pub(crate) fn fixed32(mut self, number: u32) -> Self {
        varint(&mut self.0, u64::from(number) << 3 | 5);
        self.0.extend_from_slice(&[7; 4]);
        self
    }

    /// An entry of a map of texts.
    pub(crate) fn entry(self, number: u32, key: &str, value: &str) -> Self {
        self.message(number, Self::default().text(1, key).text(2, value))
    }

    /// In an envelope.
    pub(crate) fn enveloped(&self, kind: &str) -> Vec<u8> {
        let types = Self::default().text(1, "v1").text(2, kind);
        let unknown = Self::default()
            .message(1, types)
            .bytes(2, &self.0)
            .text(3, "")
            .text(4, "");
        [b"k8s\0", &*unknown.0].concat()
    }
}

pub(crate) fn message() -> Message {
    Message::default()
}

/// A watch event.
pub(crate) fn event(type_: &str, object: &[u8]) -> Vec<u8> {
    message().text(1, type_).message(2, message().bytes(1, object)).0
}

/// With its length in front.
pub(crate) fn framed(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
    [&length, frame].concat()
}

/// Metadata as the API server writes it: everything that has no pointer in Go is there.
pub(crate) fn meta(name: &str) -> Message {
    message()
        .text(1, name)
        .text(2, "")
        .text(3, "shop")
        .text(4, "")
        .text(5, "3e25960a-79db-4b9d-8a2d-5d4f2ac6c4d8")
        .text(6, "77")
        .int(7, 0)
        .message(8, message().int(1, 1_767_225_600).int(2, 0))
        .entry(11, "app", "web")
        .entry(12, "note", "x")
        .message(17, message().text(1, "kubectl").bytes(7, &[0xff; 300]))
}
