//! The calm screen: what a person in front of the machine wants to know, in one picture.
//!
//! In: a [`View`]: how far the boot is, how fast, and the size of the console. Out: its rows, with the escape sequences of
//! console_codes(4) for colours and no others. Pure: the same view is the same picture. A console that is too
//! small shows less of it, and a large one larger letters.

use std::time::Duration;

use super::status::{Bytes, STAGES, Status, Trouble};
use super::{letters, without_controls};

/// What a stage brings, beside its name.
const BRINGS: [&str; STAGES.len()] = [
    "kernel and drivers",
    "who this machine is",
    "a server that answers",
    "what to become",
    "what it consists of",
    "where it goes",
    "the files",
    "its own program",
];
/// Columns and rows of a picture in letters of size 1.
const WIDTH: usize = 80;
const HEIGHT: usize = 25;
/// Below this nothing is in large letters.
const LEAST_HEIGHT: usize = 20;
/// Columns left and right of everything, for each size.
const MARGIN: usize = 2;
/// Hexadecimal digits beyond this tell a person nothing.
const LONG_WORD: usize = 24;
/// What stands for what is cut off.
const CUT: &str = "...";
/// Where values stand behind their names.
const VALUES: usize = 10;

/// What is to be drawn.
pub struct View<'a> {
    /// How far the boot is.
    pub status: &'a Status,
    /// Bytes a second, if that can be said.
    pub rate: Option<u64>,
    /// The newest line of the log.
    pub newest: &'a str,
    /// Since the kernel started.
    pub now: Duration,
    /// Of the console.
    pub columns: usize,
    /// Of the console; the last one stays empty, for the kernel's last words.
    pub rows: usize,
}

/// A colour, by its parameters of `ESC [ … m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    Plain,
    Bright,
    Dim,
    Good,
    Bad,
    Busy,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Bright => "0;1;37",
            Self::Dim => "0;1;30",
            Self::Good => "0;32",
            Self::Bad => "0;1;31",
            Self::Busy => "0;1;33",
        }
    }
}

/// The rows of the picture; those that are missing are empty.
#[must_use]
pub fn rows(view: &View<'_>) -> Vec<String> {
    let size = (view.columns / WIDTH).min(view.rows / HEIGHT).max(1);
    let margin = if view.columns >= WIDTH { MARGIN * size } else { 0 };
    let width = view.columns.min(WIDTH * size) - 2 * margin;
    let mut page = Page { size, width, has_room: view.rows >= LEAST_HEIGHT, lines: Vec::new() };
    page.head(view.status);
    match &view.status.failure {
        Some(trouble) => page.trouble(trouble, view),
        None => page.progress(view),
    }
    let height = view.rows.saturating_sub(1);
    let mut foot = page.begun_anew();
    foot.foot(view);
    foot.lines.truncate(height);
    page.lines.truncate(height.saturating_sub(foot.lines.len()));
    // In the upper half of what is free: that is where eyes look first.
    let free = height - foot.lines.len() - page.lines.len();
    let above = free / 3;
    let left = (view.columns - width) / 2;
    let blank = |count| std::iter::repeat_with(Line::default).take(count);
    let lines = blank(above).chain(page.lines).chain(blank(free - above)).chain(foot.lines);
    lines.map(|line| line.encode(left, view.columns)).collect()
}

/// One row: where something stands, in which colour, and what.
#[derive(Default)]
struct Line(Vec<(usize, Paint, String)>);

impl Line {
    fn of(paint: Paint, text: impl Into<String>) -> Self {
        Self(vec![(0, paint, text.into())])
    }

    fn at(mut self, column: usize, paint: Paint, text: impl Into<String>) -> Self {
        self.0.push((column, paint, text.into()));
        self
    }

    /// What stands further right comes later; what would overlap moves on.
    fn encode(&self, left: usize, columns: usize) -> String {
        let (mut row, mut column) = (String::new(), 0);
        for (start, paint, text) in &self.0 {
            let gap = (left + start).saturating_sub(column).min(columns - column);
            // What servers, media and the kernel say is in here: it may draw nothing of its own.
            let text = without_controls(&cut(text, columns - column - gap));
            row.push_str(&" ".repeat(gap));
            column += gap + text.chars().count();
            row.push_str(&format!("\x1b[{}m{text}\x1b[0m", paint.code()));
        }
        row
    }
}

/// Lines from top to bottom.
struct Page {
    size: usize,
    width: usize,
    has_room: bool,
    lines: Vec<Line>,
}

impl Page {
    fn begun_anew(&self) -> Self {
        Self { lines: Vec::new(), ..*self }
    }

    fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    fn blank(&mut self) {
        if self.has_room {
            self.add(Line::default());
        }
    }

    /// Two texts in one line, the second at its end.
    fn ends(&self, left: (Paint, &str), right: (Paint, &str)) -> Line {
        let room = self.width.saturating_sub(left.1.chars().count() + 1);
        let right = (right.0, cut(right.1, room));
        let column = self.width - right.1.chars().count();
        Line::of(left.0, left.1).at(column, right.0, right.1)
    }

    fn head(&mut self, status: &Status) {
        let attempt = format!("attempt {}   ", status.attempt);
        let attempt = if status.attempt > 1 { attempt.as_str() } else { "" };
        let right = format!("{attempt}{}", status.identity);
        self.add(self.ends((Paint::Bright, "zstrap"), (Paint::Plain, &right)));
        self.add(Line::of(Paint::Dim, "─".repeat(self.width)));
        self.blank();
    }

    /// As lines of the console's own letters, or of larger ones where that is little to read from afar.
    fn text(&mut self, paint: Paint, text: &str, lines: usize) {
        if self.size == 1 {
            wrap(text, self.width, lines).into_iter().for_each(|line| self.add(Line::of(paint, line)));
            return;
        }
        // The widest lines of which none is too wide: letters differ.
        let most = (self.width + 1) / (letters::width(" ", 1) + 1);
        let fits = |line: &String| letters::width(line, 1) <= self.width;
        let wrapped = (1..=most).rev().map(|columns| wrap(text, columns, lines));
        for line in wrapped.into_iter().find(|lines| lines.iter().all(fits)).unwrap_or_default() {
            letters::small(&line).into_iter().for_each(|row| self.add(Line::of(paint, row)));
            self.blank();
        }
    }

    /// As large as it fits, else as it is.
    fn large(&self, text: &str) -> Vec<String> {
        match (1..=self.size).rev().find(|size| letters::width(text, 2 * size) <= self.width) {
            Some(size) if self.has_room => letters::large(text, size),
            _ => vec![text.to_owned()],
        }
    }

    fn progress(&mut self, view: &View<'_>) {
        let status = view.status;
        let title = if status.description.is_empty() { "starting" } else { &status.description };
        self.text(Paint::Bright, title, 2);
        self.blank();
        let first = self.lines.len();
        let stages = if self.has_room { 0..STAGES.len() } else { status.running..status.running + 1 };
        stages.for_each(|place| self.stage(place, view));
        self.blank();
        if status.bytes.total > 0 {
            self.percent(first, status.bytes);
            self.bytes(status.bytes, view.rate);
        }
        self.facts(&status.facts);
    }

    fn stage(&mut self, place: usize, view: &View<'_>) {
        let Status { running, since, took, .. } = view.status;
        let (name, brings) = (STAGES[place], BRINGS[place]);
        let (mark, paint, time) = match took[place] {
            Some(time) => ("√", Paint::Plain, format!("{:6.1} s", time.as_secs_f64())),
            None if place == *running => {
                ("►", Paint::Bright, format!("{:6} s", view.now.saturating_sub(*since).as_secs()))
            }
            None => (" ", Paint::Dim, String::new()),
        };
        let marks = if place == *running { Paint::Busy } else { Paint::Good };
        let line = Line::of(marks, mark).at(2, paint, name);
        // A narrow console has no room for more than names.
        let line = if self.width > 44 {
            line.at(12, paint, brings).at(34, paint, time)
        } else {
            line.at(12, paint, time)
        };
        self.add(line);
    }

    /// Beside the stages, at the right edge.
    fn percent(&mut self, first: usize, bytes: Bytes) {
        let text = format!("{}%", bytes.done.min(bytes.total) * 100 / bytes.total);
        let column = self.width.saturating_sub(letters::width(&text, 2));
        let has_room = self.has_room && column > 44;
        let rows = if has_room { letters::large(&text, 1) } else { Vec::new() };
        // Not for emptiness: the page ends where it ends.
        for (line, row) in self.lines.iter_mut().skip(first + 2).zip(rows) {
            line.0.push((column, Paint::Bright, row));
        }
    }

    fn bytes(&mut self, bytes: Bytes, rate: Option<u64>) {
        let (done, total) = (bytes.done.min(bytes.total), bytes.total);
        let filled = usize::try_from(done * self.width as u64 / total).unwrap_or(0);
        let rest = "░".repeat(self.width - filled);
        self.add(Line::of(Paint::Good, "█".repeat(filled)).at(filled, Paint::Dim, rest));
        let mut text = amount_of(done, total);
        if let Some(rate) = rate.filter(|rate| *rate > 0) {
            let left = Duration::from_secs((total - done).div_ceil(rate));
            text.push_str(&format!("   {}/s   {} left", amount(rate), time_left(left)));
        }
        let received = format!("received {}", amount(bytes.received));
        self.add(self.ends((Paint::Bright, &text), (Paint::Plain, &received)));
        self.blank();
    }

    fn facts(&mut self, facts: &[(&'static str, String)]) {
        for (name, value) in facts {
            let value = cut(value, self.width.saturating_sub(VALUES));
            self.add(Line::of(Paint::Plain, *name).at(VALUES, Paint::Bright, value));
        }
    }

    fn trouble(&mut self, trouble: &Trouble, view: &View<'_>) {
        for row in self.large(&trouble.code) {
            self.add(Line::of(Paint::Bad, row));
        }
        self.blank();
        self.text(Paint::Bright, &readable(&trouble.sentence), 3);
        self.blank();
        let advice = format!("try: {}", trouble.advice);
        wrap(&advice, self.width, 2).into_iter().for_each(|line| self.add(Line::of(Paint::Plain, line)));
        self.blank();
        if let Some((next, at)) = view.status.next {
            self.countdown(next, at.saturating_sub(view.now));
            self.blank();
        }
        let stage = STAGES[view.status.running];
        let mut facts = format!("stage {stage}");
        for (_, value) in &view.status.facts {
            // The first of what is known of it: the address, not its gateway.
            facts.push_str(&format!("   {}", value.split(' ').next().unwrap_or_default()));
        }
        self.add(Line::of(Paint::Plain, cut(&facts, self.width)));
    }

    fn countdown(&mut self, next: &str, left: Duration) {
        let left = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let what = format!("{next} {}", if left > 0 { "in" } else { "now" });
        let text = if left < 100 { left.to_string() } else { format!("{}:{:02}", left / 60, left % 60) };
        let rows = if left > 0 { self.large(&text) } else { Vec::new() };
        let middle = rows.len() / 2;
        // As many rows when nothing is left to count, so that the picture stands still.
        let count = if self.has_room { self.large("0").len() } else { 1 };
        for place in 0..count {
            let mut line = Line::default();
            if place == if rows.is_empty() { count / 2 } else { middle } {
                line = Line::of(Paint::Bright, what.as_str());
            }
            if let Some(row) = rows.get(place) {
                line = line.at(16, Paint::Busy, row.as_str());
            }
            self.add(line);
        }
    }

    fn foot(&mut self, view: &View<'_>) {
        if view.status.failure.is_none() {
            self.add(Line::of(Paint::Plain, cut(view.newest, self.width)));
        }
        self.add(self.ends((Paint::Plain, ""), (Paint::Plain, "any key: the log")));
    }
}

/// The first so many characters; what is cut off is told by dots, as a VGA has no ellipsis.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let dots = CUT.len().min(columns);
    text.chars().take(columns - dots).chain(CUT.chars().take(dots)).collect()
}

/// Lines of so many columns, broken at blanks.
fn wrap(text: &str, columns: usize, lines: usize) -> Vec<String> {
    let mut wrapped: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match wrapped.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => wrapped.push(cut(word, columns)),
        }
    }
    if wrapped.len() > lines
        && let Some(last) = wrapped.get_mut(lines.saturating_sub(1))
    {
        *last = cut(&format!("{last} {CUT}"), columns);
    }
    wrapped.truncate(lines);
    wrapped
}

/// A sentence without what only programs compare: of a digest its beginning.
fn readable(sentence: &str) -> String {
    let is_digest = |word: &str| word.len() > LONG_WORD && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let short = |word: &str| match word.trim_end_matches([',', ';', ':']) {
        digest if is_digest(digest) => format!("{}{CUT}{}", &digest[..8], &word[digest.len()..]),
        _ => word.to_owned(),
    };
    sentence.split(' ').map(short).collect::<Vec<_>>().join(" ")
}

fn amount(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < MIB {
        return format!("{} KiB", bytes.div_ceil(1024));
    }
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}

/// In the unit of the whole.
fn amount_of(done: u64, total: u64) -> String {
    let total_text = amount(total);
    match total_text.strip_suffix(" MiB") {
        Some(_) => format!("{:.1} of {total_text}", done as f64 / f64::from(1 << 20)),
        None => format!("{} of {total_text}", done / 1024),
    }
}

fn time_left(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status() -> Status {
        let mut status =
            Status { attempt: 1, running: 6, since: Duration::from_secs(4), ..Status::default() };
        status.description = "The demo of zstrap".to_owned();
        status.identity = "farmer-7   pool-11".to_owned();
        status.took = [Some(Duration::from_millis(400)); STAGES.len()];
        (status.took[6], status.took[7]) = (None, None);
        status.facts = vec![("link", "eth0".to_owned()), ("address", "10.0.2.15/24".to_owned())];
        status.bytes = Bytes { total: 40 << 20, done: 10 << 20, received: 5 << 20 };
        status
    }

    fn failed() -> Status {
        let trouble = Trouble {
            code: "ZS-FETCH-03".to_owned(),
            sentence: format!(
                "./sbin/hello has SHA-256 {}, the list says {}",
                "56a1".repeat(16),
                "4e85".repeat(16)
            ),
            advice: "the server's copy was changed after signing: publish anew, and find out who changed it"
                .to_owned(),
        };
        Status { failure: Some(trouble), next: Some(("next try", Duration::from_secs(20))), ..status() }
    }

    /// The picture without its colours.
    fn drawn(status: &Status, columns: usize, rows: usize) -> Vec<String> {
        let newest = "fetch: progress done=10MiB of=40MiB";
        let now = Duration::from_millis(8_500);
        let view = View { status, rate: Some(3 << 20), newest, now, columns, rows };
        let plain = |row: String| {
            let mut parts = row.split("\x1b[");
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |text, part| text + part.split_once('m').unwrap().1)
        };
        super::rows(&view).into_iter().map(plain).collect()
    }

    fn has(rows: &[String], text: &str) {
        assert!(rows.iter().any(|row| row.contains(text)), "no {text:?} in\n{}", rows.join("\n"));
    }

    #[test]
    fn a_boot_shows_what_is_done_what_runs_and_how_long_that_takes() {
        let rows = drawn(&status(), 80, 25);
        for text in [
            "zstrap",
            "farmer-7   pool-11",
            "The demo of zstrap",
            "√ network   a server that answers    0.4 s",
            "► fetch     the files                  4 s",
            "10.0 of 40.0 MiB   3.0 MiB/s   10 s left",
            "received 5.0 MiB",
            "link      eth0",
            "address   10.0.2.15/24",
            "fetch: progress done=10MiB of=40MiB",
            "██████  ██████", // 25
            "any key: the log",
        ] {
            has(&rows, text);
        }
        assert!(!rows.iter().any(|row| row.contains("√ fetch") || row.contains("► handoff")));
    }

    #[test]
    fn a_failure_shows_its_code_sentence_and_countdown() {
        let rows = drawn(&failed(), 80, 25);
        let large = letters::large("ZS-FETCH-03", 1);
        assert!(large[0].chars().count() > 76, "a code that is too wide for these letters");
        has(&rows, "ZS-FETCH-03");
        has(&rows, "./sbin/hello has SHA-256 56a156a1..., the list says 4e854e85...");
        has(&rows, "try: the server's copy was changed after signing");
        has(&rows, "next try in");
        letters::large("12", 1).iter().for_each(|row| has(&rows, row));
        let status = Status {
            failure: Some(Trouble { code: "ZS-NET-03".to_owned(), ..Trouble::default() }),
            ..failed()
        };
        letters::large("ZS-NET-03", 1).iter().for_each(|row| has(&drawn(&status, 80, 25), row));
    }

    #[test]
    fn a_countdown_of_minutes_is_one() {
        let next = Some(("reboot", Duration::from_secs(8 + 125)));
        let rows = drawn(&Status { next, ..failed() }, 80, 25);
        has(&rows, "reboot in");
        letters::large("2:05", 1).iter().for_each(|row| has(&rows, row));
        let next = Some(("reboot", Duration::from_secs(5)));
        has(&drawn(&Status { next, ..failed() }, 80, 25), "reboot now");
    }

    #[test]
    fn letters_grow_with_the_console() {
        let code = |size| letters::large("ZS-NET-03", size);
        let trouble =
            Trouble { code: "ZS-NET-03".to_owned(), sentence: "no lease".to_owned(), ..Trouble::default() };
        let status = Status { failure: Some(trouble), ..failed() };
        for (columns, rows, size) in [(80, 25, 1), (128, 48, 1), (160, 50, 2), (240, 67, 2), (480, 135, 5)] {
            code(size).iter().for_each(|row| has(&drawn(&status, columns, rows), row));
        }
        letters::small("no lease").iter().for_each(|row| has(&drawn(&status, 240, 67), row.trim_end()));
    }

    #[test]
    fn no_text_of_others_moves_the_cursor() {
        let evil = || "a\x1b[2Jb\u{9b}2Jc\r\n\x07".to_owned();
        let trouble = Trouble { code: evil(), sentence: evil(), advice: evil() };
        let good = Status {
            description: evil(),
            identity: evil(),
            facts: vec![("link", evil()), ("address", evil())],
            ..status()
        };
        let bad = Status { failure: Some(trouble), ..good.clone() };
        for (status, (columns, rows)) in
            [good, bad].iter().flat_map(|s| [(80, 25), (40, 12), (240, 67)].map(|z| (s, z)))
        {
            let newest = evil();
            let view = View { status, rate: None, newest: &newest, now: Duration::ZERO, columns, rows };
            let text = super::rows(&view).concat();
            let parts: Vec<&str> = text.split("\x1b[").collect();
            let is_color = |part: &&str| {
                part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
            };
            assert!(parts[1..].iter().all(is_color), "{text:?}");
            assert!(!text.replace("\x1b[", "").contains(char::is_control), "{text:?}");
        }
    }

    /// Nothing may be cut or wrap, least of all because a console is small.
    #[test]
    fn every_picture_fits_its_console() {
        let long = Status { description: "a very long word ".repeat(20), ..status() };
        for status in [status(), failed(), long, Status::default()] {
            for columns in [1, 2, 10, 40, 79, 80, 81, 100, 160, 240, 500] {
                for rows in [1, 2, 5, 10, 19, 20, 24, 25, 30, 50, 67, 200] {
                    let drawn = drawn(&status, columns, rows);
                    assert_eq!(drawn.len(), rows - 1, "{columns}x{rows}");
                    assert!(drawn.iter().all(|row| row.chars().count() <= columns), "{columns}x{rows}");
                }
            }
        }
    }

    #[test]
    fn the_most_important_is_there_on_a_small_console() {
        let rows = drawn(&failed(), 40, 12);
        ["ZS-FETCH-03", "has SHA-256", "next try in", "12"].iter().for_each(|text| has(&rows, text));
        has(&drawn(&status(), 40, 12), "► fetch");
    }

    #[test]
    fn long_texts_end_with_dots() {
        assert_eq!(wrap("one two three four", 9, 9), ["one two", "three", "four"]);
        assert_eq!(wrap("one two three four", 9, 2), ["one two", "three ..."]);
        assert_eq!(wrap("unbreakable", 5, 2), ["un..."]);
        assert_eq!(wrap("", 5, 2), [""; 0]);
    }
}
