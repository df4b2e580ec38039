//! `zstrap serve`, by the real program and curl.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use support::{Work, done, refused};

/// A server that is killed when the test ends before it.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(work: &Work) -> Self {
        Self::spawn(work.zstrap(&["serve", "site", "--listen", "127.0.0.1:0"]))
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Server { child, url: url.trim_end().to_owned() }
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits at most 15 s; returns the exit code and what was said.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(15);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
    }
}

#[test]
fn serves_what_was_published_and_ends_on_sigterm() {
    let work = Work::new();
    work.write("tree/a", "content");
    done(work.publish(&[]));
    let server = Server::start(&work);
    assert!(server.url.starts_with("http://127.0.0.1:"), "{}", server.url);
    let get = |path: &str| {
        let url = format!("{}/{path}", server.url);
        done(work.command("curl", &["--noproxy", "*", "-sS", "--fail", "--max-time", "10", &url]))
    };
    let serial = get("bundles/demo/amd64/latest");
    let list = get(&format!("bundles/demo/amd64/{}.mtree", serial.trim()));
    assert_eq!(list.as_bytes(), work.read(work.list()));
    let hash = list.split("sha256digest=").nth(1).unwrap().trim();
    assert_eq!(get(&format!("blobs/sha256/{hash}")), "content");
    server.signal(Signal::TERM);
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("GET /bundles/demo/amd64/latest 200 11 "), "{said}");
}

#[test]
fn ends_on_sigint() {
    let work = Work::new();
    work.write("site/configs.json", "{}");
    let server = Server::start(&work);
    server.signal(Signal::INT);
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn refuses_a_site_that_is_not_there_and_a_port_that_is_taken() {
    let work = Work::new();
    let said = refused(work.zstrap(&["serve", "nowhere", "--listen", "127.0.0.1:0"]));
    assert!(said.starts_with("zstrap: opening site nowhere: "), "{said}");
    work.write("site/configs.json", "{}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let said = refused(work.zstrap(&["serve", "site", "--listen", &addr]));
    assert!(said.starts_with(&format!("zstrap: listening on {addr}: ")), "{said}");
}

#[test]
fn the_limit_of_open_files_is_raised_and_connections_are_held_below_it() {
    let work = Work::new();
    work.write("site/configs.json", "{}");
    let mut limited = work.command("sh", &["-c", "ulimit -Sn 100; ulimit -Hn 200; exec \"$@\"", "sh"]);
    limited.args([support::ZSTRAP, "serve", "site", "--listen", "127.0.0.1:0"]);
    let server = Server::spawn(limited);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["200", "200"], "{line}");
    server.signal(Signal::TERM);
    let (_, said) = server.end();
    assert!(said.contains("at most 68 connections at a time, not 4096"), "{said}");
}
