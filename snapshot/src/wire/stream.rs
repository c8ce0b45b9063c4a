// SPDX-License-Identifier: Apache-2.0
//! Bodies that are read as they come: a watch's, cut into frames, and a list's, cut into its objects.

use std::ops::Range;

use super::envelope::{MAGIC, Object, identify, kind_of};
use super::field::{FieldHead, Fields, Malformed};

/// A request's body may have 3 MiB (apiserver, `MaxRequestBodyBytes`) and an object is never larger.
const LONGEST_FRAME: usize = 32 << 20;
/// Kept between frames; a single large object does not hold its memory for the life of the watch.
const KEPT_BUFFER: usize = 64 << 10;

/// What has come and is not used yet.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            if self.bytes.capacity() > KEPT_BUFFER {
                self.bytes = Vec::with_capacity(KEPT_BUFFER);
            }
        } else {
            self.bytes.drain(..self.start);
        }
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Uses up what is `skipped` and the `length` bytes behind it, if all of them are there: yields where those are.
    fn take(&mut self, skipped: usize, length: usize) -> Option<Range<usize>> {
        let start = self.start + skipped;
        let end = start.checked_add(length)?;
        if end > self.bytes.len() {
            return None;
        }
        self.start = end;
        Some(start..end)
    }

    fn get(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

/// Cuts the body of a watch into frames: four bytes of length, big-endian, and a watch event.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Buffer,
}

impl Frames {
    /// Adds what came next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.push(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// A length that no object has: the stream is not one of frames.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let Some(length) = self.buffer.rest().first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST_FRAME {
            return Err(Malformed::FrameLength(length));
        }
        let frame = self.buffer.take(4, length);
        Ok(frame.map(|range| self.buffer.get(range)))
    }

    /// Whether a frame has begun whose end is missing.
    pub fn is_within_frame(&self) -> bool {
        !self.buffer.rest().is_empty()
    }
}

/// Where in a list's body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Magic,
    /// Among the fields of the `runtime.Unknown`; whether the kind was there, and the right one.
    Envelope(bool),
    /// Among the fields of the list itself, of which so many bytes are left.
    Within(usize),
    /// What may follow says nothing of the list.
    Over,
}

/// Cuts the body of a list, or of one page of it, into its objects, and never has more of it than one of them.
#[derive(Debug)]
pub struct List {
    kind: &'static str,
    buffer: Buffer,
    stage: Stage,
    version: String,
    next: String,
}

impl List {
    /// The body of a list of `kind`.
    pub fn of(kind: &'static str) -> Self {
        Self {
            kind,
            buffer: Buffer::default(),
            stage: Stage::Magic,
            version: String::new(),
            next: String::new(),
        }
    }

    /// Adds what came next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.push(bytes);
    }

    /// The next object, if it is there.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub fn next_object(&mut self) -> Result<Option<Object<'_>>, Malformed> {
        match self.next_range()? {
            Some(range) => identify(self.buffer.get(range)).map(Some),
            None => Ok(None),
        }
    }

    /// Of a list that has come to its end: its resource version, and where the next page starts, which is empty on the last.
    pub fn ended(&self) -> Option<(&str, &str)> {
        (self.stage == Stage::Over).then_some((&self.version, &self.next))
    }

    fn next_range(&mut self) -> Result<Option<Range<usize>>, Malformed> {
        loop {
            match self.stage {
                Stage::Over => return Ok(None),
                Stage::Within(0) => self.stage = Stage::Over,
                Stage::Magic => {
                    let Some(magic) = self.buffer.take(0, MAGIC.len()) else {
                        return Ok(None);
                    };
                    if self.buffer.get(magic) != MAGIC {
                        return Err(Malformed::Magic);
                    }
                    self.stage = Stage::Envelope(false);
                }
                Stage::Envelope(known) => {
                    let Some(head) = FieldHead::of(self.buffer.rest())? else {
                        return Ok(None);
                    };
                    if head.number == 2 {
                        if !known {
                            let found = String::new();
                            return Err(Malformed::Kind { found });
                        }
                        self.buffer.take(head.own, 0);
                        self.stage = Stage::Within(head.length);
                        continue;
                    }
                    let Some(field) = self.field(head)? else {
                        return Ok(None);
                    };
                    if head.number == 1 {
                        self.check(field)?;
                        self.stage = Stage::Envelope(true);
                    }
                }
                Stage::Within(left) => {
                    let Some(head) = FieldHead::of(self.buffer.rest())? else {
                        return Ok(None);
                    };
                    let size = head.own.saturating_add(head.length);
                    let left = left.checked_sub(size).ok_or(Malformed::Truncated)?;
                    let Some(field) = self.field(head)? else {
                        return Ok(None);
                    };
                    self.stage = Stage::Within(left);
                    match head.number {
                        1 => self.meta(field)?,
                        2 => return Ok(Some(field)),
                        _ => {}
                    }
                }
            }
        }
    }

    /// The bytes of a field that is all there.
    fn field(&mut self, head: FieldHead) -> Result<Option<Range<usize>>, Malformed> {
        if head.length > LONGEST_FRAME {
            return Err(Malformed::FrameLength(head.length));
        }
        Ok(self.buffer.take(head.own, head.length))
    }

    fn check(&self, type_meta: Range<usize>) -> Result<(), Malformed> {
        let found = kind_of(self.buffer.get(type_meta))?;
        if found.strip_suffix("List") == Some(self.kind) {
            return Ok(());
        }
        let found = found.to_owned();
        Err(Malformed::Kind { found })
    }

    fn meta(&mut self, list_meta: Range<usize>) -> Result<(), Malformed> {
        for field in Fields::of(self.buffer.get(list_meta)) {
            let field = field?;
            match field.number {
                2 => self.version = field.string()?,
                3 => self.next = field.string()?,
                _ => {}
            }
        }
        Ok(())
    }
}
