//! Compressed blobs become contents as they come, in bounded memory.
//!
//! In: the bytes of one zstd frame (RFC 8878), and how many they are. Out: the content, as a [`Read`]er. Nobody has verified
//! the frame, so nothing is believed: a window over 2 MiB, a dictionary, a second frame and bytes beyond that
//! length are refused; how much comes out is for the reader to bound, and whether it is right for the hash of the
//! content. Failure: the error of the reader of the frame, or `InvalidData`.
//!
//! The decoder is that of the reference implementation, in C: 41 KB where the one in Rust has 86 KB, and twice as
//! fast. The kernel unpacks the initramfs with the same code.

use std::io::{self, Read};

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};
use zstrap_formats::packed::WINDOW_LOG;

/// What is asked of a connection at once.
const CHUNK: usize = 64 * 1024;

/// The content of a frame that is on its way.
pub struct Unzstd<R> {
    reader: R,
    context: DCtx<'static>,
    input: Box<[u8]>,
    /// The part of `input` that was not unpacked yet.
    begin: usize,
    end: usize,
    /// How much of the frame has come.
    taken: u64,
    /// How long it is.
    length: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// More is to come out.
    Open,
    /// All has come out.
    Whole,
    /// It is no frame that is taken here.
    Bad,
}

impl<R: Read> Unzstd<R> {
    /// Unpacks the frame of `length` bytes that `reader` gives.
    ///
    /// # Errors
    /// No memory.
    pub fn new(reader: R, length: u64) -> io::Result<Self> {
        let mut context = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(|_| bad())?;
        let input = vec![0; CHUNK].into_boxed_slice();
        Ok(Self { reader, context, input, begin: 0, end: 0, taken: 0, length, state: State::Open })
    }

    fn fail(&mut self) -> io::Error {
        self.state = State::Bad;
        bad()
    }

    /// Takes more of the frame, unless some is at hand. False when there is none.
    fn fill(&mut self) -> io::Result<bool> {
        if self.begin < self.end {
            return Ok(true);
        }
        // At its end one more byte is asked for: its absence lets the connection be used again.
        let left = usize::try_from(self.length - self.taken).unwrap_or(usize::MAX).clamp(1, CHUNK);
        let read = self.reader.read(&mut self.input[..left])?;
        if self.taken == self.length && read > 0 {
            return Err(self.fail());
        }
        self.taken += read as u64;
        (self.begin, self.end) = (0, read);
        Ok(read > 0)
    }

    /// A frame that is shorter or longer than it was to be is another one.
    fn check_end(&mut self) -> io::Result<()> {
        if self.fill()? || self.taken < self.length { Err(self.fail()) } else { Ok(()) }
    }

    /// What comes out of what has come: perhaps nothing yet.
    fn unpack(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut input = InBuffer { src: &self.input[..self.end], pos: self.begin };
        let mut output = OutBuffer::around(out);
        let hint = self.context.decompress_stream(&mut output, &mut input);
        let read = output.pos();
        self.begin = input.pos;
        match hint {
            Ok(0) => self.state = State::Whole,
            Ok(_) => {}
            Err(_) => return Err(self.fail()),
        }
        Ok(read)
    }
}

fn bad() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "compressed blob cannot be unpacked")
}

impl<R: Read> Read for Unzstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !out.is_empty() {
            match self.state {
                State::Bad => return Err(bad()),
                State::Whole => return self.check_end().map(|()| 0),
                State::Open => {}
            }
            // What has come already is unpacked first: the next bytes may be long in coming.
            let read = self.unpack(out)?;
            if read > 0 {
                return Ok(read);
            }
            if self.state == State::Open && !self.fill()? {
                return Err(self.fail());
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::fake;

    /// Longer than a window.
    fn content() -> Vec<u8> {
        fake::half_noise(5 << 20)
    }

    fn frame(content: &[u8], window_log: u32) -> Vec<u8> {
        let mut packed = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        packed.window_log(window_log).unwrap();
        io::Write::write_all(&mut packed, content).unwrap();
        packed.finish().unwrap()
    }

    fn unzstd(bytes: &[u8], length: usize) -> Unzstd<&[u8]> {
        Unzstd::new(bytes, length as u64).unwrap()
    }

    fn refused(bytes: &[u8], length: usize) {
        let mut unzstd = unzstd(bytes, length);
        let error = io::copy(&mut unzstd, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(unzstd.read(&mut [0]).is_err());
    }

    #[test]
    fn what_was_packed_comes_out() {
        for content in [content(), b"x".to_vec(), Vec::new(), vec![0; 10 << 20]] {
            let packed = frame(&content, WINDOW_LOG);
            let (mut unzstd, mut found) = (unzstd(&packed, packed.len()), Vec::new());
            unzstd.read_to_end(&mut found).unwrap();
            assert!(found == content);
        }
    }

    #[test]
    fn an_error_of_the_reader_is_handed_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let packed = frame(&content(), WINDOW_LOG);
        let mut unzstd = Unzstd::new(packed[..100_001].chain(Broken), packed.len() as u64).unwrap();
        let mut found = Vec::new();
        assert_eq!(unzstd.read_to_end(&mut found).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        // What came before it has come out.
        assert!(found.len() > 100_000 && content().starts_with(&found));
    }

    #[test]
    fn refuses_what_is_no_frame_or_more_than_one() {
        let packed = frame(&content(), WINDOW_LOG);
        refused(b"<html>log in</html>", 19);
        let twice = packed.repeat(2);
        refused(&twice, twice.len());
        refused(&twice, packed.len());
        let skippable = b"\x50\x2a\x4d\x18\x01\0\0\0x";
        refused(&[&skippable[..], &packed].concat(), skippable.len() + packed.len());
        refused(&packed, packed.len() + 1);
        refused(&packed[..packed.len() - 1], packed.len() - 1);
        let mut damaged = packed.clone();
        damaged[2] ^= 1;
        refused(&damaged, damaged.len());
    }

    #[test]
    fn refuses_a_window_beyond_the_bound() {
        let packed = frame(&content(), WINDOW_LOG + 1);
        refused(&packed, packed.len());
    }

    #[test]
    fn a_frame_that_never_gives_a_byte_ends_with_its_length() {
        // A header, and then nothing but empty blocks that are not the last.
        let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
        bomb.extend([0, 0, 0].repeat(100_000));
        refused(&bomb, bomb.len());
    }

    #[test]
    fn a_bomb_gives_no_more_than_is_asked_for() {
        let packed = frame(&vec![0; 100 << 20], WINDOW_LOG);
        let mut unzstd = unzstd(&packed, packed.len());
        let mut found = Vec::new();
        (&mut unzstd).take(1000).read_to_end(&mut found).unwrap();
        assert_eq!(found.len(), 1000);
        assert!(unzstd.taken <= CHUNK as u64);
    }
}
