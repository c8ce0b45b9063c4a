// SPDX-License-Identifier: Apache-2.0
//! Reads a gzip stream (RFC 1952) as it comes, member by member, with one decompressor for all of them: the API
//! server makes a member of each watch event, and a decompressor for each would cost more than the event.
//!
//! In: pieces of the stream. Out: what was compressed, as far as it is there. Touches: nothing.

use std::fmt;

use crc32fast::Hasher;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// How far back deflate refers (RFC 1951, section 2).
const WINDOW: usize = 32 * 1024;
/// ID1, ID2 and the one compression method there is (RFC 1952, section 2.3.1).
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// Of the header: magic, flags, time, extra flags, operating system.
const FIXED: usize = 10;
/// CRC-32 and length, little-endian.
const TRAILER: usize = 8;

/// What a header's flags announce, in the order in which it follows (RFC 1952, section 2.3.1); FTEXT announces nothing.
const HEADER_CRC: u8 = 0b10;
const EXTRA: u8 = 0b100;
const NAME: u8 = 0b1000;
const COMMENT: u8 = 0b1_0000;
/// Must be zero: what they announce, no reader knows.
const RESERVED: u8 = 0b1110_0000;

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Corrupt {
    /// What should begin a member does not.
    Header,
    /// The compressed data make no sense.
    Data,
    /// A member holds something else than what was compressed.
    Checksum,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "no gzip header where one should be",
            Self::Data => "corrupt deflate data",
            Self::Checksum => "the checksum is another",
        })
    }
}

/// What comes next.
#[derive(Debug)]
enum Part {
    /// So many bytes of the header's fixed part, kept.
    Fixed([u8; FIXED], usize),
    /// The extra field's length, of which the low byte may be there; and what the flags still announce.
    ExtraLength(Option<u8>, u8),
    /// So many bytes of no interest, and what the flags still announce.
    Skip(u16, u8),
    /// A text that ends with a zero byte, and what the flags still announce.
    Text(u8),
    Data,
    Trailer([u8; TRAILER], usize),
}

const START: Part = Part::Fixed([0; FIXED], 0);

/// The reader.
pub(super) struct Gunzip {
    part: Part,
    machine: Box<DecompressorOxide>,
    /// The last that came out; what comes next is written over the oldest.
    window: Box<[u8]>,
    at: usize,
    crc: Hasher,
    /// Modulo 2^32, as in the trailer.
    length: u32,
}

impl Default for Gunzip {
    fn default() -> Self {
        Self {
            part: START,
            machine: Box::default(),
            window: vec![0; WINDOW].into_boxed_slice(),
            at: 0,
            crc: Hasher::new(),
            length: 0,
        }
    }
}

impl fmt::Debug for Gunzip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gunzip")
            .field("part", &self.part)
            .finish_non_exhaustive()
    }
}

impl Gunzip {
    /// Reads on, and gives whatever is there to `sink`, in order. Nothing is held back.
    ///
    /// # Errors
    /// The stream is corrupt; the reader is of no use any more.
    pub(super) fn push(&mut self, mut input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<(), Corrupt> {
        loop {
            if matches!(self.part, Part::Data) {
                // Also with nothing left to read: the end of a member may have been seen already.
                if !self.inflate(&mut input, &mut sink)? {
                    return Ok(());
                }
            } else {
                let Some((&byte, rest)) = input.split_first() else {
                    return Ok(());
                };
                input = rest;
                self.byte(byte)?;
            }
        }
    }

    /// Yields whether the member's data have ended.
    fn inflate(&mut self, input: &mut &[u8], sink: &mut impl FnMut(&[u8])) -> Result<bool, Corrupt> {
        loop {
            let (status, read, written) = decompress(
                &mut self.machine,
                input,
                &mut self.window,
                self.at,
                TINFL_FLAG_HAS_MORE_INPUT,
            );
            *input = input.get(read..).unwrap_or_default();
            let fresh = self.window.get(self.at..self.at + written);
            let fresh = fresh.ok_or(Corrupt::Data)?;
            if !fresh.is_empty() {
                self.crc.update(fresh);
                self.length = self
                    .length
                    .wrapping_add(u32::try_from(written).unwrap_or_default());
                sink(fresh);
            }
            self.at = (self.at + written) % WINDOW;
            if status == TINFLStatus::Done {
                self.part = Part::Trailer([0; TRAILER], 0);
                return Ok(true);
            }
            if status == TINFLStatus::NeedsMoreInput {
                return Ok(false);
            }
            if status != TINFLStatus::HasMoreOutput {
                return Err(Corrupt::Data);
            }
        }
    }

    /// One byte of what is not compressed.
    fn byte(&mut self, byte: u8) -> Result<(), Corrupt> {
        match &mut self.part {
            Part::Fixed(header, filled) => {
                header[*filled] = byte;
                *filled += 1;
                if MAGIC.get(*filled - 1).is_some_and(|wanted| *wanted != byte) {
                    return Err(Corrupt::Header);
                }
                if *filled == FIXED {
                    let flags = header[MAGIC.len()];
                    if flags & RESERVED != 0 {
                        return Err(Corrupt::Header);
                    }
                    self.announced(flags);
                }
            }
            Part::ExtraLength(low, flags) => match *low {
                None => *low = Some(byte),
                Some(low) => {
                    let flags = *flags;
                    self.skip(u16::from_le_bytes([low, byte]), flags);
                }
            },
            Part::Skip(left, flags) => {
                let (left, flags) = (*left, *flags);
                self.skip(left - 1, flags);
            }
            Part::Text(flags) => {
                if byte == 0 {
                    let flags = *flags;
                    self.announced(flags);
                }
            }
            Part::Trailer(trailer, filled) => {
                trailer[*filled] = byte;
                *filled += 1;
                if *filled == TRAILER {
                    let trailer = *trailer;
                    self.end(trailer)?;
                }
            }
            // Is not read by the byte.
            Part::Data => {}
        }
        Ok(())
    }

    fn skip(&mut self, left: u16, flags: u8) {
        if left == 0 {
            self.announced(flags);
        } else {
            self.part = Part::Skip(left, flags);
        }
    }

    /// Goes on with the first of what the flags announce.
    fn announced(&mut self, flags: u8) {
        self.part = if flags & EXTRA != 0 {
            Part::ExtraLength(None, flags & !EXTRA)
        } else if flags & NAME != 0 {
            Part::Text(flags & !NAME)
        } else if flags & COMMENT != 0 {
            Part::Text(flags & !COMMENT)
        } else if flags & HEADER_CRC != 0 {
            Part::Skip(2, flags & !HEADER_CRC)
        } else {
            self.machine.init();
            self.at = 0;
            self.crc.reset();
            self.length = 0;
            Part::Data
        };
    }

    fn end(&mut self, trailer: [u8; TRAILER]) -> Result<(), Corrupt> {
        let said = u64::from_le_bytes(trailer);
        let found = u64::from(self.length) << 32 | u64::from(self.crc.clone().finalize());
        if said != found {
            return Err(Corrupt::Checksum);
        }
        self.part = START;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use flate2::read::MultiGzDecoder;
    use flate2::{Compression, GzBuilder};
    use proptest::prelude::*;

    use super::*;

    /// All of it, in pieces of so many bytes.
    fn read(stream: &[u8], size: usize) -> Result<Vec<u8>, Corrupt> {
        let mut gunzip = Gunzip::default();
        let mut whole = Vec::new();
        for piece in stream.chunks(size.max(1)) {
            gunzip.push(piece, |bytes| whole.extend_from_slice(bytes))?;
        }
        Ok(whole)
    }

    /// The same, where the stream ends with a member's end. What has come of one that has no end yet was given already, and not
    /// checked.
    fn whole(stream: &[u8], size: usize) -> Option<Vec<u8>> {
        let mut gunzip = Gunzip::default();
        let mut whole = Vec::new();
        for piece in stream.chunks(size.max(1)) {
            gunzip.push(piece, |bytes| whole.extend_from_slice(bytes)).ok()?;
        }
        matches!(gunzip.part, Part::Fixed(_, 0)).then_some(whole)
    }

    fn member(text: &[u8], builder: GzBuilder, level: u32) -> Vec<u8> {
        let mut encoder = builder.write(Vec::new(), Compression::new(level));
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(text: &[u8]) -> Vec<u8> {
        member(text, GzBuilder::new(), 1)
    }

    #[test]
    fn members_are_read_as_they_come_wherever_they_are_cut() {
        let long = b"a frame ".repeat(10_000);
        let stream = [plain(&long), plain(b""), plain(b"another")].concat();
        for size in [1, 2, 7, 100, 40_000, stream.len()] {
            let whole = read(&stream, size);
            assert_eq!(
                whole,
                Ok([&long[..], b"another"].concat()),
                "in pieces of {size} bytes"
            );
        }
    }

    #[test]
    fn nothing_is_held_back() {
        let mut gunzip = Gunzip::default();
        let mut out = Vec::new();
        let mut encoder = GzBuilder::new().write(Vec::new(), Compression::fast());
        encoder.write_all(b"flushed").unwrap();
        encoder.flush().unwrap();
        let flushed = encoder.get_ref().clone();
        gunzip
            .push(&flushed, |bytes| out.extend_from_slice(bytes))
            .unwrap();
        assert_eq!(out, b"flushed", "within a member");
    }

    #[test]
    fn every_field_that_a_header_may_have_is_passed_over() {
        let full = GzBuilder::new()
            .extra(vec![0; 300])
            .filename("services.pb")
            .comment("two\nlines");
        let mut with_crc = plain(b"of the header");
        with_crc[3] |= HEADER_CRC;
        with_crc.splice(FIXED..FIXED, [0xab, 0xcd]);
        let stream = [
            member(b"one ", full, 6),
            member(b"two ", GzBuilder::new().extra(Vec::new()).comment(""), 0),
            with_crc,
        ]
        .concat();
        for size in [1, 3, stream.len()] {
            assert_eq!(read(&stream, size), Ok(b"one two of the header".to_vec()));
        }
    }

    #[test]
    fn damage_that_hides_the_end_of_a_member_leaves_it_without_one() {
        let text = [146, 144, 144, 144, 151, 0, 0, 144, 3, 144, 32, 144, 15, 49];
        let good = plain(&text);
        let mut longer = 0;
        for at in FIXED..good.len() {
            let mut stream = good.clone();
            stream[at] ^= 176;
            // Unused bits at the end of the text mean nothing.
            assert!(whole(&stream, 1).is_none_or(|read| read == text), "byte {at}");
            longer += usize::from(read(&stream, 1).is_ok_and(|read| read.len() >= text.len()));
        }
        assert!(longer > 0, "the trailer is taken for data, at one byte at least");
    }

    #[test]
    fn what_is_corrupt_is_refused_and_says_where() {
        let good = plain(b"certainly compressed");
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        for (stream, corrupt) in [
            (b"certainly not compressed".to_vec(), Corrupt::Header),
            (with(1, 0), Corrupt::Header),
            (with(2, 7), Corrupt::Header),
            (with(3, 0x80), Corrupt::Header),
            // A block of the type that there is not (RFC 1951, section 3.2.3).
            (with(FIXED, 0b111), Corrupt::Data),
            (
                with(good.len() - TRAILER, good[good.len() - TRAILER] ^ 1),
                Corrupt::Checksum,
            ),
            (with(good.len() - 1, 1), Corrupt::Checksum),
            ([good.clone(), b"x".to_vec()].concat(), Corrupt::Header),
        ] {
            assert_eq!(read(&stream, 5), Err(corrupt), "{stream:02x?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_another_reader_makes_of_it(
            texts in prop::collection::vec(prop::collection::vec(0_u8..4, 0..3_000), 1..6),
            level in 0_u32..10,
            size in 1_usize..5_000,
        ) {
            let members = texts.iter().map(|text| member(text, GzBuilder::new(), level));
            let stream = members.collect::<Vec<_>>().concat();
            let mut expected = Vec::new();
            MultiGzDecoder::new(&stream[..]).read_to_end(&mut expected).unwrap();
            prop_assert_eq!(&expected, &texts.concat());
            prop_assert_eq!(read(&stream, size), Ok(expected));
        }

        #[test]
        fn a_damaged_stream_never_yields_a_whole_member_of_other_bytes(
            text in prop::collection::vec(any::<u8>(), 1..2_000),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
            size in 1_usize..500,
        ) {
            let mut stream = plain(&text);
            let at = at.index(stream.len());
            stream[at] ^= flip;
            if let Some(read) = whole(&stream, size) {
                prop_assert_eq!(read, text);
            }
        }
    }
}
