//! Start, limits and stop of the server.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use support::{LATEST, Server, small_site};
use zstrap_server::{Limits, Phase};

const BIG: u64 = 64 * 1024 * 1024;

fn limits() -> Limits {
    Limits {
        head: Duration::from_millis(300),
        stall: Duration::from_secs(1),
        drain: Duration::from_secs(2),
        ..Limits::default()
    }
}

fn started(limits: Limits) -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    small_site(folder.path(), &[]);
    // Sparse, and larger than the socket buffers of both ends.
    let big = std::fs::File::create(folder.path().join("images/big.img")).unwrap();
    big.write_all_at(b"the end", BIG - 7).unwrap();
    let server = Server::start_with(folder.path(), limits);
    (folder, server)
}

/// Asks for the big file and takes its first KiB only.
fn begin_big(server: &Server) -> std::net::TcpStream {
    let mut stream = server.connect();
    stream.write_all(b"GET /images/big.img HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1024]).unwrap();
    stream
}

#[test]
fn refuses_a_site_that_is_no_folder() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_sender, phase) = tokio::sync::watch::channel(Phase::Run);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let served = zstrap_server::serve(file.path().into(), any, limits(), phase, |_| panic!("bound"));
    let error = runtime.block_on(served).unwrap_err();
    assert!(error.to_string().ends_with("expected a folder"), "{error}");
}

#[test]
fn closes_a_connection_whose_head_does_not_come() {
    let (_folder, server) = started(limits());
    let mut stream = server.connect();
    stream.write_all(b"GET /configs.json HTTP/1.1\r\nHost:").unwrap();
    let started = Instant::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn closes_a_kept_connection_that_stays_idle() {
    let (_folder, server) = started(limits());
    let mut stream = server.connect();
    stream.write_all(format!("GET {LATEST} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    let started = Instant::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("17\n"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn closes_a_connection_whose_client_takes_nothing() {
    let (_folder, server) = started(limits());
    let stalled = begin_big(&server);
    // Longer than the limit and the kernel's probes; then the stop finds nothing left to wait for.
    std::thread::sleep(Duration::from_secs(4));
    server.enter(Phase::Drain);
    let started = Instant::now();
    server.join().unwrap();
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    drop(stalled);
}

#[test]
fn refuses_a_head_without_end() {
    let (_folder, server) = started(limits());
    let mut stream = server.connect();
    // No byte more than the server reads: what is left unread at the close would reset the connection, and the
    // answer could be lost.
    let mut head = b"GET /configs.json HTTP/1.1\r\nHost: t\r\nX: ".to_vec();
    head.resize(16 * 1024, b'x');
    stream.write_all(&head).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(server.get(LATEST).status, 200);
}

#[test]
fn a_stop_finishes_what_is_in_flight_and_accepts_no_more() {
    let (_folder, server) = started(Limits { drain: Duration::from_secs(10), ..limits() });
    let mut stream = begin_big(&server);
    let addr = server.addr;
    server.enter(Phase::Drain);
    std::thread::sleep(Duration::from_millis(200));
    assert!(std::net::TcpStream::connect(addr).is_err());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    // The first KiB held the head of the answer, too.
    assert!(rest.len() as u64 > BIG - 1024 && rest.ends_with(b"\0the end"));
    server.join().unwrap();
}

#[test]
fn a_stop_waits_no_longer_than_its_limit() {
    let (_folder, server) = started(Limits { stall: Duration::from_secs(60), ..limits() });
    let stalled = begin_big(&server);
    let started = Instant::now();
    server.enter(Phase::Drain);
    server.join().unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(5), "{took:?}");
    drop(stalled);
}

#[test]
fn a_second_stop_ends_at_once() {
    let (_folder, server) =
        started(Limits { stall: Duration::from_secs(60), drain: Duration::from_secs(15), ..limits() });
    let stalled = begin_big(&server);
    server.enter(Phase::Drain);
    std::thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    server.enter(Phase::End);
    server.join().unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(stalled);
}

#[test]
fn clients_beyond_the_limit_wait_for_a_place() {
    let (_folder, server) = started(Limits { connections: 1, ..limits() });
    let started = Instant::now();
    let first = server.connect();
    // The first says nothing and holds the only place until its head is overdue.
    let reply = server.get(LATEST);
    assert_eq!(reply.status, 200);
    let took = started.elapsed();
    assert!(took >= limits().head, "a place was free after {took:?}, while the first still held it");
    drop(first);
}
