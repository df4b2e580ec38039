//! The screen of a machine: its text, and pictures of it.
//!
//! In: a [`Vm`] that was made with [`with_screen`](VmBuilder::with_screen). Out: the rows of its VGA text memory, or a PNG.
//! Failure: an error that says what QEMU or the file system refused.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, Crc, write::ZlibEncoder};
use serde_json::json;
use tempfile::TempDir;

use crate::artefacts::patience;
use crate::vm::{Vm, VmBuilder};

/// The VGA text memory: a character and its colours for each cell.
const MEMORY: u64 = 0xb8000;
const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// What the upper half of the VGA's characters are (code page 437).
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";
/// What those are that other tables have control characters for.
const LOWER: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";

impl VmBuilder {
    /// Puts a VGA into the machine.
    #[must_use]
    pub fn with_screen(self) -> Self {
        // The kernel would scroll by moving the beginning of the memory that is shown.
        self.append("no-scroll").arguments(&["-device", "VGA"])
    }
}

impl Vm {
    /// The rows on the screen, without blanks at their ends.
    pub fn screen_text(&mut self) -> Result<Vec<String>> {
        let folder = TempDir::with_prefix("zstrap-screen-").context("making a folder for the screen")?;
        let file = folder.path().join("memory");
        let size = COLUMNS * ROWS * 2;
        self.execute("pmemsave", json!({ "val": MEMORY, "size": size, "filename": file }))?;
        let memory = fs::read(&file).context("reading the text memory")?;
        Ok(memory.chunks(COLUMNS * 2).map(row).collect())
    }

    /// Waits until these texts are on the screen, all at once; returns its rows.
    pub fn wait_screen(&mut self, texts: &[&str], limit: Duration) -> Result<Vec<String>> {
        let limit = patience(limit);
        let deadline = Instant::now() + limit;
        loop {
            let rows = self.screen_text()?;
            let missing = texts.iter().find(|text| !rows.iter().any(|row| row.contains(**text)));
            let Some(missing) = missing else { return Ok(rows) };
            if Instant::now() >= deadline {
                let screen = rows.join("\n");
                return Err(
                    self.failed(&format!("no `{missing}` on the screen within {limit:?}:\n{screen}\n"))
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Keeps a picture of the screen as a PNG.
    pub fn screenshot(&mut self, path: &Path) -> Result<()> {
        let folder = TempDir::with_prefix("zstrap-screen-").context("making a folder for the picture")?;
        let file = folder.path().join("ppm");
        self.execute("screendump", json!({ "filename": file }))?;
        let picture = Picture::parse(&fs::read(&file).context("reading the picture")?)?;
        let mut out = File::create(path).with_context(|| format!("making {}", path.display()))?;
        picture.write_png(&mut out).with_context(|| format!("writing {}", path.display()))
    }
}

fn row(cells: &[u8]) -> String {
    let character = |byte: u8| match byte {
        0..0x20 => LOWER.chars().nth(usize::from(byte)).unwrap_or(' '),
        0x20..0x80 => char::from(byte),
        _ => UPPER.chars().nth(usize::from(byte) - 0x80).unwrap_or(' '),
    };
    let text: String = cells.iter().step_by(2).map(|byte| character(*byte)).collect();
    text.trim_end().to_owned()
}

/// A picture of few colours.
struct Picture {
    width: usize,
    palette: Vec<[u8; 3]>,
    /// A place in the palette for each dot.
    dots: Vec<u8>,
}

impl Picture {
    /// Reads a PPM (P6) as QEMU writes it.
    fn parse(ppm: &[u8]) -> Result<Self> {
        let mut parts = ppm.splitn(4, |byte| *byte == b'\n');
        let mut line = || std::str::from_utf8(parts.next().unwrap_or_default());
        let (kind, size, depth) = (line()?, line()?, line()?);
        ensure!((kind, depth) == ("P6", "255"), "not a PPM of bytes: {kind} {depth}");
        let width = size.split(' ').next().and_then(|width| width.parse().ok());
        let mut picture =
            Self { width: width.context("a PPM without a width")?, palette: Vec::new(), dots: Vec::new() };
        for dot in parts.next().unwrap_or_default().as_chunks::<3>().0 {
            let place = picture.palette.iter().position(|colour| colour == dot).unwrap_or_else(|| {
                picture.palette.push(*dot);
                picture.palette.len() - 1
            });
            picture.dots.push(u8::try_from(place).context("a picture of more than 256 colours")?);
        }
        ensure!(
            picture.palette.len() <= 16,
            "a picture of {} colours, expected a screen of text",
            picture.palette.len()
        );
        Ok(picture)
    }

    /// Four bits a dot, as the PNG specification has them.
    fn write_png(&self, out: &mut impl Write) -> Result<()> {
        let number = |number: usize| u32::try_from(number).map(u32::to_be_bytes);
        let (width, height) = (self.width, self.dots.len() / self.width);
        let header = [&number(width)?[..], &number(height)?, &[4, 3, 0, 0, 0]].concat();
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
        for row in self.dots.chunks(width) {
            let pairs = row.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0));
            packed.write_all(&[0].into_iter().chain(pairs).collect::<Vec<u8>>())?;
        }
        out.write_all(b"\x89PNG\r\n\x1a\n")?;
        let packed = packed.finish()?;
        for (kind, data) in [
            (b"IHDR", &header[..]),
            (b"PLTE", self.palette.as_flattened()),
            (b"IDAT", &packed),
            (b"IEND", &[]),
        ] {
            let mut sum = Crc::new();
            sum.update(kind);
            sum.update(data);
            out.write_all(&[&number(data.len())?[..], kind, data, &sum.sum().to_be_bytes()].concat())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_row_is_the_characters_of_its_cells() {
        assert_eq!(row(b"\x10\x07 \x07a\x07\xdb\x07\xfb\x07 \x07"), "► a█√");
        assert_eq!((LOWER.chars().count(), UPPER.chars().count()), (32, 128));
    }

    #[test]
    fn a_picture_keeps_its_dots() {
        let picture = Picture::parse(b"P6\n3 1\n255\n\x00\x00\x00\xff\x00\x00\x00\x00\x00").unwrap();
        assert_eq!(
            (picture.palette.as_slice(), picture.dots.as_slice()),
            (&[[0; 3], [255, 0, 0]][..], &[0, 1, 0][..])
        );
        let mut png = Vec::new();
        picture.write_png(&mut png).unwrap();
        assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
        assert!(png.ends_with(b"\0\0\0\0IEND\xae\x42\x60\x82"));
    }
}
