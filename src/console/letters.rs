//! Letters made of blocks, to be read from two metres.
//!
//! In: text. Out: lines of full and half blocks. A letter is three dots wide and five high, few are more or less; what
//! has none is a question mark. Pure: what it looks like is a matter of the page that it stands on.

/// Five rows of three dots, an octal digit each. Small letters are capitals.
const GLYPHS: [(u8, u16); 46] = [
    (b' ', 0o00000),
    (b'A', 0o25755),
    (b'B', 0o65656),
    (b'C', 0o34443),
    (b'D', 0o65556),
    (b'E', 0o74647),
    (b'F', 0o74644),
    (b'G', 0o34553),
    (b'H', 0o55755),
    (b'I', 0o72227),
    (b'J', 0o11152),
    (b'K', 0o55655),
    (b'L', 0o44447),
    (b'O', 0o25552),
    (b'P', 0o65644),
    (b'Q', 0o25573),
    (b'R', 0o65655),
    (b'S', 0o34216),
    (b'T', 0o72222),
    (b'U', 0o55557),
    (b'V', 0o55552),
    (b'W', 0o55775),
    (b'X', 0o55255),
    (b'Y', 0o55222),
    (b'Z', 0o71247),
    (b'0', 0o75557),
    (b'1', 0o26227),
    (b'2', 0o71747),
    (b'3', 0o71717),
    (b'4', 0o55711),
    (b'5', 0o74717),
    (b'6', 0o74757),
    (b'7', 0o71111),
    (b'8', 0o75757),
    (b'9', 0o75717),
    (b'.', 0o00002),
    (b',', 0o00024),
    (b':', 0o02020),
    (b'/', 0o11244),
    (b'%', 0o51245),
    (b'(', 0o24442),
    (b')', 0o21112),
    (b'=', 0o07070),
    (b'\'', 0o22000),
    (b'_', 0o00007),
    (b'+', 0o02720),
];
const UNKNOWN: u16 = 0o71202;
/// Those of another width, and their rows. In three dots an M is an H, and an N a small one; with a short hyphen a code
/// with two M fits a line of 80 columns.
const OTHERS: [(u8, usize, u32); 3] = [
    (b'M', 5, 0b10001_11011_10101_10001_10001),
    (b'N', 4, 0b1001_1101_1011_1001_1001),
    (b'-', 2, 0b00_00_11_00_00),
];
/// Dots of a letter from left to right.
const WIDTH: usize = 3;
/// Rows of dots.
const HEIGHT: usize = 5;

/// How many columns a text takes whose dots are this many columns wide.
#[must_use]
pub fn width(text: &str, dot: usize) -> usize {
    let dots: usize = text.chars().map(|letter| glyph(letter).0 + 1).sum();
    dots.saturating_sub(1) * dot
}

/// The text with dots `2 * size` columns wide and `size` rows high: about square on every console.
#[must_use]
pub fn large(text: &str, size: usize) -> Vec<String> {
    let row = |y: usize| -> String {
        let dots = (0..width(text, 1)).map(|x| if is_set(text, x, y) { "█" } else { " " });
        dots.map(|dot| dot.repeat(2 * size)).collect()
    };
    (0..HEIGHT).flat_map(|y| std::iter::repeat_n(row(y), size)).collect()
}

/// The text with dots one column wide and half a row high: three rows.
#[must_use]
pub fn small(text: &str) -> Vec<String> {
    let cell = |x: usize, y: usize| match (is_set(text, x, y), is_set(text, x, y + 1)) {
        (true, true) => '█',
        (true, false) => '▀',
        (false, true) => '▄',
        (false, false) => ' ',
    };
    (0..HEIGHT).step_by(2).map(|y| (0..width(text, 1)).map(|x| cell(x, y)).collect()).collect()
}

/// How wide a letter is, and its dots.
fn glyph(letter: char) -> (usize, u32) {
    let capital = letter.to_ascii_uppercase();
    if let Some((_, width, dots)) = OTHERS.iter().find(|(ascii, ..)| char::from(*ascii) == capital) {
        return (*width, *dots);
    }
    let known = GLYPHS.iter().find(|(ascii, _)| char::from(*ascii) == capital);
    (WIDTH, known.map_or(UNKNOWN, |(_, dots)| *dots).into())
}

fn is_set(text: &str, mut x: usize, y: usize) -> bool {
    for (width, dots) in text.chars().map(glyph) {
        if x <= width {
            return x < width && y < HEIGHT && dots >> ((HEIGHT - 1 - y) * width + width - 1 - x) & 1 != 0;
        }
        x -= width + 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_can_be_recognized() {
        assert_eq!(
            large("t1", 1),
            ["██████    ██  ", "  ██    ████  ", "  ██      ██  ", "  ██      ██  ", "  ██    ██████"]
        );
        assert_eq!(small("t1"), ["▀█▀ ▄█ ", " █   █ ", " ▀  ▀▀▀"]);
        assert_eq!(large("1", 2).len(), 10);
        assert_eq!(large("1", 2)[0].chars().count(), width("1", 4));
        assert_eq!(small("n1"), ["█▄ █ ▄█ ", "█ ▀█  █ ", "▀  ▀ ▀▀▀"]);
    }

    #[test]
    fn the_m_of_a_code_was_taken_for_an_h() {
        assert_eq!(small("m"), ["█▄ ▄█", "█ ▀ █", "▀   ▀"]);
        // Two columns of a screen are its margin.
        assert!(width("ZS-MEM-01", 2) <= 76);
    }

    #[test]
    fn no_letter_looks_like_another() {
        let mut dots: Vec<u16> = GLYPHS.iter().map(|(_, dots)| *dots).chain([UNKNOWN]).collect();
        dots.sort_unstable();
        dots.dedup();
        assert_eq!(dots.len(), GLYPHS.len() + 1);
    }
}
