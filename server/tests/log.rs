//! The access log: one line a request, whatever the request was.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Mutex;
use std::time::{Duration, Instant};
use support::{LATEST, Server, small_site};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Keep;

impl log::Log for Keep {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LINES.lock().unwrap().push(record.args().to_string());
    }
    fn flush(&self) {}
}

/// The line that begins with `start`, within 5 s: it is written when the body has been handed over.
fn line(start: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(line) = LINES.lock().unwrap().iter().find(|line| line.starts_with(start)) {
            return line.clone();
        }
        assert!(Instant::now() < deadline, "no line begins with {start:?}: {:?}", LINES.lock().unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn logs_method_path_status_bytes_and_time() {
    log::set_logger(&Keep).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let folder = tempfile::tempdir().unwrap();
    small_site(folder.path(), &[]);
    let server = Server::start(folder.path());
    server.get(LATEST);
    server.raw(&["HEAD /configs.json HTTP/1.1"]);
    server.get("/blobs/%2e%2e/x");
    assert!(line(&format!("GET {LATEST} 200 3 ")).ends_with("ms"));
    line("HEAD /configs.json 200 0 ");
    line("GET /blobs/%2e%2e/x 404 10 ");
    // What the server says of itself at its start is no request.
    assert_eq!(LINES.lock().unwrap().iter().filter(|line| line.ends_with("ms")).count(), 3);
}
